"""How near a predicted distribution comes to a survey's.

The paper's eq. 5 prints 1 - Jensen-Shannon divergence, its text says distance; only 1 - distance with natural
logarithms fits its figures. So all four are always computed, on 0..100, 100 for the same distribution:

    jsd_e     1 - divergence in nats   (eq. 5 as printed; never below 30.7, a uniform guess scores 88)
    jsd_2     1 - divergence in bits
    jsdist_2  1 - distance, base 2
    jsdist_e  1 - distance, base e     (comparable to the paper)

Everything takes single distributions or arrays of them, options along the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cultural_palette.distributions import Distribution, js_distances
from cultural_palette.evaluation.labels import has_opinion, is_scale

Floats = NDArray[np.float64]

ALIGNMENTS = ("jsd_e", "jsd_2", "jsdist_2", "jsdist_e")
TITLES = {
    "jsd_e": "1 - JSD, nats (eq. 5)",
    "jsd_2": "1 - JSD, bits",
    "jsdist_2": "1 - JS distance, base 2",
    "jsdist_e": "1 - JS distance, base e (comparable to the paper)",
}


def alignment_table(gold: ArrayLike, predicted: ArrayLike) -> dict[str, Floats]:
    """Alignment -> values 0..100. (...) for two arrays (..., option) that broadcast, 0 past the last option.

    A row without mass is no prediction, and its value means nothing: leave it out.
    """
    nats = js_distances(gold, predicted, math.e)
    bits = np.minimum(nats / math.sqrt(math.log(2)), 1)
    distances = {"jsd_e": nats**2, "jsd_2": bits**2, "jsdist_2": bits, "jsdist_e": nats}
    return {key: 100 * (1 - distances[key]) for key in ALIGNMENTS}


def alignments(gold: Distribution, predicted: Distribution) -> dict[str, float]:
    """The four alignments, 0..100. Raises ValueError when the two are not over the same number of options."""
    _same_options(gold, predicted)
    return {
        key: float(value)
        for key, value in alignment_table(gold.probabilities, predicted.probabilities).items()
    }


def earth_movers_table(
    gold: Sequence[float], predicted: ArrayLike, options: Sequence[str], ordered: bool | None = None
) -> Floats:
    """Earth mover's distance along an ordered scale, 0..1: mean number of steps mass moves, over the most
    steps. (...) for `predicted` (..., option).

    Options without an opinion are no step: they are dropped on both sides and the rest renormalised.
    `ordered`: what the survey says; None: `labels.is_scale` decides. NaN where the options are no scale,
    or where a side has no mass on it.
    """
    guesses = np.asarray(predicted, dtype=np.float64)
    if not len(gold) == guesses.shape[-1] == len(options):
        raise ValueError(f"{len(gold)} and {guesses.shape[-1]} probabilities for {len(options)} options")
    steps = [place for place, option in enumerate(options) if has_opinion(option)]
    if not (is_scale(options) if ordered is None else ordered) or len(steps) < 2:
        return np.full(guesses.shape[:-1], np.nan)
    sides = [np.asarray(gold, dtype=np.float64)[steps], guesses[..., steps]]
    with np.errstate(invalid="ignore", divide="ignore"):
        below = [np.cumsum(side / side.sum(axis=-1, keepdims=True), axis=-1) for side in sides]
    moved: Floats = np.abs(below[0] - below[1])[..., :-1].sum(axis=-1) / (len(steps) - 1)
    return moved


def earth_movers(
    gold: Distribution, predicted: Distribution, options: Sequence[str], ordered: bool | None = None
) -> float | None:
    """`earth_movers_table` of one pair; None where that has NaN."""
    moved = float(earth_movers_table(gold.probabilities, predicted.probabilities, options, ordered))
    return None if math.isnan(moved) else moved


def mode_agreement_table(gold: ArrayLike, predicted: ArrayLike) -> NDArray[np.bool_]:
    """Whether the likeliest option is the same; where several options tie, one in common is enough. (...)"""
    sides = [np.asarray(side, dtype=np.float64) for side in (gold, predicted)]
    modes = [side == side.max(axis=-1, keepdims=True) for side in sides]
    agree: NDArray[np.bool_] = (modes[0] & modes[1]).any(axis=-1)
    return agree


def modes_agree(gold: Distribution, predicted: Distribution) -> bool:
    """`mode_agreement_table` of one pair."""
    _same_options(gold, predicted)
    return bool(mode_agreement_table(gold.probabilities, predicted.probabilities))


def _same_options(gold: Distribution, predicted: Distribution) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"can not compare {len(gold)} options with {len(predicted)}")
