"""Numbers of a report: averages, intervals, tests. No text and no pictures.

Batteries of questions are the clusters and countries the groups of every interval and test. A method's item
counts where every run answered it, so that an average and its runs are over the same items.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np

from cultural_palette.evaluation.metrics import Floats, earth_movers_table, mode_agreement_table
from cultural_palette.evaluation.report.discrimination import Discrimination, discriminate
from cultural_palette.evaluation.report.floors import Floor
from cultural_palette.evaluation.report.load import FAILED, MISSING, OK, UNREADABLE, Evaluation
from cultural_palette.evaluation.report.roles import Roles
from cultural_palette.evaluation.statistics import (
    Comparison,
    Interval,
    Spread,
    average,
    clustered_interval,
    compare,
    country_means,
    grouped_intervals,
    holm,
    holm_levels,
    spread,
)

Key = TypeVar("Key", bound=Hashable)
Mark = Literal["best", "second"]
AVERAGE = "average"
MARKS: tuple[Mark, Mark] = ("best", "second")
ALPHA = 0.05


@dataclass(frozen=True)
class Settings:
    """How many sign patterns are drawn for intervals and tests, and from which seed."""

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
    the items that every method with any answer answered. `runs`: each run's average. `answered`: items that
    all runs answered; `partly`: those that only some did, left out. `discrimination`: what the right country
    gains it; `rank`: rank correlation over countries (-1..1).
    """

    method: str
    average: Interval | None
    by_country: Mapping[str, Interval]
    runs: tuple[float, ...]
    on_common: float | None
    answered: int
    partly: int
    discrimination: Interval | None = None
    rank: float | None = None

    @property
    def spread(self) -> Spread | None:
        """Over the runs that have answers."""
        return spread(self.runs) if self.runs else None


@dataclass(frozen=True)
class FloorResult:
    """A floor's or a reference's average and countries, over the `items` that have it; `missing` have not."""

    floor: Floor
    average: float | None
    by_country: Mapping[str, float]
    items: int
    missing: int


@dataclass(frozen=True)
class Tested:
    """A comparison, its p-value after Holm over its family of `family` comparisons, and the interval at the
    level of that: it leaves 0 out exactly when `p_holm` is below 0.05. None: no end can be given.
    """

    comparison: Comparison
    p_holm: float
    family: int
    ends: tuple[float, float] | None

    @property
    def better(self) -> bool:
        """Whether the first is better beyond chance."""
        return self.p_holm < ALPHA and self.comparison.difference.mean > 0

    @property
    def worse(self) -> bool:
        """Whether the first is worse beyond chance."""
        return self.p_holm < ALPHA and self.comparison.difference.mean < 0

    @property
    def smallest_p(self) -> float:
        """The smallest p-value after Holm that these batteries could show, were the difference ever so
        great.
        """
        return min(1.0, self.family * self.comparison.smallest_p)

    @property
    def can_tell(self) -> bool:
        """Whether any data in these batteries could show a difference."""
        return self.smallest_p < ALPHA

    @property
    def detectable(self) -> float | None:
        """The smallest true difference found in four of five repeats at the level of the whole family; None
        where none can be.
        """
        return self.comparison.detectable(ALPHA / self.family)


@dataclass(frozen=True)
class Families:
    """Tests, one family for Holm each. `against_baseline`: every other method minus the best baseline;
    `against_floor`: every method minus the best floor; `planned`: ours minus each ablation and control.
    """

    against_baseline: Mapping[str, Tested] = field(default_factory=dict)
    against_floor: Mapping[str, Tested] = field(default_factory=dict)
    planned: Mapping[str, Tested] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """Everything a table says under one metric. `scores`: tests of the scores; `gains`: the same of country
    discrimination, where a floor, which does not look at the country, has 0. `marks`: (method, column) ->
    "best" or "second", only where the next in that column is beaten beyond chance. `common`: items that all
    answered.
    """

    metric: str
    methods: tuple[MethodResult, ...]
    floors: tuple[FloorResult, ...]
    best_baseline: str | None
    best_floor: FloorResult | None
    scores: Families
    gains: Families
    marks: Mapping[tuple[str, str], Mark]
    common: int

    def of(self, method: str) -> MethodResult:
        """A method's result."""
        return next(result for result in self.methods if result.method == method)


class Analyst:
    """An evaluation, ready to be analysed under any metric."""

    def __init__(self, evaluation: Evaluation, roles: Roles, settings: Settings = Settings()) -> None:
        self.evaluation, self.roles, self.settings = evaluation, roles, settings
        self.countries = [item.country for item in evaluation.items]
        self.batteries = [item.battery for item in evaluation.items]

    def analyse(self, metric: str) -> Analysis:
        """Averages, intervals and tests of every method."""
        values = {method: comparable_scores(self.evaluation, method, metric) for method in self.roles.of}
        complete = {method: ~np.isnan(scores).any(axis=0) for method, scores in values.items()}
        answering = [answered for answered in complete.values() if answered.any()]
        common = np.logical_and.reduce(answering) if answering else np.zeros(len(self.countries), dtype=bool)
        results = tuple(self._method(method, metric, values[method], common) for method in self.roles.of)
        averages = {r.method: r.average.mean for r in results if r.average is not None}
        floors = tuple(self._floor(floor, metric) for floor in self.evaluation.floors)
        best_baseline = max(
            (method for method in self.roles.baselines if method in averages),
            key=averages.__getitem__,
            default=None,
        )
        real = [floor for floor in floors if not floor.floor.reference and floor.average is not None]
        best_floor = max(real, key=lambda floor: floor.average or 0.0, default=None)
        by_run = {method: run_scores(self.evaluation, method, metric) for method in self.roles.of}
        answered = {method: by_run[method] for method in averages}
        numbers = {method: self.evaluation.methods.index(method) for method in averages}
        gains = {m: self.discrimination.gains[metric][number] for m, number in numbers.items()}
        return Analysis(
            metric=metric, methods=results, floors=floors, best_baseline=best_baseline, best_floor=best_floor,
            scores=self._families(
                answered, best_baseline, best_floor.floor.scores[metric] if best_floor else None
            ),
            gains=self._families(gains, best_baseline, np.zeros(len(self.countries))),
            marks=self._marks(results, by_run), common=int(common.sum()),
        )  # fmt: skip

    @cached_property
    def discrimination(self) -> Discrimination:
        """Of every method."""
        return discriminate(self.evaluation)

    def secondary(self, method: str) -> tuple[float | None, float | None]:
        """Averages over countries of a method's earth mover's distance (0..1, over the scales) and of its
        agreement of modes (0..1), over the items that all runs answered.
        """
        number = self.evaluation.methods.index(method)
        status, predicted = self.evaluation.status[number], self.evaluation.predicted[number]
        runs = (status == OK).any(axis=1)
        moved, agreed = (np.full(len(self.countries), np.nan) for _ in range(2))
        if runs.any():
            for place in np.flatnonzero((status[runs] == OK).all(axis=0)):
                item = self.evaluation.items[place]
                guesses = predicted[runs, place, : len(item.options)]
                moved[place] = earth_movers_table(item.gold, guesses, item.options, item.ordered).mean()
                agreed[place] = mode_agreement_table(item.gold, guesses).mean()
        return average(moved, self.countries), average(agreed, self.countries)

    def _method(self, method: str, metric: str, scores: Floats, common: np.ndarray) -> MethodResult:
        number = self.evaluation.methods.index(method)
        answered = int((~np.isnan(scores).any(axis=0)).sum())
        some = int((~np.isnan(scores).all(axis=0)).sum())
        if not answered:
            return MethodResult(method, None, {}, (), None, 0, some)
        whole, by_country = grouped_intervals(
            scores, self.batteries, self.countries,
            permutations=self.settings.permutations, seed=self.settings.seed,
        )  # fmt: skip
        complete = np.where(np.isnan(scores).any(axis=0), np.nan, scores)
        runs = [average(run, self.countries) for run in complete]
        return MethodResult(
            method, whole, by_country, tuple(run for run in runs if run is not None),
            average(np.where(common, complete.mean(axis=0), np.nan), self.countries), answered,
            some - answered, self._discrimination(number, metric), self.discrimination.rank(number),
        )  # fmt: skip

    def _discrimination(self, number: int, metric: str) -> Interval | None:
        gains = self.discrimination.of(number, metric)
        if np.isnan(gains).any(axis=0).all():
            return None
        return clustered_interval(
            gains, self.batteries, groups=self.countries,
            permutations=self.settings.permutations, seed=self.settings.seed,
        )  # fmt: skip

    def _floor(self, floor: Floor, metric: str) -> FloorResult:
        scores = floor.scores[metric]
        by_country = country_means(scores, self.countries)
        missing = int(np.isnan(scores).sum())
        whole = average(scores, self.countries)
        return FloorResult(floor, whole, by_country, len(scores) - missing, missing)

    def _compare(self, a: Floats, b: Floats, country: str | None = None) -> Comparison | None:
        """A method minus another, in one country or (None) over all."""
        first, second = _same_runs(a, b)
        chosen = [k for k, code in enumerate(self.countries) if country in (None, code)]
        return compare(
            first[..., chosen],
            second[..., chosen],
            [self.batteries[k] for k in chosen],
            groups=[self.countries[k] for k in chosen],
            permutations=self.settings.permutations,
            seed=self.settings.seed,
        )

    def _families(self, values: Mapping[str, Floats], baseline: str | None, floor: Floats | None) -> Families:
        """The tests of one number. `values`: of the methods that answered anything; `floor`: the best
        floor's. (item,)
        """
        ours = self.roles.ours
        planned = [method for method in self.roles.planned if method in values] if ours in values else []
        others = [method for method in values if method != baseline] if baseline else []
        return Families(
            self._family({m: (values[m], values[baseline]) for m in others}) if baseline else {},
            self._family({m: (values[m], floor) for m in values}) if floor is not None else {},
            self._family({m: (values[ours], values[m]) for m in planned}),
        )

    def _family(self, pairs: Mapping[Key, tuple[Floats, Floats]]) -> dict[Key, Tested]:
        """Each first minus its second over all countries, corrected together."""
        return _tested({name: self._compare(a, b) for name, (a, b) in pairs.items()})

    def _marks(
        self, results: Sequence[MethodResult], values: Mapping[str, Floats]
    ) -> dict[tuple[str, str], Mark]:
        """Best of each column where it beats the next, and then the second where it beats the third. Two
        families for Holm: the average, and all countries' columns together.
        """
        marks: dict[tuple[str, str], Mark] = {}
        codes = list(dict.fromkeys(self.countries))
        for columns in ([AVERAGE], codes):
            comparisons: dict[tuple[str, str, Mark], Comparison | None] = {}
            for column in columns:
                ranked = _ranked(results, column)
                country = None if column == AVERAGE else column
                for mark, upper, lower in zip(MARKS, ranked, ranked[1:], strict=False):
                    comparisons[(upper, column, mark)] = self._compare(values[upper], values[lower], country)
            clear = {key[1:]: key[0] for key, test in _tested(comparisons).items() if test.better}
            for (column, mark), method in clear.items():
                if (column, "best") in clear:
                    marks[(method, column)] = mark
        return marks


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


def comparable_scores(evaluation: Evaluation, method: str, metric: str) -> Floats:
    """A method's scores in the runs that have any answer. (run, item), NaN where a run has none.

    Without any item that all these runs answered, the run that answered most stands alone. Of a method that
    answered nothing: one row of NaN.
    """
    scores = _runs_with_answers(run_scores(evaluation, method, metric))
    return scores if len(scores) else np.full((1, len(evaluation.items)), np.nan)


def run_scores(evaluation: Evaluation, method: str, metric: str) -> Floats:
    """The same with a row for every run, NaN in those that `comparable_scores` leaves out. (run, item)"""
    scores: Floats = evaluation.scores[metric][evaluation.methods.index(method)]
    some = _runs_with_answers(scores)
    if len(some) and np.isnan(some).any(axis=0).all():
        most = np.isnan(scores).sum(axis=1).argmin()
        scores = np.where(np.arange(len(scores))[:, None] == most, scores, np.nan)
    return scores


def item_means(evaluation: Evaluation, method: str, metric: str) -> Floats:
    """Each item's mean over the runs, NaN where one did not answer it. (item,)"""
    means: Floats = comparable_scores(evaluation, method, metric).mean(axis=0)
    return means


def _same_runs(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Two methods in the runs in which both answered anything, so that each run is held against itself; where
    there is no such run, each one's mean over its own. A floor, (item,), is the same in every run.
    """
    nothing = np.full((1, a.shape[1]), np.nan)
    one = _runs_with_answers(a) if not np.isnan(a).all() else nothing
    if b.ndim == 1:
        return one, b
    both = ~(np.isnan(a).all(axis=1) | np.isnan(b).all(axis=1))
    if both.any():
        return a[both], b[both]
    other = _runs_with_answers(b) if not np.isnan(b).all() else nothing
    return one.mean(axis=0), other.mean(axis=0)


def _runs_with_answers(scores: Floats) -> Floats:
    return scores[~np.isnan(scores).all(axis=1)]


def _tested(comparisons: Mapping[Key, Comparison | None]) -> dict[Key, Tested]:
    made = {name: comparison for name, comparison in comparisons.items() if comparison is not None}
    p_values = [comparison.p for comparison in made.values()]
    rows = zip(made.items(), holm(p_values), holm_levels(p_values, ALPHA), strict=True)
    return {
        name: Tested(comparison, p, len(made), comparison.flips.ends(1 - level))
        for (name, comparison), p, level in rows
    }


def _ranked(results: Sequence[MethodResult], column: str) -> list[str]:
    means = {
        result.method: interval.mean
        for result in results
        if (interval := result.average if column == AVERAGE else result.by_country.get(column))
    }
    return sorted(means, key=means.__getitem__, reverse=True)
