"""Does the country matter to a method? What a prediction gains by being held against the right country.

    gain(item) = score(prediction for c, gold of c) - mean over c' of score(prediction for c', gold of c)

with c' the other countries that the method answered the same question for, in the same run. A method that
does not look at the country has exactly 0, however well it scores. And beside it the rank correlation: for
each option of a question, Spearman's, over the countries, between predicted and surveyed share; 0 where the
method predicts the same everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cultural_palette.evaluation.metrics import ALIGNMENTS, Floats, alignment_table
from cultural_palette.evaluation.report.load import OK, Evaluation

FEWEST_COUNTRIES = 3
"""A rank correlation needs so many."""


@dataclass(frozen=True)
class Discrimination:
    """`gains`: alignment -> (method, run, item), NaN where no other country was predicted. `ranks`: by
    method, question -> mean rank correlation of its options (-1..1), where there are enough countries.
    """

    gains: Mapping[str, Floats]
    ranks: tuple[Mapping[str, float], ...]

    def of(self, method: int, metric: str) -> Floats:
        """A method's gains in the runs that have any. (run, item); without any, one row of NaN."""
        gains = self.gains[metric][method]
        there = gains[~np.isnan(gains).all(axis=1)]
        return there if len(there) else np.full((1, gains.shape[1]), np.nan)

    def rank(self, method: int) -> float | None:
        """A method's mean rank correlation over questions; None without any."""
        return mean_rank(self.ranks[method])


def mean_rank(ranks: Mapping[str, float]) -> float | None:
    """The mean over questions; None without any."""
    return sum(ranks.values()) / len(ranks) if ranks else None


def discriminate(evaluation: Evaluation) -> Discrimination:
    """Of every method, question by question."""
    shape = evaluation.status.shape
    gains = {metric: np.full(shape, np.nan) for metric in ALIGNMENTS}
    for places in by_question(evaluation, range(len(evaluation.items))).values():
        if len(places) < 2:
            continue
        size = len(evaluation.items[places[0]].options)
        gold = evaluation.gold[places, :size]
        predicted = evaluation.predicted[:, :, places, :size]
        answered = evaluation.status[:, :, places] == OK
        for metric, values in _gains(gold, predicted, answered).items():
            gains[metric][:, :, places] = values
    everything = range(len(evaluation.items))
    return Discrimination(
        gains,
        tuple(rank_correlations(evaluation, method, everything) for method in range(len(evaluation.methods))),
    )


def rank_correlations(evaluation: Evaluation, method: int, places: Iterable[int]) -> dict[str, float]:
    """Question -> a method's rank correlation over the countries of these items, mean over options; without
    the questions that it answered for fewer than FEWEST_COUNTRIES of them.
    """
    ranks = {}
    for question, own in by_question(evaluation, places).items():
        size = len(evaluation.items[own[0]].options)
        correlation = _rank_correlation(
            evaluation.gold[own, :size],
            evaluation.predicted[method][:, own, :size],
            evaluation.status[method][:, own] == OK,
        )
        if correlation is not None:
            ranks[question] = correlation
    return ranks


def by_question(evaluation: Evaluation, places: Iterable[int]) -> dict[str, list[int]]:
    """Question -> which of these items ask it."""
    asked: defaultdict[str, list[int]] = defaultdict(list)
    for place in places:
        asked[evaluation.items[place].question_id].append(place)
    return asked


def _gains(gold: Floats, predicted: Floats, answered: NDArray[np.bool_]) -> dict[str, Floats]:
    """(method, run, country) of one question."""
    crossed = alignment_table(gold[:, None, :], predicted[:, :, None, :, :])  # (..., gold of, predicted for)
    countries = gold.shape[0]
    own = np.eye(countries, dtype=bool)
    gains = {}
    for metric, scores in crossed.items():
        right = np.diagonal(scores, axis1=-2, axis2=-1)
        lost = right[..., :, None] - scores  # by predicting for another country
        counted = answered[..., None, :] & ~own
        others = counted.sum(axis=-1)
        total = np.where(counted, lost, 0.0).sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            gains[metric] = np.where(answered & (others > 0), total / others, np.nan)
    return gains


def _rank_correlation(gold: Floats, predicted: Floats, answered: NDArray[np.bool_]) -> float | None:
    """Spearman's over countries, mean over options. `predicted`: (run, country, option)."""
    there = answered.all(axis=0)
    if there.sum() < FEWEST_COUNTRIES:
        return None
    shares, surveyed = predicted[:, there].mean(axis=0), gold[there]
    ranks = [rankdata(values, axis=0) for values in (shares.round(12), surveyed)]
    a, b = (rank - rank.mean(axis=0) for rank in ranks)
    told = np.ptp(b, axis=0) > 0  # else the survey has the same share everywhere: nothing to rank
    if not told.any():
        return None
    a, b = a[:, told], b[:, told]
    sizes = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.where(sizes > 0, (a * b).sum(axis=0) / sizes, 0.0).mean())
