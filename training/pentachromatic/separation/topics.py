"""What the queries are about and where their writers were born, counted.

The classifier's authors advise texts of 75 words and more, and to trust labels from a confidence of 0.90 on.
Queries are shorter: labels below that confidence are counted apart, and so are queries below that length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import UnknownCountry, UsageError
from cultural_palette.training.pentachromatic.separation.texts import GivenAnswer
from cultural_palette.training.pentachromatic.separation.vectors import Vectors

CONFIDENT = 0.90
ADVISED_WORDS = 75
NOT_TOLD, OUTSIDE = "not_told", "outside_map"


@dataclass(frozen=True)
class Topics:
    """Queries by topic, told apart by the `threshold`. `short`: queries below the advised length."""

    topics: tuple[str, ...]
    confident: Mapping[str, int]
    uncertain: Mapping[str, int]
    threshold: float
    short: int
    queries: int


def topics_of(
    texts: Sequence[str], probabilities: Vectors, names: Sequence[str], threshold: float = CONFIDENT
) -> Topics:
    """Counts of the likeliest topics. `probabilities`: (N, topics)."""
    if not 0 < threshold <= 1:
        raise UsageError(f"--confidence {threshold}: expected more than 0, at most 1")
    best, sure = probabilities.argmax(1), probabilities.max(1) >= threshold
    confident = Counter(names[index] for index in best[sure])
    uncertain = Counter(names[index] for index in best[~sure])
    return Topics(
        tuple(names),
        {name: confident[name] for name in names},
        {name: uncertain[name] for name in names},
        threshold,
        sum(len(text.split()) < ADVISED_WORDS for text in texts),
        len(texts),
    )


def homes_of(queries: Sequence[GivenAnswer], cultural_map: CulturalMap) -> dict[str, int]:
    """Queries by the community where their writer was born; then those not told, or outside the map."""
    counts: Counter[str] = Counter()
    for answer in queries:
        try:
            iso3 = find_country(answer.birth_country).iso3 if answer.birth_country else None
        except UnknownCountry:
            iso3 = None
        home = cultural_map.community_of(iso3) if iso3 else None
        counts[home.key if home else OUTSIDE if answer.birth_country else NOT_TOLD] += 1
    return {key: counts[key] for key in (*(c.key for c in cultural_map.communities), NOT_TOLD, OUTSIDE)}
