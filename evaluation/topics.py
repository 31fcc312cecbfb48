"""What a question is about, by the survey's own topic or by its words; what its options are; where a
country lies.

A rough rule, for tables that show where a method is good and where it is not; never for a choice of
items. Topics are the first whose words a question holds, in this order; "other" where none does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cultural_palette.evaluation.labels import has_opinion

TOPICS: Mapping[str, str] = {
    "religion and morals": r"relig|god|church|pray|faith|moral|justif|\bsin\b|abortion|homosexual"
    r"|divorce|suicide",
    "family and gender": r"famil|child|marri|wom[ae]n|\bm[ae]n\b|mother|father|husband|wife|gender|parent",
    "science, media and technology": r"internet|media|news|technolog|scien|social network|phone"
    r"|computer|vaccin",
    "environment and health": r"climate|environment|pollut|energy|health|disease|water|virus|warming",
    "economy and work": r"econom|job|work|income|trade|poor|poverty|rich|money|business|financ|wage"
    r"|price|debt",
    "security and foreign affairs": r"militar|war\b|terror|nuclear|threat|nato|united nations|china"
    r"|russia|united"
    r" states|u\.s\.|american|iran|europe|refugee|immigra|\ball(y|ies)\b|weapon|drone|foreign",
    "politics and government": r"democra|govern|elect|vot|politic|president|leader|party|parliament"
    r"|law|court|rights"
    r"|corrupt|police|free speech|freedom",
    "trust and well-being": r"trust|confiden|happy|satisf|important in (your|my) life|neighbo|health"
    r"|friends|leisure",
}
_PATTERNS = {topic: re.compile(words, re.IGNORECASE) for topic, words in TOPICS.items()}
OTHER = "other"
TWO, SCALE, UNORDERED = "two options", "a scale", "unordered options"


def topic_of(text: str, own: str | None = None) -> str:
    """The survey's own topic, else that of the first words that are found."""
    if own:
        return own
    return next((topic for topic, pattern in _PATTERNS.items() if pattern.search(text)), OTHER)


def options_kind(options: Sequence[str], ordered: bool | None) -> str:
    """Two options with an opinion, a scale, or neither."""
    if sum(map(has_opinion, options)) <= 2:
        return TWO
    return SCALE if ordered else UNORDERED
