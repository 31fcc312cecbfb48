"""A readout made honest: one temperature, and what each place is worth, fitted on other batteries.

    q_k  is proportional to  exp( log p_k / T + b_place(k) )

with p the label probabilities as they were read, in the order shown. Models favour places (the letter A, the
last option) and are too sure of themselves, or not sure enough; neither has to do with a country. The places'
worth b has its own row for each number of options, its mean is 0, and a small ridge holds it where data are
few.

The two are fitted together by maximum likelihood of the survey's shares, a convex problem in (1 / T, b).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from cultural_palette.distributions import Distribution

Floats = NDArray[np.float64]
RIDGE = 1.0
"""Of b: a place's worth of 1 nat costs as much as half a nat on one question."""
LOWEST, HIGHEST = 0.02, 50.0


@dataclass(frozen=True)
class PlaceReading:
    """One reading: log-probabilities by place as shown (any constant), and the survey's shares by place."""

    logps: tuple[float, ...]
    gold: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """`temperature`: above 1 flattens. `places`: number of options -> worth of each place, nats, mean 0.
    A number of options that was not fitted has none. `readings`: how many it was fitted on.
    """

    temperature: float
    places: Mapping[int, tuple[float, ...]]
    readings: int

    def apply(self, logps: Sequence[float]) -> Distribution:
        """Log-probabilities by place -> a distribution by place."""
        worth = self.places.get(len(logps), (0.0,) * len(logps))
        moved = np.asarray(logps) / self.temperature + np.asarray(worth)
        shares = np.exp(moved - moved.max())
        return Distribution.from_counts(shares.tolist())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "temperature": self.temperature,
            "places": {str(size): list(worth) for size, worth in self.places.items()},
            "readings": self.readings,
        }


NONE = Calibration(1.0, {}, 0)
"""Leaves readings as they are."""


def calibrate(readings: Sequence[PlaceReading]) -> Calibration:
    """Fit both. Raises ValueError without a reading."""
    if not readings:
        raise ValueError("no reading to calibrate on")
    sizes = sorted({len(one.logps) for one in readings})
    by_size = {
        size: (
            np.array([_centred(one.logps) for one in readings if len(one.logps) == size]),
            np.array([one.gold for one in readings if len(one.gold) == size]),
        )
        for size in sizes
    }
    starts = {size: 1 + sum(s for s in sizes if s < size) for size in sizes}

    def loss(given: Floats) -> tuple[float, Floats]:
        total, slope = 0.0, np.zeros_like(given)
        for size, (logps, gold) in by_size.items():
            span = slice(starts[size], starts[size] + size)
            moved = given[0] * logps + given[span]
            top = moved.max(axis=1, keepdims=True)
            normaliser = top + np.log(np.exp(moved - top).sum(axis=1, keepdims=True))
            total -= float((gold * (moved - normaliser)).sum())
            left = np.exp(moved - normaliser) - gold
            slope[0] += (left * logps).sum()
            slope[span] += left.sum(axis=0) + RIDGE * given[span]
            total += RIDGE / 2 * float((given[span] ** 2).sum())
        return total, slope

    start = np.zeros(1 + sum(sizes))
    start[0] = 1.0
    bounds = [(1 / HIGHEST, 1 / LOWEST), *[(None, None)] * sum(sizes)]
    fit = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    places = {}
    for size in sizes:
        worth = fit.x[starts[size] : starts[size] + size]
        places[size] = tuple((worth - worth.mean()).tolist())
    return Calibration(float(1 / fit.x[0]), places, len(readings))


def _centred(logps: Sequence[float]) -> list[float]:
    """Less their mean, minus infinity raised to something finite: only differences count."""
    values = np.maximum(np.asarray(logps, dtype=np.float64), np.max(logps) - 60)
    return [float(value) for value in values - values.mean()]
