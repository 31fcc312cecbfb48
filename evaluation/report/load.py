"""Read a run of `palette evaluate surveys`: every row checked, scored, and put where tables can find it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cultural_palette.artifacts import CONFIG, MANIFEST, ROWS, RunFolder
from cultural_palette.distributions import TOLERANCE
from cultural_palette.errors import ArtifactError, UsageError
from cultural_palette.evaluation.report.floors import Floor, floors_of
from cultural_palette.evaluation.report.scores import alignment_table
from cultural_palette.jsonl import parse_object, read_object

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cultural_palette.cultural_map import CulturalMap

KIND = "survey-evaluation"
MISSING, OK, UNREADABLE, FAILED = 0, 1, 2, 3
STATUSES = {"ok": OK, "unreadable": UNREADABLE, "failed": FAILED}
TEXT, NUMBER = (str,), (int, float)
FIELDS: Mapping[str, tuple[type, ...]] = {
    "method": TEXT, "run": (int,), "item": TEXT, "question_id": TEXT, "country": TEXT, "question": TEXT,
    "options": (list,), "gold": (list,), "status": TEXT,
}  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One question in one country, as every row of it tells it."""

    id: str
    question_id: str
    country: str
    question: str
    options: tuple[str, ...]
    gold: tuple[float, ...]


@dataclass
class Said:
    """How a method's rows were read and what they cost: rows by readout, the probability that fell on options
    at all (sum and rows that know it), and model calls needed (shared or not).
    """

    readouts: Counter[str] = field(default_factory=Counter)
    mass: float = 0.0
    mass_rows: int = 0
    calls_needed: int = 0

    def take(self, row: Row) -> None:
        """Count one row."""
        calls = row.get("calls") or {}
        self.calls_needed += sum((calls.get("needed") or {}).values())
        if row["status"] != "ok":
            return
        self.readouts[str(row.get("readout", "none"))] += 1
        if isinstance(mass := row.get("option_mass"), NUMBER):
            self.mass += mass
            self.mass_rows += 1

    @property
    def option_mass(self) -> float | None:
        """Mean probability (0..1) of answering with an option; None where no row says."""
        return self.mass / self.mass_rows if self.mass_rows else None


@dataclass(frozen=True)
class Evaluation:
    """A run's rows by (method, run, item). `scores`: alignment -> values 0..100, NaN unless `status` is OK.

    `status`: MISSING, OK, UNREADABLE or FAILED; `line`: of rows.jsonl, from 1, 0 where missing; `predicted`:
    (method, run, item, option), 0 past an item's last option. `manifest` is empty in a `partial` run.
    `never_asked`: items that the manifest counts and no row names.
    """

    path: Path
    manifest: Mapping[str, Any]
    partial: bool
    methods: tuple[str, ...]
    runs: int
    items: tuple[Item, ...]
    never_asked: int
    status: NDArray[np.int8]
    line: NDArray[np.int64]
    degraded: NDArray[np.bool_]
    predicted: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float64]]
    floors: tuple[Floor, ...]
    said: Mapping[str, Said]

    @property
    def countries(self) -> tuple[str, ...]:
        """In the order of the items."""
        return tuple(dict.fromkeys(item.country for item in self.items))

    def rows_at(self, lines: Sequence[int]) -> dict[int, Row]:
        """The whole rows at these lines of rows.jsonl."""
        wanted, found = set(lines), {}
        with (self.path / ROWS).open("rb") as file:
            for number, line in enumerate(file, 1):
                if number in wanted:
                    found[number] = parse_object(line, half_pairs=True)
        return found


def load_evaluation(path: Path, cultural_map: CulturalMap, *, partial: bool = False) -> Evaluation:
    """Read and check a survey run. Raises ArtifactError with file and line for a row that can not be right,
    and UsageError for an unfinished run unless `partial`.
    """
    import numpy as np

    manifest = read_manifest(path, KIND, partial=partial)
    reader = _Reader(path / ROWS, tuple(manifest["methods"]) if manifest else None, manifest.get("runs"))
    for number, row in enumerate(RunFolder(path).rows(), 1):
        reader.take(row, number)
    if not reader.cells:
        raise ArtifactError(f"{path / ROWS} has no rows: there is nothing to report.")
    methods = tuple(manifest.get("methods") or _begun_with(path) or reader.seen)
    items = tuple(sorted(reader.items.values(), key=_order(cultural_map, reader.items.values())))
    expected = manifest.get("items", len(items))
    if len(items) > expected:
        raise ArtifactError(f"{path / ROWS} has {len(items)} items, but {MANIFEST} says {expected}.")
    runs = manifest.get("runs") or 1 + max(run for _, run, _ in reader.cells)
    place = {item.id: index for index, item in enumerate(items)}
    row_of = {method: index for index, method in enumerate(methods)}
    shape = (len(methods), runs, len(items))
    where = np.array([(row_of[m], r, place[i]) for m, r, i in reader.cells], dtype=np.int64).T
    status, line = np.zeros(shape, dtype=np.int8), np.zeros(shape, dtype=np.int64)
    degraded = np.zeros(shape, dtype=bool)
    widest = max(len(item.options) for item in items)
    predicted, gold = np.zeros((*shape, widest)), np.zeros((len(items), widest))
    for index, item in enumerate(items):
        gold[index, : len(item.gold)] = item.gold
    cells = list(reader.cells.values())
    status[tuple(where)] = [cell.status for cell in cells]
    line[tuple(where)] = [cell.line for cell in cells]
    degraded[tuple(where)] = [cell.degraded for cell in cells]
    predicted[tuple(where)] = [cell.predicted + (0.0,) * (widest - len(cell.predicted)) for cell in cells]
    scores = {
        key: np.where(status == OK, table, np.nan) for key, table in alignment_table(gold, predicted).items()
    }
    return Evaluation(
        path=path, manifest=manifest, partial=not manifest, methods=methods, runs=runs, items=items,
        never_asked=expected - len(items), status=status, line=line, degraded=degraded, predicted=predicted,
        scores=scores, floors=floors_of(path, list(place), [len(item.options) for item in items], gold),
        said=reader.said,
    )  # fmt: skip


def read_manifest(path: Path, kind: str, *, partial: bool) -> dict[str, Any]:
    """The manifest of a finished run of that kind; empty for an unfinished one with `partial`."""
    if not (path / ROWS).exists():
        raise UsageError(f"{path} is no run folder: it has no {ROWS}.")
    folder = RunFolder(path)
    if not folder.finished:
        if partial:
            return {}
        raise UsageError(
            f"{path} is not finished: it has no {MANIFEST}. Run the evaluation again, it goes on where it "
            "stopped; or say --partial to report what is there, marked PARTIAL."
        )
    manifest = folder.manifest
    if manifest.get("kind") != kind:
        raise UsageError(f"{path} is a run of kind {manifest.get('kind')!r}, expected {kind!r}.")
    if kind == KIND:
        for name, kinds in {"methods": (list,), "runs": (int,), "items": (int,)}.items():
            if not isinstance(manifest.get(name), kinds):
                raise ArtifactError(f"{path / MANIFEST}: {name} is {manifest.get(name)!r}.")
    return manifest


@dataclass(frozen=True)
class _Cell:
    """What of a row is kept in memory."""

    status: int
    line: int
    degraded: bool
    predicted: tuple[float, ...]


class _Reader:
    """Takes rows one by one and refuses the first that can not be right."""

    def __init__(self, file: Path, methods: tuple[str, ...] | None, runs: int | None) -> None:
        self.file, self.methods, self.runs = file, methods, runs
        self.cells: dict[tuple[str, int, str], _Cell] = {}
        self.items: dict[str, Item] = {}
        self.seen: dict[str, None] = {}
        self.said: dict[str, Said] = {}

    def take(self, row: Row, line: int) -> None:
        """Check a row and keep what tables need of it."""
        for name, kinds in FIELDS.items():
            if not isinstance(row.get(name), kinds) or isinstance(row[name], bool):
                raise self._wrong(line, f"{name} is {_short(row.get(name))}, expected {kinds[0].__name__}")
        method, run, status = row["method"], row["run"], row["status"]
        if self.methods is not None and method not in self.methods:
            known = ", ".join(self.methods)
            raise self._wrong(line, f"method {method!r} is not in {MANIFEST}, which has {known}")
        if run < 0 or (self.runs is not None and run >= self.runs):
            raise self._wrong(line, f"run {run} of {self.runs or 'an unknown number'}, counted from 0")
        if status not in STATUSES:
            raise self._wrong(line, f"status {status!r}, expected one of {', '.join(STATUSES)}")
        item = self._item(row, line)
        key = (method, run, item.id)
        if key in self.cells:
            first = self.cells[key].line
            raise self._wrong(line, f"{method}, run {run}, item {item.id} stands in line {first} already")
        predicted: tuple[float, ...] = ()
        if status == "ok":
            predicted = self._shares(row.get("predicted"), "predicted", len(item.options), line)
        self.cells[key] = _Cell(STATUSES[status], line, bool(row.get("degraded")), predicted)
        self.seen.setdefault(method)
        self.said.setdefault(method, Said()).take(row)

    def _item(self, row: Row, line: int) -> Item:
        known = self.items.get(row["item"])
        if known is None:
            known = self._new_item(row, line)
            self.items[known.id] = known
        elif (
            known.question != row["question"]
            or list(known.options) != row["options"]
            or list(known.gold) != row["gold"]
        ):
            raise self._wrong(line, f"item {known.id} has another question, options or gold than before")
        return known

    def _new_item(self, row: Row, line: int) -> Item:
        question_id, country = row["question_id"], row["country"]
        if row["item"] != f"{question_id}/{country}":
            raise self._wrong(line, f"item {row['item']!r} is not {question_id}/{country}")
        options = row["options"]
        if not options or not all(isinstance(option, str) for option in options):
            raise self._wrong(line, f"options are {_short(options)}, expected texts")
        gold = self._shares(row["gold"], "gold", len(options), line)
        return Item(row["item"], question_id, country, row["question"], tuple(options), gold)

    def _shares(self, values: Any, name: str, size: int, line: int) -> tuple[float, ...]:
        if not isinstance(values, list) or len(values) != size:
            raise self._wrong(line, f"{name} is {_short(values)}, expected {size} numbers, one an option")
        for value in values:
            if not isinstance(value, NUMBER) or not -TOLERANCE <= value <= 1 + TOLERANCE:
                raise self._wrong(line, f"{name} has {_short(value)}, expected numbers from 0 to 1")
        if abs(math.fsum(values) - 1) > TOLERANCE:
            raise self._wrong(line, f"{name} sums to {math.fsum(values):.6g}, expected 1")
        return tuple(values)

    def _wrong(self, line: int, what: str) -> ArtifactError:
        return ArtifactError(f"{self.file}:{line}: {what}. Mend that line, or run the evaluation again.")


def _begun_with(path: Path) -> list[str] | None:
    """The methods an unfinished run was begun with, if it says so."""
    try:
        methods = read_object(path / CONFIG).get("methods")
    except (OSError, ValueError):
        return None
    return methods if isinstance(methods, list) and all(isinstance(m, str) for m in methods) else None


def _order(cultural_map: CulturalMap, items: Any) -> Any:
    """Countries by community as the paper lists them, then alphabetically; questions by id."""
    from cultural_palette.evaluation.selection import PAPER

    places = {code: place for place, code in enumerate(PAPER)}
    codes = sorted({item.country for item in items}, key=lambda code: (places.get(code, len(PAPER)), code))
    homes = [cultural_map.community_of(code) for code in codes]
    communities = list(dict.fromkeys(home.key for home in homes if home))
    rank = {
        code: (communities.index(home.key) if home else len(communities), place)
        for place, (code, home) in enumerate(zip(codes, homes, strict=True))
    }
    return lambda item: (rank[item.country], item.question_id)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
