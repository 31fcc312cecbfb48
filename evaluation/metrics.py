"""How near a predicted distribution comes to a survey's.

The paper's eq. 5 prints 1 - Jensen-Shannon divergence, its text says distance; only 1 - distance with natural
logarithms fits its figures. So all four are always computed, on 0..100, 100 for the same distribution:

    jsd_e     1 - divergence in nats   (eq. 5 as printed; never below 30.7, a uniform guess scores 88)
    jsd_2     1 - divergence in bits
    jsdist_2  1 - distance, base 2
    jsdist_e  1 - distance, base e     (comparable to the paper)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.labels import has_opinion, is_scale

ALIGNMENTS = ("jsd_e", "jsd_2", "jsdist_2", "jsdist_e")
TITLES = {
    "jsd_e": "1 - JSD, nats (eq. 5)",
    "jsd_2": "1 - JSD, bits",
    "jsdist_2": "1 - JS distance, base 2",
    "jsdist_e": "1 - JS distance, base e (comparable to the paper)",
}


def alignments(gold: Distribution, predicted: Distribution) -> dict[str, float]:
    """The four alignments, 0..100. Raises ValueError when the two are not over the same number of options."""
    distance_e = gold.js_distance(predicted, math.e)
    distance_2 = min(1.0, distance_e / math.sqrt(math.log(2)))  # bits are nats / ln 2
    distances = {
        "jsd_e": distance_e**2,
        "jsd_2": distance_2**2,
        "jsdist_2": distance_2,
        "jsdist_e": distance_e,
    }
    return {key: 100 * (1 - distances[key]) for key in ALIGNMENTS}


def earth_movers(
    gold: Distribution, predicted: Distribution, options: Sequence[str], ordered: bool | None = None
) -> float | None:
    """Earth mover's distance along an ordered scale, 0..1: mean number of steps mass moves, over the most
    steps.

    Options without an opinion are no step: they are dropped on both sides and the rest renormalised.
    `ordered`: what the survey says; None: `labels.is_scale` decides. None where the options are no scale,
    or where a side has no mass on it.
    """
    from scipy.stats import wasserstein_distance

    if not len(gold) == len(predicted) == len(options):
        raise ValueError(f"{len(gold)} and {len(predicted)} probabilities for {len(options)} options")
    if not (is_scale(options) if ordered is None else ordered):
        return None
    steps = [place for place, option in enumerate(options) if has_opinion(option)]
    sides = [[side.probabilities[place] for place in steps] for side in (gold, predicted)]
    if len(steps) < 2 or any(sum(side) <= 0 for side in sides):
        return None
    places = list(range(len(steps)))
    return float(wasserstein_distance(places, places, *sides)) / (len(steps) - 1)


def modes_agree(gold: Distribution, predicted: Distribution) -> bool:
    """Whether the likeliest option is the same; where several options tie, one in common is enough."""
    if len(gold) != len(predicted):
        raise ValueError(f"can not compare {len(gold)} options with {len(predicted)}")
    modes = [
        {k for k, p in enumerate(d.probabilities) if p == max(d.probabilities)} for d in (gold, predicted)
    ]
    return bool(modes[0] & modes[1])


def score(
    gold: Distribution, predicted: Distribution, options: Sequence[str], ordered: bool | None = None
) -> dict[str, float | None]:
    """Every metric of one item: the four alignments, `earth_movers` (0..1, None), `modes_agree` (0, 1)."""
    return {
        **alignments(gold, predicted),
        "earth_movers": earth_movers(gold, predicted, options, ordered),
        "modes_agree": float(modes_agree(gold, predicted)),
    }
