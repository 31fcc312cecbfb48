"""What a prediction is worth in respondents, and the ceiling that a survey's own sampling sets.

A sample of n people, drawn at random from an item's population, misses its shares by chance: alignment(gold,
multinomial(n, gold) / n) is below 100, and rises with n. So

- with the survey's own number of respondents this is what the truth itself would score against the
  survey: the ceiling, and a real one. Where the survey does not say how many answered, there is none;
- a method that scores S is worth the n whose samples score S on the same items: "as good as asking n people".

Expected values are means over DRAWS samples from a seed; an average is the mean of the countries' means, as
everywhere. Items with one right answer are no samples, and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cultural_palette.evaluation.metrics import ALIGNMENTS, Floats, alignment_table
from cultural_palette.evaluation.statistics import average

DRAWS = 200
SIZES = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000, 10_000)
"""Sample sizes whose score is simulated; between two it is linear in 1 / sqrt(n), as sampling error is."""


@dataclass(frozen=True)
class Worth:
    """The number of respondents whose sample would score the same; `low` and `high`: that of the ends of the
    score's interval. None: more than the largest of SIZES (`low`, too, where the score has no interval).
    """

    respondents: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """What samples of SIZES score on some items, under one alignment (0..100); rising."""

    scores: tuple[float, ...]

    def worth(self, score: float) -> float | None:
        """The sample size that scores so; below 1 for a score under that of one person's answer; None
        above the largest.
        """
        if score >= self.scores[-1]:
            return None
        roots = [1 / math.sqrt(size) for size in SIZES]
        if score <= self.scores[0]:  # from an empty sample, worth 0, to one person
            return max(0.0, score / self.scores[0]) if self.scores[0] > 0 else 0.0
        upper = next(k for k, value in enumerate(self.scores) if value > score)
        below, above = self.scores[upper - 1], self.scores[upper]
        share = (score - below) / (above - below)
        return (roots[upper - 1] + share * (roots[upper] - roots[upper - 1])) ** -2


def sample_scores(gold: Sequence[float], size: float, seed: int = 0, draws: int = DRAWS) -> dict[str, float]:
    """Expected alignments of a random sample of `size` people (rounded, 1 at least) with its population."""
    shares = np.asarray(gold, dtype=np.float64)
    people = max(1, round(size))
    rng = np.random.default_rng((seed, people, len(shares)))
    samples = rng.multinomial(people, shares / shares.sum(), size=draws) / people
    return {key: float(table.mean()) for key, table in alignment_table(shares, samples).items()}


def curves(
    golds: Sequence[Sequence[float]], countries: Sequence[str], seed: int = 0, draws: int = DRAWS
) -> dict[str, Curve]:
    """Alignment -> what samples of each size score on these items, averaged over countries."""
    table: dict[str, list[float]] = {key: [] for key in ALIGNMENTS}
    for size in SIZES:
        scores = [sample_scores(gold, size, seed, draws) for gold in golds]
        for key in ALIGNMENTS:
            mean = average([row[key] for row in scores], countries)
            table[key].append(0.0 if mean is None else mean)
    return {key: Curve(tuple(np.maximum.accumulate(values).tolist())) for key, values in table.items()}


def worth_of(curve: Curve, score: float, low: float | None, high: float | None) -> Worth:
    """A score and its interval in respondents."""
    return Worth(
        curve.worth(score),
        None if low is None else curve.worth(low),
        None if high is None else curve.worth(high),
    )


def ceiling_scores(
    golds: Sequence[Sequence[float]], respondents: Sequence[float | None]
) -> dict[str, Floats]:
    """What the truth itself would be expected to score against each item's sample; NaN where nobody says how
    many were asked. Alignment -> (item,).
    """
    rows = [
        None if size is None else sample_scores(gold, size)
        for gold, size in zip(golds, respondents, strict=True)
    ]
    return {key: np.array([math.nan if row is None else row[key] for row in rows]) for key in ALIGNMENTS}
