"""Does an option that is given 30 % get 30 % of the survey? Predicted against survey mass, options pooled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cultural_palette.evaluation.report.load import OK, Evaluation

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Options whose predicted probability lies in [low, high), the last with its end. Means are 0..1."""

    low: float
    high: float
    count: int
    predicted: float | None
    survey: float | None


@dataclass(frozen=True)
class Calibration:
    """A method's bins. `error`: expected calibration error, the bins' |predicted - survey| by their count."""

    method: str
    bins: tuple[Bin, ...]
    options: int
    error: float | None


def calibrate(evaluation: Evaluation, method: str) -> Calibration:
    """Pool every option of every answered row of a method, over countries and runs, into ten equal bins."""
    number = evaluation.methods.index(method)
    answered = evaluation.status[number] == OK
    widest = evaluation.predicted.shape[-1]
    sizes = np.array([len(item.options) for item in evaluation.items])
    shown = np.arange(widest) < sizes[:, None]
    taken = answered[:, :, None] & shown[None]
    predicted = evaluation.predicted[number][taken]
    survey = np.broadcast_to(evaluation.gold, taken.shape)[taken]
    place = np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    totals = [np.bincount(place, weights=shares, minlength=BINS) for shares in (predicted, survey)]
    bins = []
    for k in range(BINS):
        means = [float(total[k] / counts[k]) if counts[k] else None for total in totals]
        bins.append(Bin(k / BINS, (k + 1) / BINS, int(counts[k]), means[0], means[1]))
    options = int(counts.sum())
    error = float(np.abs(totals[0] - totals[1]).sum() / options) if options else None
    return Calibration(method, tuple(bins), options, error)
