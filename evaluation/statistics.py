"""Means over countries, intervals and tests that know a question is asked in many countries.

Values are scores of items on any scale, one (question, country) each: (item,), or (run, item) where the items
were predicted several times. None and NaN are items without an answer: left out and counted, never a value.
`groups` are the countries: with them a mean is the paper's average, the mean of the countries' means; without
them the plain mean.

Items of one battery of questions are not independent, so batteries are the clusters. Intervals and p-values
are one and the same test: the signs of whole batteries are flipped around the mean that is tested (the wild
cluster bootstrap with Rademacher weights and the null imposed; Cameron, Gelbach and Miller 2008; exact for
cluster sums that are symmetric, however few and however unequal: Canay, Romano and Shaikh 2017). The interval
holds exactly the means that the test does not reject, so the two never contradict each other. With five
batteries or fewer there is no 95 % interval: 2 of 2**5 = 32 patterns are always as extreme, p = 0.0625.

Runs differ too. The variance between the runs' averages, over their number, is added to that between
batteries: the interval is that much wider, and p that much larger.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

Floats = NDArray[np.float64]
Values = Sequence[float | None] | Floats

LEVEL, POWER = 0.95, 0.8
EXACT = 1e-9
"""Sums of the same numbers in another order differ in the last bits."""
CELLS_AT_ONCE = 4_000_000
"""Sign patterns times clusters in memory at once."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval. `n` items in `clusters` batteries, which weigh like `effective` equal ones
    (Kish: 1 / the sum of squared weights). `low` and `high` are None where so few batteries bear no interval.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    clusters: int
    effective: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"an interval's mean must be a number, got {self.mean!r}")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"an interval has both ends or none, got {self.low!r} and {self.high!r}")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise ValueError(f"an interval goes from low to high, got {self.low} to {self.high}")
        if not 1 <= self.clusters <= self.n:
            raise ValueError(f"{self.n} items can not lie in {self.clusters} clusters")


@dataclass(frozen=True)
class Spread:
    """How far the runs lie apart: the standard deviation (None with one run), the lowest and the highest."""

    runs: int
    sd: float | None
    low: float
    high: float


@dataclass(frozen=True)
class SignFlips:
    """The test of a mean by flipping the signs of whole clusters, and its inversion.

    `shares`: what each cluster adds to the mean, and `weights` to 1. (cluster,) `inflation`: how much wider
    the runs make it, 1 or more.
    """

    shares: Floats = field(repr=False)
    weights: Floats = field(repr=False)
    permutations: int
    seed: int
    inflation: float = 1.0

    @property
    def mean(self) -> float:
        """The mean that was observed."""
        return math.fsum(self.shares.tolist())

    @property
    def enumerated(self) -> bool:
        """Whether every pattern of signs is tried; else `permutations` are drawn."""
        return bool(2 ** len(self.shares) <= self.permutations)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that any data in these clusters could give."""
        if not self.enumerated:
            return 1 / (1 + self.permutations)
        return 2.0 ** (1 - len(self.shares))

    def p(self, null: float = 0.0) -> float:
        """Two-sided p-value of the mean being `null`.

        (1 + as extreme) / (1 + drawn) where patterns are drawn, never 0 (Phipson and Smyth 2010).
        """
        centre = self.mean
        moved = centre + (null - centre) / self.inflation
        slack = EXACT * (abs(centre) + abs(moved))
        lows, highs = self._reach
        if moved >= centre:
            extreme = len(highs) - int(np.searchsorted(highs, moved - slack))
        else:
            extreme = int(np.searchsorted(lows, moved + slack, side="right"))
        return extreme / len(highs) if self.enumerated else (1 + extreme) / (1 + len(highs))

    def ends(self, level: float = LEVEL) -> tuple[float, float] | None:
        """The means that the test at 1 - `level` does not reject; None where it can reject none."""
        if not 0 < level < 1:
            raise ValueError(f"a level lies between 0 and 1, got {level}")
        lows, highs = self._reach
        alpha, patterns = 1 - level, len(highs)
        needed = math.ceil(alpha * patterns - EXACT)  # so many patterns as extreme: not rejected
        if not self.enumerated:
            needed = math.ceil(alpha * (1 + patterns) - EXACT) - 1
        if needed < 1:
            return None
        low, high = float(lows[needed - 1]), float(highs[patterns - needed])
        if math.isinf(low) or math.isinf(high):
            return None
        centre = self.mean
        return centre - self.inflation * (centre - low), centre + self.inflation * (high - centre)

    @cached_property
    def _reach(self) -> tuple[Floats, Floats]:
        """For each pattern the least and the greatest mean beside which it is as extreme as what was
        observed, each sorted.

        A pattern e is as extreme beside m when |A - m B| >= |mean - m|, with A = sum(e * shares) and
        B = sum(e * weights): between (mean - A) / (1 - B) and (mean + A) / (1 + B), and always when |B| = 1.
        """
        centre = self.mean
        lows, highs = [], []
        for signs in _patterns(len(self.shares), self.permutations if not self.enumerated else 0, self.seed):
            a, b = signs @ self.shares, signs @ self.weights
            with np.errstate(divide="ignore", invalid="ignore"):
                ends = np.stack([(centre - a) / (1 - b), (centre + a) / (1 + b)])
            low, high = ends.min(axis=0), ends.max(axis=0)
            always = np.abs(b) > 1 - EXACT
            lows.append(np.where(always, -np.inf, low))
            highs.append(np.where(always, np.inf, high))
        return np.sort(np.concatenate(lows)), np.sort(np.concatenate(highs))


@dataclass(frozen=True)
class Comparison:
    """Two methods on the items that both answered in every run. `difference`: first minus second; `p`:
    two-sided; `smallest_p`: what these batteries could show at best.

    `only_first`, `only_second`, `neither`: items left out, by who answered them. `error`: standard error of
    the difference, None with one battery. `flips`: the test, for intervals at other levels.
    """

    difference: Interval
    p: float
    smallest_p: float
    only_first: int
    only_second: int
    neither: int
    error: float | None
    flips: SignFlips = field(repr=False, compare=False)

    def detectable(self, alpha: float = 1 - LEVEL) -> float | None:
        """The smallest true difference that a test at `alpha` finds in four of five repeats; None where it
        can find none, however large.
        """
        if self.smallest_p >= alpha or self.error is None:
            return None
        return detectable_difference(self.error, self.difference.effective, alpha)


def country_means(values: Values, countries: Sequence[str]) -> dict[str, float]:
    """Each country's mean over its answered items, in the order the countries first appear.

    A country without one answered item is left out.
    """
    scores = _scores(values, countries=countries)
    by_country: dict[str, list[float]] = {country: [] for country in countries}
    for country, score in zip(countries, scores.tolist(), strict=True):
        if not math.isnan(score):
            by_country[country].append(score)
    return {country: math.fsum(some) / len(some) for country, some in by_country.items() if some}


def average(values: Values, countries: Sequence[str]) -> float | None:
    """The paper's average: the mean of the countries' means; None when nothing was answered."""
    means = country_means(values, countries)
    return math.fsum(means.values()) / len(means) if means else None


def clustered_interval(
    values: Values,
    clusters: Sequence[Hashable],
    *,
    groups: Sequence[str] | None = None,
    level: float = LEVEL,
    permutations: int = 10000,
    seed: int = 0,
) -> Interval:
    """The mean (with `groups`, the mean of the groups' means) and its interval over clusters and runs.

    Raises ValueError without any value.
    """
    data = _Clustered.of(values, clusters, groups)
    return data.interval(data.flips(permutations, seed), level)


def grouped_intervals(
    values: Values,
    clusters: Sequence[Hashable],
    groups: Sequence[str],
    *,
    level: float = LEVEL,
    permutations: int = 10000,
    seed: int = 0,
) -> tuple[Interval, dict[str, Interval]]:
    """`clustered_interval` of the average, and of every group that has a value by itself."""
    scores = _scores(values)
    table = scores[None] if scores.ndim == 1 else scores
    answered = set(np.flatnonzero(~np.isnan(table).any(axis=0)).tolist())
    more: dict[str, Any] = {"level": level, "permutations": permutations, "seed": seed}
    by_group = {}
    for name in dict.fromkeys(groups):
        own = [k for k, group in enumerate(groups) if group == name and k in answered]
        if own:
            by_group[name] = clustered_interval(table[:, own], [clusters[k] for k in own], **more)
    return clustered_interval(scores, clusters, groups=groups, **more), by_group


def clustered_error(
    values: Values, clusters: Sequence[Hashable], *, groups: Sequence[str] | None = None
) -> float:
    """Standard error of the mean (of the groups' means) over clusters and runs; ValueError with one cluster.

    The root of sum_q (share_q - mean * weight_q)**2 / (1 - 2 weight_q + sum weights**2), which has no bias
    for clusters that differ alike (CR2; for equal weights Q / (Q - 1)), plus the runs' variance.
    """
    return _Clustered.of(values, clusters, groups).error


def detectable_difference(
    error: float, clusters: float, alpha: float = 1 - LEVEL, power: float = POWER
) -> float:
    """The true difference that a two-sided test at `alpha` finds with probability `power`, in values' units.

    (t(1 - alpha / 2) + t(power)) * error, with as many degrees of freedom as (effective) clusters, less one.
    """
    freedom = max(1.0, clusters - 1)
    return float(student_t.ppf(1 - alpha / 2, freedom) + student_t.ppf(power, freedom)) * error


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in their order: the i-th smallest times m - i + 1, never falling."""
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"a p-value lies between 0 and 1, got {p!r}")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float = 1 - LEVEL) -> list[float]:
    """The level at which Holm's procedure holds or rejects each hypothesis, in their order.

    Rejected ones at alpha / (m - i + 1); all others at that of the first that is not. An interval at 1 - this
    level leaves zero out exactly when the adjusted p-value is below alpha.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    levels, level = [alpha] * len(p_values), alpha
    rejecting = True
    for rank, index in enumerate(order):
        if rejecting:
            level = alpha / (len(p_values) - rank)
            rejecting = p_values[index] < level
        levels[index] = level
    return levels


def compare(
    a: Values,
    b: Values,
    clusters: Sequence[Hashable],
    *,
    groups: Sequence[str] | None = None,
    permutations: int = 10000,
    seed: int = 0,
) -> Comparison | None:
    """Method a against b on the items that both answered; None when there is no such item.

    Each (item,) or (run, item); where only one has runs, the other stands beside each of them.
    """
    first, second = _scores(a), _scores(b)
    if first.shape[-1] != second.shape[-1] or len(clusters) != first.shape[-1]:
        raise ValueError(f"{first.shape[-1]} values but {second.shape[-1]} b and {len(clusters)} clusters")
    has, had = (~np.isnan(np.atleast_2d(side)).any(axis=0) for side in (first, second))
    if not bool((has & had).any()):
        return None
    data = _Clustered.of(first - second, clusters, groups)
    flips = data.flips(permutations, seed)
    return Comparison(
        difference=data.interval(flips, LEVEL),
        p=flips.p(),
        smallest_p=flips.smallest_p,
        only_first=int((has & ~had).sum()),
        only_second=int((had & ~has).sum()),
        neither=int((~has & ~had).sum()),
        error=data.error if len(data.shares) > 1 else None,
        flips=flips,
    )


def spread(run_averages: Sequence[float]) -> Spread:
    """Standard deviation (n - 1), lowest and highest of the runs' averages. Raises ValueError without any."""
    if not run_averages:
        raise ValueError("a spread over runs needs at least one run, got none")
    sd = math.sqrt(_variance(run_averages)) if len(run_averages) > 1 else None
    return Spread(len(run_averages), sd, min(run_averages), max(run_averages))


@dataclass(frozen=True)
class _Clustered:
    """Values by cluster: what each adds to the mean, its weight, items, and the runs' averages."""

    shares: Floats
    weights: Floats
    items: int
    run_averages: tuple[float, ...]

    @classmethod
    def of(cls, values: Values, clusters: Sequence[Hashable], groups: Sequence[str] | None) -> _Clustered:
        """Of the items that every run answered."""
        others = {"clusters": clusters} if groups is None else {"clusters": clusters, "groups": groups}
        scores = _scores(values, **others)
        table = scores[None] if scores.ndim == 1 else scores
        answered = np.flatnonzero(~np.isnan(table).any(axis=0)).tolist()
        if not answered:
            raise ValueError("there is nothing to average: no item was answered")
        rows = _coded([clusters[k] for k in answered])
        columns = _coded([groups[k] for k in answered] if groups is not None else [""] * len(answered))
        sizes = np.bincount(columns)
        item_weights = 1 / (len(sizes) * sizes[columns])
        averages = table[:, answered] @ item_weights
        shares = np.bincount(rows, item_weights * table[:, answered].mean(axis=0)).astype(np.float64)
        weights = np.bincount(rows, item_weights).astype(np.float64)
        return cls(shares, weights, len(answered), tuple(averages.tolist()))

    def flips(self, permutations: int, seed: int) -> SignFlips:
        """The test of the mean."""
        if permutations < 1:
            raise ValueError(f"a test needs at least one permutation, got {permutations}")
        between = self._between if len(self.shares) > 1 else 0.0
        inflation = math.sqrt(1 + self._of_runs / between) if between > 0 else 1.0
        return SignFlips(self.shares, self.weights, permutations, seed, inflation)

    def interval(self, flips: SignFlips, level: float) -> Interval:
        """The mean and what the test leaves."""
        low, high = flips.ends(level) or (None, None)
        effective = 1 / float(np.sum(self.weights**2))
        return Interval(flips.mean, low, high, self.items, len(self.shares), effective)

    @property
    def error(self) -> float:
        """As `clustered_error`."""
        return math.sqrt(self._between + self._of_runs)

    @property
    def _between(self) -> float:
        if len(self.shares) < 2:
            raise ValueError("a standard error over clusters needs at least two, got 1")
        moved = self.shares - self.shares.sum() * self.weights
        squares = float(np.sum(self.weights**2))
        return float(np.sum(moved**2 / (1 - 2 * self.weights + squares)))

    @property
    def _of_runs(self) -> float:
        """Variance of the mean over runs; 0 for one run, of which nothing can be known."""
        runs = len(self.run_averages)
        return _variance(self.run_averages) / runs if runs > 1 else 0.0


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _scores(values: Values, **others: Sequence[Any]) -> Floats:
    """Values as an array, None as NaN; refuses others of another length, and infinities."""
    scores = np.asarray(values, dtype=np.float64)
    for name, other in others.items():
        if len(other) != scores.shape[-1]:
            raise ValueError(f"{scores.shape[-1]} values but {len(other)} {name}")
    if bool(np.isinf(scores).any()):
        raise ValueError("values must be numbers or None, got an infinity")
    return scores


def _coded(labels: Sequence[Hashable]) -> NDArray[np.intp]:
    """Labels as numbers from 0, in the order they appear."""
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)


def _patterns(size: int, drawn: int, seed: int) -> Iterator[Floats]:
    """Patterns of -1 and 1: all of them for `drawn` 0, else so many by lot. (pattern, cluster)"""
    if drawn * size <= CELLS_AT_ONCE:
        yield _signs(_bits(size, drawn, seed))
        return
    rng, portion = np.random.default_rng(seed), max(1, CELLS_AT_ONCE // size)
    for start in range(0, drawn, portion):
        rows = min(portion, drawn - start)
        yield _signs(rng.integers(0, 2, size=(rows, size), dtype=np.int8))


@lru_cache(maxsize=32)
def _bits(size: int, drawn: int, seed: int) -> NDArray[np.int8]:
    """The patterns as 0 and 1, held for the next mean over as many clusters."""
    if drawn:
        return np.random.default_rng(seed).integers(0, 2, size=(drawn, size), dtype=np.int8)
    return ((np.arange(2**size)[:, None] >> np.arange(size)) & 1).astype(np.int8)


def _signs(bits: NDArray[np.int8]) -> Floats:
    return (1 - 2 * bits).astype(np.float64)
