"""Intervals that resample whole queries: the answers to one query are not independent of one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 2000
BLOCK = 200


@dataclass(frozen=True)
class Estimate:
    """A figure with its percentile interval over queries; None bounds when there are too few queries."""

    value: float
    low: float | None
    high: float | None
    n: int
    queries: int
    level: float = 0.95

    def row(self) -> dict[str, float | int | None]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def over_queries(
    sums_QC: Floats,
    counts_QC: Floats,
    figure: Callable[[Floats, Floats], Floats],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """`figure` of the totals per class, (.., C) and (.., C) to (..), with a bootstrap over the queries."""
    queries = len(sums_QC)
    value = float(figure(sums_QC.sum(0), counts_QC.sum(0)))
    low: float | None = None
    high: float | None = None
    if queries > 1 and resamples:
        drawn = np.concatenate(
            [figure(sums, counts) for sums, counts in _resampled(sums_QC, counts_QC, resamples, seed)]
        )
        low, high = (float(np.nanquantile(drawn, (1 + side * level) / 2)) for side in (-1, 1))
    return Estimate(value, low, high, int(counts_QC.sum()), queries, level)


def pooled(sums: Floats, counts: Floats) -> Floats:
    """Mean over all texts. (.., C), (.., C) -> (..)"""
    return np.asarray(sums.sum(-1) / counts.sum(-1))


def by_class(sums: Floats, counts: Floats) -> Floats:
    """Mean of the classes' means, over the classes that are there. (.., C), (.., C) -> (..)"""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nanmean(sums / counts, axis=-1))


def totals(
    values: Floats, queries: Sequence[str], labels: Sequence[str] | None = None
) -> tuple[Floats, Floats]:
    """Sum and count of values for each query and class: two arrays (Q, C); one class without labels."""
    _, query = np.unique(np.asarray(queries), return_inverse=True)
    kinds = labels if labels is not None else [""] * len(values)
    _, kind = np.unique(np.asarray(kinds), return_inverse=True)
    shape = (int(query.max()) + 1, int(kind.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (query, kind), values)
    np.add.at(counts, (query, kind), 1.0)
    return sums, counts


def _resampled(sums: Floats, counts: Floats, resamples: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    random = np.random.default_rng(seed)
    even = np.full(len(sums), 1 / len(sums))
    for start in range(0, resamples, BLOCK):
        times = random.multinomial(len(sums), even, size=min(BLOCK, resamples - start)).astype(np.float64)
        yield times @ sums, times @ counts
