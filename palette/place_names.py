"""Names of countries and communities in a text, out of sight: then it does not say whose it is."""

from __future__ import annotations

import functools
import re

from cultural_palette.countries import all_countries
from cultural_palette.cultural_map import CulturalMap


def hide_names(text: str, cultural_map: CulturalMap, by: str = "...") -> str:
    """The text with every name of a country or community, and communities' adjectives, as `by`. Demonyms
    ("Kenyans") stay.
    """
    own = (name for community in cultural_map.communities for name in (community.name, community.adjective))
    return _named(frozenset(own)).sub(by, text)


@functools.lru_cache(maxsize=8)
def _named(own: frozenset[str]) -> re.Pattern[str]:
    names = own | {country.name for country in all_countries()}
    longest_first = sorted(map(re.escape, names), key=lambda name: (-len(name), name))
    return re.compile(rf"\b(?:{'|'.join(longest_first)})\b")
