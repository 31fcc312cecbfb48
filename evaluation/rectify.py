"""Prediction-powered inference (Angelopoulos et al. 2023; tuned: Angelopoulos, Duchi and Zrnic 2023).

A few populations were asked, a model predicted all of them: what is the mean share over all, and how sure?

    estimate = lambda * mean(predictions everywhere) + mean over the asked of (answer - lambda * prediction)

Whatever the model's errors, they cancel in the mean: a bad model makes the interval wide, not wrong.
lambda is tuned on the asked ones, Cov(y, f) / Var(f), held within 0 to 1: with a useless model the
estimate is the sample's own mean. Tuning sees the answers that it is used on, which makes small samples
too sure, so each population's lambda is that of all the others (leave-one-out), and a degree of freedom
is paid for it.

The populations that were asked must be a random draw of all N. Those asked are not unknown any more, so
the variance is that of the residuals over n, times 1 - n / N, plus what their own sampling leaves
(`noise`); where that is not known, nothing is taken off. The interval is Student's with n - 2 degrees of
freedom (n - 1 without predictions). `python -m benchmarks.rectify` simulates how often it holds the
truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from cultural_palette.errors import UsageError
from cultural_palette.evaluation.metrics import Floats

FEWEST = 4
"""So few asked populations bear no interval with a tuned lambda."""


@dataclass(frozen=True)
class Rectified:
    """An estimate of a mean share (0..1) with its interval; `classical`: the same from the asked ones alone.

    `weight`: lambda, how far the predictions were trusted (0..1). `asked` populations of `everywhere`.
    """

    estimate: float
    low: float
    high: float
    classical: float
    classical_low: float
    classical_high: float
    weight: float
    asked: int
    everywhere: int

    @property
    def saved(self) -> float:
        """How many more populations the classical interval would need to be as narrow:
        n * ((classical width / width)**2 - 1); 0 or below where predictions did not help.
        """
        width = self.high - self.low
        return self.asked * (((self.classical_high - self.classical_low) / width) ** 2 - 1) if width else 0.0


def rectify(
    answers: Sequence[float],
    predictions: Sequence[float],
    everywhere: Sequence[float],
    *,
    noise: float | None = None,
    level: float = 0.95,
) -> Rectified:
    """The mean share over all populations. `answers` and `predictions` are of those that were asked, in one
    order; `everywhere`: the predictions for all, the asked ones among them. `noise`: the mean sampling
    variance of an answer, p * (1 - p) / respondents; None where nobody knows.

    Raises UsageError with fewer than four asked, or more asked than there are.
    """
    y, f, whole = (np.asarray(values, dtype=np.float64) for values in (answers, predictions, everywhere))
    if len(y) != len(f):
        raise ValueError(f"{len(y)} answers but {len(f)} predictions")
    if len(y) < FEWEST:
        raise UsageError(f"{len(y)} populations were asked: an interval needs {FEWEST} at least.")
    if len(whole) < len(y):
        raise UsageError(f"{len(y)} populations were asked, and predictions are there for {len(whole)} only.")
    n = len(y)
    weights = _left_out_weights(y, f)
    weight = float(weights.mean())
    residuals = y - weights * f
    estimate = float(weight * whole.mean() + residuals.mean())
    half = _half(residuals, n - 2, len(whole), noise, level)
    plain = _half(y, n - 1, len(whole), noise, level)
    mean = float(y.mean())
    return Rectified(
        estimate, estimate - half, estimate + half, mean, mean - plain, mean + plain, weight, n, len(whole)
    )


def _half(values: Floats, freedom: int, everywhere: int, noise: float | None, level: float) -> float:
    """Half an interval's width around the mean of `values`."""
    variance, fraction = float(values.var(ddof=1)), len(values) / everywhere
    corrected = variance if noise is None else (1 - fraction) * variance + fraction * min(noise, variance)
    return float(student_t.ppf((1 + level) / 2, freedom)) * math.sqrt(corrected / len(values))


def _left_out_weights(y: Floats, f: Floats) -> Floats:
    """lambda for each asked population, from all the others. (asked,)"""
    keep = ~np.eye(len(y), dtype=bool)
    weights = np.zeros(len(y))
    for place, others in enumerate(keep):
        a, b = y[others], f[others]
        variance = b.var()
        if variance > 0:
            slope = ((a - a.mean()) * (b - b.mean())).mean() / variance
            weights[place] = min(1.0, max(0.0, slope))
    return weights
