"""How a run's scores hold when one thing that should not matter is another: the robustness certificate.

The other runs are of the same items and methods, and differ from the first in the order of the options,
the wording of the instructions, the language of the questions, or the seed. A score is given with its
range over these conditions; two methods whose order is another in one of them have a ranking that flips,
and are marked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cultural_palette.errors import UsageError
from cultural_palette.evaluation.report.analysis import ALPHA, comparable_scores
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.load import Evaluation
from cultural_palette.evaluation.report.roles import title
from cultural_palette.evaluation.report.tables import Subject
from cultural_palette.evaluation.statistics import average, compare

KINDS: Mapping[str, str] = {
    "orders": "orders of the options", "wording": "wording", "language": "language", "seed": "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Certificate:
    """`conditions`: name -> method -> average over the items that every method of every run answered
    (0..100), the first as the run itself. `flips`: pairs (better, worse in the first run) -> the
    conditions in which they stand the other way round. `significant`: pairs whose difference in the first run
    is beyond chance (uncorrected, 5 %). `items`: those in common.
    """

    conditions: Mapping[str, Mapping[str, float]]
    flips: Mapping[tuple[str, str], tuple[str, ...]]
    significant: frozenset[tuple[str, str]]
    items: int

    def range_of(self, method: str) -> tuple[float, float]:
        """The lowest and the highest average."""
        values = [means[method] for means in self.conditions.values()]
        return min(values), max(values)


def certify(
    evaluation: Evaluation, others: Sequence[Evaluation], metric: str, *, permutations: int = 10_000
) -> Certificate:
    """The scores of a run's methods under every condition. Raises UsageError for a run of other items, or
    one that does not differ in exactly one of KINDS.
    """
    runs = {"as run": evaluation}
    for other in others:
        name = condition_of(evaluation, other)
        runs[name if name not in runs else f"{name} ({other.path.name})"] = other
    methods = [m for m in evaluation.methods if all(m in run.methods for run in runs.values())]
    places = {item.id: place for place, item in enumerate(evaluation.items)}
    scores: dict[str, dict[str, np.ndarray]] = {}
    for name, run in runs.items():
        order = [places[item.id] for item in run.items]
        scores[name] = {}
        for method in methods:
            own = comparable_scores(run, method, metric).mean(axis=0)
            table = np.full(len(places), np.nan)
            table[order] = own
            scores[name][method] = table
    common = ~np.isnan(np.array([row for table in scores.values() for row in table.values()])).any(axis=0)
    if not common.any():
        raise UsageError("No item was answered by every method in every run: there is nothing to certify.")
    countries = [item.country for item, keep in zip(evaluation.items, common, strict=True) if keep]
    batteries = [item.battery for item, keep in zip(evaluation.items, common, strict=True) if keep]
    means = {
        name: {method: average(row[common], countries) or 0.0 for method, row in table.items()}
        for name, table in scores.items()
    }
    base, flips, significant = means["as run"], {}, set()
    ranked = sorted(methods, key=lambda method: -base[method])
    for place, better in enumerate(ranked):
        for worse in ranked[place + 1 :]:
            turned = tuple(name for name, row in means.items() if row[better] < row[worse])
            if turned:
                flips[better, worse] = turned
            test = compare(
                scores["as run"][better][common], scores["as run"][worse][common], batteries,
                groups=countries, permutations=permutations,
            )  # fmt: skip
            if test is not None and test.p < ALPHA:
                significant.add((better, worse))
    return Certificate(means, flips, frozenset(significant), int(common.sum()))


def condition_of(first: Evaluation, other: Evaluation) -> str:
    """What is another in the second run, such as "wording 1"."""
    if {item.id for item in first.items} != {item.id for item in other.items}:
        raise UsageError(f"{other.path} is of other items than {first.path}: a certificate is over the same.")
    a, b = _shaping(first.manifest), _shaping(other.manifest)
    differs = [kind for kind in KINDS if a[kind] != b[kind]]
    if len(differs) != 1:
        what = " and ".join(KINDS[kind] for kind in differs) or "nothing"
        raise UsageError(
            f"{other.path} differs from {first.path} in {what}: a condition differs in one of "
            f"{', '.join(KINDS.values())}."
        )
    return f"{KINDS[differs[0]]} {b[differs[0]]}"


def certificate_table(subject: Subject, others: Sequence[Evaluation], metric: str) -> Table | None:
    """Every method's average in each condition, its range, and with whom its rank flips; None without
    conditions.
    """
    if not others:
        return None
    made = certify(subject.evaluation, others, metric, permutations=subject.permutations)
    names = list(made.conditions)
    lines = []
    for method in (m for m in subject.roles.of if m in made.conditions["as run"]):
        low, high = made.range_of(method)
        base = made.conditions["as run"][method]
        ranks = [_rank(made.conditions[name], method) for name in names]
        flipped = _flipped(made, method)
        cells = [number(base)]
        cells += [number(made.conditions[name][method] - base, signed=True) for name in names[1:]]
        cells += [
            Cell(f"{low:.2f}–{high:.2f}", high - low),
            Cell(f"{ranks[0]} ({min(ranks)}–{max(ranks)})", float(ranks[0])),
            Cell(", ".join(flipped) or "none"),
        ]
        lines.append(Line(title(method), tuple(cells)))
    columns = [Column("as run"), *(Column(name, "change with") for name in names[1:])]
    columns += [Column("range"), Column("rank (over conditions)"), Column("flips with")]
    lost = [pair for pair in made.flips if pair in made.significant]
    findings = "; ".join(f"{title(a)} above {title(b)} ({', '.join(made.flips[a, b])})" for a, b in lost)
    notes = (
        f"{made.items:,} items that every method answered under every condition. Change: the same "
        f"methods and items "
        "with one thing another that should not matter. Rank flips: a pair that stands the other way "
        "round in at least "
        "one condition. * marks a pair whose difference in this run is beyond chance (uncorrected, 5 "
        "%): such a finding "
        "hangs on the condition.",
        f"Findings that flip: {findings or 'none'}.",
    )
    caption = f"{subject.mark}Robustness certificate under {metric}."
    return Table("certificate", caption, tuple(columns), (Section("", tuple(lines)),), notes)


def _flipped(made: Certificate, method: str) -> list[str]:
    names = []
    for pair in made.flips:
        if method in pair:
            other = pair[1] if pair[0] == method else pair[0]
            names.append(title(other) + ("*" if pair in made.significant else ""))
    return names


def _rank(means: Mapping[str, float], method: str) -> int:
    return 1 + sum(
        value > means[method] and not math.isclose(value, means[method]) for value in means.values()
    )


def _shaping(manifest: Mapping[str, Any]) -> dict[str, Any]:
    settings = manifest.get("settings") or {}
    selection = (manifest.get("survey") or {}).get("selection") or {}
    return {
        "orders": settings.get("permutations"),
        "wording": manifest.get("wording", 0),
        "language": selection.get("language", "survey"),
        "seed": manifest.get("seed"),
    }
