"""Means over countries, intervals and tests that know a question is asked in many countries.

Values are scores of items on any scale, one (question, country) each. Items of one question are not
independent, so questions are what is resampled (pairs cluster bootstrap, Cameron, Gelbach and Miller 2008)
and whose signs are flipped. `groups` are the countries: with them a mean is the paper's average, the mean of
the countries' means; without them the plain mean. None and NaN are items without an answer: left out and
counted, never a value.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.intp]
    Values = Sequence[float | None] | Floats

CELLS_AT_ONCE = 4_000_000
"""Resamples times clusters in memory at once."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval. `n` items in `clusters` questions; one question says nothing of others, so
    `low` and `high` are None then.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    clusters: int

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
class Comparison:
    """Two methods on the items that both answered. `difference`: first minus second; `p`: two-sided.

    `only_first`, `only_second`, `neither`: items left out, by who answered them. `detectable`: the
    smallest difference that this many questions show in four of five repeats; None with one question.
    """

    difference: Interval
    p: float
    only_first: int
    only_second: int
    neither: int
    detectable: float | None


def country_means(values: Values, countries: Sequence[str]) -> dict[str, float]:
    """Each country's mean over its answered items, in the order the countries first appear.

    A country without one answered item is left out.
    """
    import numpy as np

    scores = _scores(values, countries=countries)
    kept = ~np.isnan(scores)
    found: dict[str, list[float]] = {country: [] for country in countries}
    for country, score, answered in zip(countries, scores.tolist(), kept.tolist(), strict=True):
        if answered:
            found[country].append(score)
    return {country: math.fsum(each) / len(each) for country, each in found.items() if each}


def average(values: Values, countries: Sequence[str]) -> float | None:
    """The paper's average: the mean of the countries' means; None when nothing was answered."""
    means = country_means(values, countries)
    return math.fsum(means.values()) / len(means) if means else None


def clustered_bootstrap(
    values: Values,
    clusters: Sequence[Hashable],
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    groups: Sequence[str] | None = None,
) -> Interval:
    """The mean (with `groups`, the mean of the groups' means) and its percentile interval over resampled
    clusters.

    A group that a resample misses is left out of that resample's mean. Raises ValueError without any value.
    """
    import numpy as np

    sums, counts, _ = _tables(values, clusters, groups)
    replicates = np.concatenate([_mean_of_means(s, n) for s, n in _resampled(sums, counts, resamples, seed)])
    return _interval(_mean_of_means(sums.sum(0), counts.sum(0)), replicates, level, counts)


def grouped_bootstrap(
    values: Values,
    clusters: Sequence[Hashable],
    groups: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Interval, dict[str, Interval]]:
    """`clustered_bootstrap` of the average, and of every group by itself, from the same resamples."""
    import numpy as np

    sums, counts, names = _tables(values, clusters, groups)
    batches = list(_resampled(sums, counts, resamples, seed))
    whole = np.concatenate([_mean_of_means(s, n) for s, n in batches])
    each = np.concatenate([_means(s, n) for s, n in batches])
    means = _means(sums.sum(0), counts.sum(0))
    by_group = {
        name: _interval(means[column], each[:, column], level, counts[:, [column]])
        for column, name in enumerate(names)
    }
    return _interval(_mean_of_means(sums.sum(0), counts.sum(0)), whole, level, counts), by_group


def paired_permutation(
    a: Values,
    b: Values,
    clusters: Sequence[Hashable],
    *,
    permutations: int = 10000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> float:
    """Two-sided p-value of the mean difference on what both answered, by flipping whole clusters' signs.

    Every sign pattern is tried when there are at most `permutations` of them; else that many are drawn and
    the p-value is (1 + as extreme) / (1 + drawn), never 0 (Phipson and Smyth 2010). Raises ValueError without
    a pair.
    """
    import numpy as np

    differences = _scores(a, b=b) - _scores(b, clusters=clusters)
    sums, counts, _ = _tables(differences, clusters, groups)
    share = _shares(sums, counts)
    observed = abs(share.sum()) * (
        1 - 1e-9
    )  # sums of the same numbers in another order differ in the last bits
    size = len(share)
    if 2**size <= permutations:
        patterns = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
        return float(np.mean(np.abs((1.0 - 2.0 * patterns) @ share) >= observed))
    rng, extreme = np.random.default_rng(seed), 0
    for rows in _batches(permutations, size):
        flipped = rng.integers(0, 2, size=(rows, size), dtype=np.int8)
        extreme += int(np.sum(np.abs(share.sum() - 2.0 * (flipped @ share)) >= observed))
    return (1 + extreme) / (1 + permutations)


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


def clustered_error(
    values: Values, clusters: Sequence[Hashable], *, groups: Sequence[str] | None = None
) -> float:
    """Standard error of the mean (of the groups' means), robust to clusters; ValueError with one cluster.

    sqrt(Q / (Q - 1) * sum u_q^2) for Q clusters, with u_q the sum of cluster q's deviations from their
    group's mean, each divided by groups x the group's items.
    """
    import numpy as np

    sums, counts, _ = _tables(values, clusters, groups)
    if len(sums) < 2:
        raise ValueError("a standard error over clusters needs at least two, got 1")
    moved = _shares(sums - counts * _means(sums.sum(0), counts.sum(0)), counts)
    return math.sqrt(len(moved) / (len(moved) - 1) * float(np.sum(moved**2)))


def smallest_detectable_difference(
    differences: Values,
    clusters: Sequence[Hashable],
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    groups: Sequence[str] | None = None,
) -> float:
    """The true difference that a two-sided test at `alpha` finds with probability `power`, in values' units.

    (z(1 - alpha / 2) + z(power)) * clustered_error(differences): 2.802 standard errors at 5 % and 80 %.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * clustered_error(
        differences, clusters, groups=groups
    )


def compare(
    a: Values,
    b: Values,
    clusters: Sequence[Hashable],
    *,
    groups: Sequence[str] | None = None,
    permutations: int = 10000,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison | None:
    """Method a against b on the items that both answered; None when there is no such item."""
    import numpy as np

    first, second = _scores(a, b=b), _scores(b, clusters=clusters)
    has, had = ~np.isnan(first), ~np.isnan(second)
    if not bool((has & had).any()):
        return None
    differences = first - second
    interval = clustered_bootstrap(differences, clusters, resamples=resamples, seed=seed, groups=groups)
    return Comparison(
        difference=interval,
        p=paired_permutation(first, second, clusters, permutations=permutations, seed=seed, groups=groups),
        only_first=int((has & ~had).sum()),
        only_second=int((had & ~has).sum()),
        neither=int((~has & ~had).sum()),
        detectable=None
        if interval.clusters < 2
        else smallest_detectable_difference(differences, clusters, groups=groups),
    )


def spread(run_averages: Sequence[float]) -> Spread:
    """Standard deviation (n - 1), lowest and highest of the runs' averages. Raises ValueError without any."""
    if not run_averages:
        raise ValueError("a spread over runs needs at least one run, got none")
    mean = math.fsum(run_averages) / len(run_averages)
    squares = math.fsum((value - mean) ** 2 for value in run_averages)
    sd = math.sqrt(squares / (len(run_averages) - 1)) if len(run_averages) > 1 else None
    return Spread(len(run_averages), sd, min(run_averages), max(run_averages))


def _scores(values: Values, **others: Sequence[Any] | Floats) -> Floats:
    """Values as an array, None as NaN; refuses others of another length, and infinities."""
    import numpy as np

    scores = np.asarray(values, dtype=np.float64)
    for name, other in others.items():
        if len(other) != len(scores):
            raise ValueError(f"{len(scores)} values but {len(other)} {name}")
    if bool(np.isinf(scores).any()):
        raise ValueError("values must be numbers or None, got an infinity")
    return scores


def _tables(
    values: Values, clusters: Sequence[Hashable], groups: Sequence[str] | None
) -> tuple[Floats, Floats, tuple[str, ...]]:
    """Sums and counts of the answered items, (cluster, group), and the groups' names as they appear."""
    import numpy as np

    scores = _scores(values, clusters=clusters, groups=groups if groups is not None else clusters)
    kept = np.flatnonzero(~np.isnan(scores)).tolist()
    if not kept:
        raise ValueError("there is nothing to average: no item was answered")
    rows, which = _coded([clusters[index] for index in kept])
    columns, names = _coded([groups[index] for index in kept] if groups is not None else [""] * len(kept))
    shape = (len(which), len(names))
    cells, size = rows * len(names) + columns, len(which) * len(names)
    sums = np.bincount(cells, weights=scores[kept], minlength=size).reshape(shape).astype(np.float64)
    counts: Floats = np.bincount(cells, minlength=size).reshape(shape).astype(np.float64)
    return sums, counts, tuple(names)


def _coded(labels: Sequence[Any]) -> tuple[Codes, list[Any]]:
    """Labels as numbers from 0 in the order they appear, and the labels."""
    import numpy as np

    numbers: dict[Any, int] = {}
    codes = [numbers.setdefault(label, len(numbers)) for label in labels]
    return np.asarray(codes, dtype=np.intp), list(numbers)


def _means(sums: Floats, counts: Floats) -> Floats:
    """Mean of each group, NaN where it has no items. (..., group)"""
    import numpy as np

    means: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means


def _mean_of_means(sums: Floats, counts: Floats) -> Any:
    """The mean of the groups' means, over the groups that have items. (...)"""
    import numpy as np

    return np.nanmean(_means(sums, counts), axis=-1)


def _shares(sums: Floats, counts: Floats) -> Floats:
    """What each cluster adds to the mean of the groups' means. (cluster,)"""
    shares: Floats = (sums / (counts.sum(0) * sums.shape[1])).sum(axis=1)
    return shares


def _resampled(sums: Floats, counts: Floats, resamples: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Sums and counts of clusters drawn with replacement, in batches of (resample, group)."""
    import numpy as np

    if resamples < 1:
        raise ValueError(f"a bootstrap needs at least one resample, got {resamples}")
    rng, size = np.random.default_rng(seed), len(sums)
    for rows in _batches(resamples, size):
        drawn = rng.integers(0, size, size=(rows, size)) + np.arange(rows)[:, None] * size
        times = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)
        yield times @ sums, times @ counts


def _batches(total: int, width: int) -> Iterator[int]:
    """`total` rows of `width` cells, in portions that fit."""
    portion = max(1, CELLS_AT_ONCE // width)
    for start in range(0, total, portion):
        yield min(portion, total - start)


def _interval(mean: Any, replicates: Floats, level: float, counts: Floats) -> Interval:
    """Percentiles of the replicates; None for both ends with one cluster."""
    import numpy as np

    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, got {level}")
    items, clusters = int(counts.sum()), int((counts.sum(axis=1) > 0).sum())
    low = high = None
    if clusters > 1:
        low, high = (float(x) for x in np.nanquantile(replicates, [(1 - level) / 2, (1 + level) / 2]))
    return Interval(float(mean), low, high, items, clusters)
