"""Numbers of a report: averages, intervals, tests. No text and no pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from cultural_palette.evaluation.report.floors import Floor
from cultural_palette.evaluation.report.load import FAILED, MISSING, OK, UNREADABLE, Evaluation
from cultural_palette.evaluation.report.roles import Roles
from cultural_palette.evaluation.statistics import (
    Comparison,
    Interval,
    Spread,
    average,
    compare,
    country_means,
    grouped_bootstrap,
    holm,
    spread,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Key = TypeVar("Key")
Mark = Literal["best", "second"]
AVERAGE = "average"
MARKS: tuple[Mark, Mark] = ("best", "second")
ALPHA = 0.05


@dataclass(frozen=True)
class Settings:
    """How much is drawn for intervals and tests, and from which seed."""

    resamples: int = 2000
    permutations: int = 10000
    seed: int = 0


@dataclass(frozen=True)
class Outcomes:
    """What became of a method's rows, over all runs. `degraded`: ok, but with a stage missing."""

    ok: int
    unreadable: int
    failed: int
    missing: int
    degraded: int


@dataclass(frozen=True)
class MethodResult:
    """A method under one metric. `average` is None when nothing was answered. `on_common`: the average over
    the items that every method with any answer answered. `runs`: each run's average, on the items that the
    method answered in all of them.
    """

    method: str
    average: Interval | None
    by_country: Mapping[str, Interval]
    runs: tuple[float, ...]
    on_common: float | None
    answered: int

    @property
    def spread(self) -> Spread | None:
        """Over the runs that have answers."""
        return spread(self.runs) if self.runs else None


@dataclass(frozen=True)
class FloorResult:
    """A floor's or ceiling's average and countries."""

    floor: Floor
    average: float | None
    by_country: Mapping[str, float]
    items: int


@dataclass(frozen=True)
class Tested:
    """A comparison and its p-value after Holm over its family."""

    comparison: Comparison
    p_holm: float

    @property
    def better(self) -> bool:
        """Whether the first is better beyond chance."""
        return self.p_holm < ALPHA and self.comparison.difference.mean > 0

    @property
    def worse(self) -> bool:
        """Whether the first is worse beyond chance."""
        return self.p_holm < ALPHA and self.comparison.difference.mean < 0


@dataclass(frozen=True)
class Analysis:
    """Everything a table says under one metric. `against_baseline`: every other method minus the best
    baseline; `against_floor`: every method minus the best floor; `marks`: (method, column) -> "best" or
    "second", only where the next in that column is beaten beyond chance. `common`: items that all answered.
    """

    metric: str
    methods: tuple[MethodResult, ...]
    floors: tuple[FloorResult, ...]
    best_baseline: str | None
    against_baseline: Mapping[str, Tested]
    best_floor: FloorResult | None
    against_floor: Mapping[str, Tested]
    marks: Mapping[tuple[str, str], Mark]
    common: int

    def of(self, method: str) -> MethodResult:
        """A method's result."""
        return next(result for result in self.methods if result.method == method)


def analyse(evaluation: Evaluation, roles: Roles, metric: str, settings: Settings = Settings()) -> Analysis:
    """Averages, intervals and tests of every method under one metric.

    An item's value is its mean over the runs that answered it; questions are clusters, countries groups.
    """
    import numpy as np

    values = {method: item_means(evaluation, method, metric) for method in roles.of}
    countries = [item.country for item in evaluation.items]
    questions = [item.question_id for item in evaluation.items]
    answered = [~np.isnan(column) for column in values.values() if not np.isnan(column).all()]
    common = np.logical_and.reduce(answered) if answered else np.zeros(len(countries), dtype=bool)
    bench = _Bench(values, questions, countries, settings)
    results = tuple(_method(evaluation, bench, method, metric, common) for method in roles.of)
    averages = {r.method: r.average.mean for r in results if r.average is not None}
    floors = tuple(_floor(floor, metric, countries) for floor in evaluation.floors)
    best_baseline = max((m for m in roles.baselines if m in averages), key=averages.__getitem__, default=None)
    real = [each for each in floors if not each.floor.ceiling and each.average is not None]
    best_floor = max(real, key=lambda each: each.average or 0.0, default=None)
    others = [method for method in averages if method != best_baseline]
    return Analysis(
        metric=metric, methods=results, floors=floors, best_baseline=best_baseline,
        against_baseline=bench.against(others, values[best_baseline]) if best_baseline else {},
        best_floor=best_floor,
        against_floor=bench.against(list(averages), best_floor.floor.scores[metric]) if best_floor else {},
        marks=_marks(bench, results), common=int(common.sum()),
    )  # fmt: skip


def outcomes(evaluation: Evaluation, method: str) -> Outcomes:
    """What became of a method's rows; items that no row names count as missing in every run."""
    status = evaluation.status[evaluation.methods.index(method)]
    degraded = evaluation.degraded[evaluation.methods.index(method)]
    return Outcomes(
        ok=int((status == OK).sum()),
        unreadable=int((status == UNREADABLE).sum()),
        failed=int((status == FAILED).sum()),
        missing=int((status == MISSING).sum()) + evaluation.never_asked * evaluation.runs,
        degraded=int((degraded & (status == OK)).sum()),
    )


def item_means(evaluation: Evaluation, method: str, metric: str) -> Floats:
    """Each item's mean over the runs that answered it, NaN where none did. (item,)"""
    import numpy as np

    scores = evaluation.scores[metric][evaluation.methods.index(method)]
    there = ~np.isnan(scores)
    count = there.sum(axis=0)
    total = np.where(there, scores, 0.0).sum(axis=0)
    means: Floats = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return means


@dataclass(frozen=True)
class _Bench:
    """Item values of every method, side by side, ready to be compared."""

    values: Mapping[str, Floats]
    questions: Sequence[str]
    countries: Sequence[str]
    settings: Settings

    def against(self, methods: Sequence[str], other: Floats) -> dict[str, Tested]:
        """Each method minus `other` over all countries, as one Holm family."""
        found = {method: self._compare(self.values[method], other) for method in methods}
        return _holm(found)

    def next_down(self, method: str, other: str, country: str | None) -> Comparison | None:
        """A method minus another, in one country or (None) over all."""
        return self._compare(self.values[method], self.values[other], country)

    def _compare(self, a: Floats, b: Floats, country: str | None = None) -> Comparison | None:
        chosen = [k for k, each in enumerate(self.countries) if country in (None, each)]
        return compare(
            a[chosen],
            b[chosen],
            [self.questions[k] for k in chosen],
            groups=[self.countries[k] for k in chosen],
            permutations=self.settings.permutations,
            resamples=self.settings.resamples,
            seed=self.settings.seed,
        )


def _method(
    evaluation: Evaluation, bench: _Bench, method: str, metric: str, common: NDArray[np.bool_]
) -> MethodResult:
    import numpy as np

    values = bench.values[method]
    answered = int((~np.isnan(values)).sum())
    if not answered:
        return MethodResult(method, None, {}, (), None, 0)
    whole, each = grouped_bootstrap(
        values,
        bench.questions,
        bench.countries,
        resamples=bench.settings.resamples,
        seed=bench.settings.seed,
    )
    runs = [average(scores, bench.countries) for scores in _comparable_runs(evaluation, method, metric)]
    return MethodResult(
        method, whole, each, tuple(run for run in runs if run is not None),
        average(np.where(common, values, np.nan), bench.countries), answered,
    )  # fmt: skip


def _comparable_runs(evaluation: Evaluation, method: str, metric: str) -> Floats:
    """Scores of the runs with an answer, on the items that all of these answered: else runs would differ by
    what they left out. As they are when no item is left. (run, item)
    """
    import numpy as np

    scores = evaluation.scores[metric][evaluation.methods.index(method)]
    scores = scores[~np.isnan(scores).all(axis=1)]
    always = ~np.isnan(scores).any(axis=0)
    comparable: Floats = np.where(always, scores, np.nan) if always.any() else scores
    return comparable


def _floor(floor: Floor, metric: str, countries: Sequence[str]) -> FloorResult:
    import numpy as np

    scores = floor.scores[metric]
    return FloorResult(
        floor, average(scores, countries), country_means(scores, countries), int((~np.isnan(scores)).sum())
    )


def _holm(found: Mapping[Key, Comparison | None]) -> dict[Key, Tested]:
    tested = {name: each for name, each in found.items() if each is not None}
    adjusted = holm([each.p for each in tested.values()])
    return {name: Tested(each, p) for (name, each), p in zip(tested.items(), adjusted, strict=True)}


def _marks(bench: _Bench, results: Sequence[MethodResult]) -> dict[tuple[str, str], Mark]:
    """Best of each column where it beats the next, and then the second where it beats the third. Two families
    for Holm: the average, and all countries' columns together.
    """
    marks: dict[tuple[str, str], Mark] = {}
    codes = list(dict.fromkeys(bench.countries))
    for columns in ([AVERAGE], codes):
        found: dict[tuple[str, str, Mark], Comparison | None] = {}
        for column in columns:
            ranked = _ranked(results, column)
            country = None if column == AVERAGE else column
            for mark, upper, lower in zip(MARKS, ranked, ranked[1:], strict=False):
                found[(upper, column, mark)] = bench.next_down(upper, lower, country)
        clear = {key[1:]: key[0] for key, each in _holm(found).items() if each.better}
        for (column, mark), method in clear.items():
            if (column, "best") in clear:
                marks[(method, column)] = mark
    return marks


def _ranked(results: Sequence[MethodResult], column: str) -> list[str]:
    means = {
        result.method: interval.mean
        for result in results
        if (interval := result.average if column == AVERAGE else result.by_country.get(column))
    }
    return sorted(means, key=means.__getitem__, reverse=True)
