"""Read a run of `palette evaluate semantic`: S_semantic by method and community, the paper's Figure 4."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import ROWS, RunFolder
from cultural_palette.cultural_map import Community, CulturalMap
from cultural_palette.errors import ArtifactError
from cultural_palette.evaluation.report.analysis import Settings
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.load import read_manifest
from cultural_palette.evaluation.report.paper import Quoted, quoted_values, same_base
from cultural_palette.evaluation.report.roles import title
from cultural_palette.evaluation.semantic import FLOORS, FLOORS_FILE, REFERENCES
from cultural_palette.evaluation.statistics import Interval, clustered_interval, grouped_intervals
from cultural_palette.jsonl import read_object

KIND = "semantic-evaluation"
GAIN_OVER = "other-community"
BASELINE = "prompting"
DEFINITION = "probability (times 100) that the community's gold answer entails the model's answer"
SOURCE = "Cultural Palette: Pluralising Culture Alignment via Multi-agent Palette, section 5.4 on Figure 4"


@dataclass(frozen=True)
class SemanticResult:
    """A method: its mean over communities and each community's (0..100), and rows by what became of them.
    `gain`: over the floor, another community's gold answer of the same length. `right`: over the same
    answer's mean under the other communities' gold answers to its query. `over_base`: over the method
    "prompting" on the same item.
    """

    method: str
    average: Interval | None
    by_community: Mapping[str, Interval]
    ok: int
    failed: int
    gain: Interval | None = None
    right: Interval | None = None
    over_base: Interval | None = None


@dataclass(frozen=True)
class Semantics:
    """A semantic run. `quoted`: what the paper's text says of Figure 4, where the base model is the same."""

    path: Path
    manifest: Mapping[str, Any]
    partial: bool
    communities: tuple[Community, ...]
    results: tuple[SemanticResult, ...]
    floors: tuple[SemanticResult, ...]
    quoted: tuple[Quoted, ...]


def load_semantics(
    path: Path,
    cultural_map: CulturalMap,
    settings: Settings,
    *,
    base_name: str | None = None,
    partial: bool = False,
    quote: bool = True,
) -> Semantics:
    """Read, check and average a semantic run; queries are the clusters. `quote`: the paper's values too.

    Raises ArtifactError with file and line for a row that can not be right, and UsageError for an unfinished
    run unless `partial`.
    """
    manifest = read_manifest(path, KIND, partial=partial)
    known = {community.key: community for community in cultural_map.communities}
    rows: dict[tuple[str, str, str], float | None] = {}
    elsewhere: dict[tuple[str, str, str], float] = {}
    for line, row in enumerate(RunFolder(path).rows(), 1):
        key, value = _checked(row, f"{path / ROWS}:{line}", known)
        if key in rows:
            raise ArtifactError(f"{path / ROWS}:{line}: {', '.join(key)} stands twice. Take one out.")
        rows[key] = value
        if value is not None and (other := _elsewhere(row, f"{path / ROWS}:{line}")) is not None:
            elsewhere[key] = other
    if not rows:
        raise ArtifactError(f"{path / ROWS} has no rows: there is nothing to report.")
    floors = _floors(path)
    methods = list(manifest.get("methods") or dict.fromkeys(method for method, _, _ in rows))
    if strange := next((key[0] for key in rows if key[0] not in methods), None):
        raise ArtifactError(
            f"{path / ROWS}: method {strange!r} is not in the manifest: {', '.join(methods)}."
        )
    named = base_name or (manifest.get("models") or {}).get("prompting")
    base = same_base(named) if named and quote else None
    scored = {community for _, community, _ in rows}
    return Semantics(
        path=path, manifest=manifest, partial=not manifest,
        communities=tuple(community for key, community in known.items() if key in scored),
        results=tuple(
            _result(method, rows, settings, floors.get(GAIN_OVER, {}), elsewhere) for method in methods
        ),
        floors=tuple(
            _result(floor, {(floor, *key): value for key, value in scores.items()}, settings)
            for floor, scores in floors.items()
        ),
        quoted=tuple(quoted for quoted in quoted_values() if quoted.base_model == base),
    )  # fmt: skip


def semantic_table(semantics: Semantics) -> Table:
    """Methods by communities, the mean over communities last."""
    columns = [Column(c.name, "Community") for c in semantics.communities]
    columns += [
        Column("Average"),
        Column("95 %"),
        Column("gain", "Over the floor"),
        Column("95 %", "Over the floor"),
        Column("gain", "Right community"),
        Column("95 %", "Right community"),
        Column("difference", "Minus prompting"),
        Column("95 %", "Minus prompting"),
    ]
    columns += [Column("ok", "Rows"), Column("not ok", "Rows")]
    results = {result.method: _line(semantics, result) for result in (*semantics.results, *semantics.floors)}
    floors = [result.method for result in semantics.floors if result.method not in REFERENCES]
    references = [result.method for result in semantics.floors if result.method in REFERENCES]
    sections = (
        Section("Methods", tuple(results[result.method] for result in semantics.results)),
        Section("Floors", tuple(results[name] for name in floors)),
        Section("References", tuple(results[name] for name in references)),
    )[: 3 if references else 2]
    scorer = semantics.manifest.get("nli") or {}
    definition = scorer.get("definition", DEFINITION)
    notes = [
        f"S_semantic: {definition}. "
        "The average is the mean of the communities' means; 95 %: over queries, whose signs are flipped. "
        "Rows that are not ok have no score.",
        "A long gold answer entails more than a short one: read averages beside the floors, which hold wrong "
        "answers of the gold answers' length against the same gold answers. Gain: a method's score minus the "
        f"floor '{FLOORS[GAIN_OVER]}' on the same item.",
        "Right community: an answer's score minus its own mean score under the other communities' gold "
        "answers to the same query. Answers that do not look at the community have 0 on average.",
        "Minus prompting: paired, on items that both answered; not corrected for the number of methods.",
    ]
    if scorer.get("names_hidden"):
        notes.insert(0, "Names of countries and communities are hidden in gold answers and answers alike.")
    if caution := scorer.get("caution"):
        notes.insert(0, caution)
    if semantics.quoted:
        quotations = "; ".join(_quotation(quoted) for quoted in semantics.quoted)
        notes.append(f"The paper quotes for {semantics.quoted[0].base_model}: {quotations}. {SOURCE}.")
    mark = "PARTIAL. " if semantics.partial else ""
    caption = f"{mark}Semantic consistency by community, 0 to 100 (the paper's Figure 4)."
    return Table("semantic", caption, tuple(columns), sections, tuple(notes))


def _line(semantics: Semantics, result: SemanticResult) -> Line:
    cells = (
        *(_cell(result.by_community.get(community.key)) for community in semantics.communities),
        _cell(result.average),
        _ends(result.average),
        number(result.gain.mean if result.gain else None, signed=True),
        _ends(result.gain),
        number(result.right.mean if result.right else None, signed=True),
        _ends(result.right),
        number(result.over_base.mean if result.over_base else None, signed=True),
        _ends(result.over_base),
        number(float(result.ok), digits=0),
        number(float(result.failed), digits=0),
    )
    return Line({**FLOORS, **REFERENCES}.get(result.method, title(result.method)), cells)


def _ends(interval: Interval | None) -> Cell:
    if interval is None or interval.low is None or interval.high is None:
        return Cell("–")
    return Cell(f"[{interval.low:.2f}, {interval.high:.2f}]".replace("-", "−"), interval.low)


def _quotation(quoted: Quoted) -> str:
    where = quoted.community or "all communities"
    value = f"{quoted.low:.2f}" if quoted.low == quoted.high else f"{quoted.low:.2f} to {quoted.high:.2f}"
    return f"{title(quoted.method)}, {where} {value}"


def _cell(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("–", hint="nothing answered")
    low, high = interval.low, interval.high
    hint = "" if low is None or high is None else f"[{low:.2f}, {high:.2f}], {interval.n} answers"
    return Cell(f"{interval.mean:.2f}", interval.mean, hint=hint)


def _checked(
    row: Mapping[str, Any], where: str, known: Mapping[str, Community]
) -> tuple[tuple[str, str, str], float | None]:
    for name in ("method", "community", "query_id", "status"):
        if not isinstance(row.get(name), str):
            raise ArtifactError(f"{where}: {name} is {row.get(name)!r}, expected a text.")
    if row["community"] not in known:
        raise ArtifactError(
            f"{where}: the map has no community {row['community']!r}; it has {', '.join(known)}."
        )
    value = row.get("s_semantic")
    if row["status"] == "ok" and not (
        isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 100
    ):
        raise ArtifactError(f"{where}: s_semantic is {value!r}, expected 0 to 100 in a row that is ok.")
    return (row["method"], row["community"], row["query_id"]), value if row["status"] == "ok" else None


def _elsewhere(row: Mapping[str, Any], where: str) -> float | None:
    value = row.get("s_elsewhere")
    if value is not None and not (isinstance(value, int | float) and 0 <= value <= 100):
        raise ArtifactError(f"{where}: s_elsewhere is {value!r}, expected 0 to 100 or nothing.")
    return value


def _result(
    method: str,
    rows: Mapping[tuple[str, str, str], float | None],
    settings: Settings,
    floor: Mapping[tuple[str, str], float] | None = None,
    elsewhere: Mapping[tuple[str, str, str], float] | None = None,
) -> SemanticResult:
    own = sorted(
        (community, query, value) for (name, community, query), value in rows.items() if name == method
    )
    values = [value for _, _, value in own]
    ok = sum(value is not None for value in values)
    if not ok:
        return SemanticResult(method, None, {}, 0, len(own))
    whole, by_community = grouped_intervals(
        values, [query for _, query, _ in own], [community for community, _, _ in own],
        permutations=settings.permutations, seed=settings.seed,
    )  # fmt: skip
    over_floor = {(method, community, query): value for (community, query), value in (floor or {}).items()}
    over_base = {
        (method, community, query): value
        for (name, community, query), value in rows.items()
        if name == BASELINE and value is not None and method != BASELINE
    }
    gain, right, base = (
        _above(method, own, others, settings) for others in (over_floor, elsewhere or {}, over_base)
    )
    return SemanticResult(method, whole, by_community, ok, len(own) - ok, gain, right, base)


def _above(
    method: str,
    own: Sequence[tuple[str, str, float | None]],
    others: Mapping[tuple[str, str, str], float],
    settings: Settings,
) -> Interval | None:
    """A method's values minus the others' at the same (method, community, query), where there is one."""
    above = [
        (community, query, value - others[method, community, query])
        for community, query, value in own
        if value is not None and (method, community, query) in others
    ]
    if not above:
        return None
    return clustered_interval(
        [value for _, _, value in above], [query for _, query, _ in above],
        groups=[community for community, _, _ in above],
        permutations=settings.permutations, seed=settings.seed,
    )  # fmt: skip


def _floors(path: Path) -> dict[str, dict[tuple[str, str], float]]:
    """Floor -> (community, query) -> S_semantic; none in a run that has no such file yet."""
    file = path / FLOORS_FILE
    if not os.path.lexists(file):
        return {}
    try:
        return {
            str(floor): {_place(item): _score(value) for item, value in scores.items()}
            for floor, scores in read_object(file).items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{file} can not be read as floors: {error!r}. Run the evaluation again."
        ) from None


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ValueError(f"{value!r} is no S_semantic, 0 to 100")
    return float(value)


def _place(item: str) -> tuple[str, str]:
    query, _, community = item.rpartition("/")
    return community, query
