"""Read a run of `palette evaluate surveys`: every row checked, scored, and put where tables can find it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cultural_palette.artifacts import CONFIG, MANIFEST, ROWS, RunFolder
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import ArtifactError, UsageError
from cultural_palette.evaluation import predictions
from cultural_palette.evaluation.metrics import Floats, alignment_table
from cultural_palette.evaluation.report.floors import Floor, floors_of
from cultural_palette.evaluation.selection import PAPER
from cultural_palette.jsonl import parse_object, read_object
from cultural_palette.shapes import of_shape

KIND = "survey-evaluation"
MISSING, OK, UNREADABLE, FAILED = 0, 1, 2, 3
STATUSES = dict(zip(predictions.STATUSES, (OK, UNREADABLE, FAILED), strict=True))


@dataclass(frozen=True)
class Item:
    """One question in one country, as every row of it has it."""

    id: str
    question_id: str
    battery: str
    survey: str
    country: str
    question: str
    options: tuple[str, ...]
    ordered: bool | None
    gold: tuple[float, ...]
    topic: str | None = None
    population: tuple[tuple[str, Any], ...] = ()
    respondents: float | None = None
    labelled: bool = False


@dataclass
class Readouts:
    """How a method's answers were read and what they cost: ok rows by readout and by number of option
    orders, means over the ok rows that know them, and model calls needed (shared or not).
    """

    methods: Counter[str] = field(default_factory=Counter)
    orders: Counter[int] = field(default_factory=Counter)
    option_mass: Mean = field(default_factory=lambda: Mean())
    order_spread: Mean = field(default_factory=lambda: Mean())
    calls_needed: int = 0

    def take(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.calls_needed += sum((row["calls"].get("needed") or {}).values())
        if row["status"] != "ok":
            return
        self.methods[row["readout"]] += 1
        self.orders[row["orders"]] += 1
        self.option_mass.take(row["option_mass"])
        self.order_spread.take(row["order_spread"])


@dataclass
class Mean:
    """A mean that is taken number by number; None where there was none."""

    total: float = 0.0
    count: int = 0

    def take(self, number: float | None) -> None:
        """One more; None counts for nothing."""
        if number is not None:
            self.total += number
            self.count += 1

    @property
    def value(self) -> float | None:
        """The mean so far."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class Evaluation:
    """A run's rows by (method, run, item). `scores`: alignment -> values 0..100, NaN unless `status` is OK.

    `status`: MISSING, OK, UNREADABLE or FAILED; `line`: of rows.jsonl, from 1, 0 where missing; `predicted`:
    (method, run, item, option), 0 past an item's last option. `manifest` is empty in a `partial` run.
    `never_asked`: items that the manifest counts and no row names. `edited`: the rows are not those that the
    manifest was written for.
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
    readouts: Mapping[str, Readouts]
    edited: bool

    @property
    def countries(self) -> tuple[str, ...]:
        """In the order of the items."""
        return tuple(dict.fromkeys(item.country for item in self.items))

    @cached_property
    def gold(self) -> Floats:
        """The survey's distributions, 0 past an item's last option. (item, option)"""
        widest = max(len(item.options) for item in self.items)
        return np.array([item.gold + (0.0,) * (widest - len(item.gold)) for item in self.items])

    def rows_at(self, lines: Sequence[int]) -> dict[int, Mapping[str, Any]]:
        """The whole rows at these lines of rows.jsonl."""
        wanted = set(lines)
        rows: dict[int, Mapping[str, Any]] = {}
        with (self.path / ROWS).open("rb") as file:
            for number, line in enumerate(file, 1):
                if number in wanted:
                    rows[number] = parse_object(line, half_pairs=True)
        return rows


def load_evaluation(path: Path, cultural_map: CulturalMap, *, partial: bool = False) -> Evaluation:
    """Read and check a survey run. Raises ArtifactError with file and line for a row that can not be right,
    and UsageError for an unfinished run unless `partial`.
    """
    manifest = read_manifest(path, KIND, partial=partial)
    reader = _Reader(path / ROWS, tuple(manifest["methods"]) if manifest else None, manifest.get("runs"))
    for number, row in enumerate(RunFolder(path).rows(), 1):
        reader.take(row, number)
    if not reader.cells:
        raise ArtifactError(f"{path / ROWS} has no rows: there is nothing to report.")
    methods = tuple(manifest.get("methods") or _methods_of_config(path) or reader.readouts)
    items = tuple(sorted(reader.items.values(), key=_order(cultural_map, reader.items.values())))
    expected = manifest.get("items", len(items))
    if len(items) > expected:
        raise ArtifactError(f"{path / ROWS} has {len(items)} items, but {MANIFEST} says {expected}.")
    runs = 1 + max(run for _, run, _ in reader.cells)
    if manifest.get("runs", runs) != runs:
        raise ArtifactError(f"{path / ROWS} has {runs} runs, but {MANIFEST} says {manifest['runs']}.")
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
        readouts=reader.readouts,
        edited=manifest.get("predictions_sha256") not in (None, reader.digest.hexdigest()),
    )  # fmt: skip


class _StoredSurvey(TypedDict, total=False):
    """What of a survey is told."""

    name: str
    selection: dict[str, Any]


class _StoredScorer(TypedDict, total=False):
    """What of a semantic run's scorer is told."""

    definition: str
    caution: str
    names_hidden: str


class _StoredManifest(TypedDict, total=False):
    """What of a run's manifest is read, where it is there."""

    methods: list[str]
    models: dict[str, str] | None
    settings: dict[str, Any] | None
    survey: _StoredSurvey | None
    left_out: dict[str, str] | None
    calls: dict[str, Any] | None
    nli: _StoredScorer | None


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
    of_shape(manifest, _StoredManifest, str(path / MANIFEST), "Mend it, or run the evaluation again.")
    if kind == KIND:
        for name, kind_of in {"methods": list, "runs": int, "items": int}.items():
            if type(manifest.get(name)) is not kind_of:  # a bool is no number here
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
        self.readouts: dict[str, Readouts] = {}
        self.digest = predictions.PredictionsDigest()

    def take(self, row: Mapping[str, Any], line: int) -> None:
        """Check a row and hold what tables need of it."""
        if fault := predictions.fault_of(row):
            raise self._wrong(line, fault)
        method, run, status = row["method"], row["run"], row["status"]
        if self.methods is not None and method not in self.methods:
            known = ", ".join(self.methods)
            raise self._wrong(line, f"method {method!r} is not in {MANIFEST}, which has {known}")
        if run < 0 or (self.runs is not None and run >= self.runs):
            raise self._wrong(line, f"run {run} of {self.runs or 'an unknown number'}, counted from 0")
        item = _item(row)
        if self.items.setdefault(item.id, item) != item:
            raise self._wrong(line, f"item {item.id} has another question, options or gold than before")
        key = (method, run, item.id)
        if key in self.cells:
            first = self.cells[key].line
            raise self._wrong(line, f"{method}, run {run}, item {item.id} stands in line {first} already")
        predicted = tuple(row["predicted"]) if status == "ok" else ()
        self.cells[key] = _Cell(STATUSES[status], line, bool(row["degraded"]), predicted)
        self.readouts.setdefault(method, Readouts()).take(row)
        self.digest.take(row)

    def _wrong(self, line: int, what: str) -> ArtifactError:
        return ArtifactError(f"{self.file}:{line}: {what}. Mend that line, or run the evaluation again.")


def _item(row: Mapping[str, Any]) -> Item:
    return Item(
        id=row["item"], question_id=row["question_id"], battery=row["battery"], survey=row["survey"],
        country=row["country"], question=row["question"], options=tuple(row["options"]),
        ordered=row["ordered"], gold=tuple(row["gold"]), topic=row.get("topic"),
        population=tuple((row.get("population") or {}).items()), respondents=row.get("respondents"),
        labelled=bool(row.get("labelled")),
    )  # fmt: skip


def _methods_of_config(path: Path) -> list[str] | None:
    """The methods an unfinished run was begun with, if it says so."""
    try:
        methods = read_object(path / CONFIG).get("methods")
    except (OSError, ValueError):
        return None
    return methods if isinstance(methods, list) and all(isinstance(m, str) for m in methods) else None


def _order(
    cultural_map: CulturalMap, items: Collection[Item]
) -> Callable[[Item], tuple[tuple[int, int], str]]:
    """Countries by community as the paper lists them, then alphabetically; questions by id."""
    places = {code: place for place, code in enumerate(PAPER)}
    codes = sorted({item.country for item in items}, key=lambda code: (places.get(code, len(PAPER)), code))
    homes = [cultural_map.community_of(code) for code in codes]
    communities = list(dict.fromkeys(home.key for home in homes if home))
    rank = {
        code: (communities.index(home.key) if home else len(communities), place)
        for place, (code, home) in enumerate(zip(codes, homes, strict=True))
    }
    return lambda item: (rank[item.country], item.question_id)
