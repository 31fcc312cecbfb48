"""What can be found wrong with an answer without asking a model: cheap, and the same every time."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cultural_palette.countries import all_countries
from cultural_palette.cultural_map import Community, CulturalMap
from cultural_palette.nodes.synthesis.state import Finding
from cultural_palette.prompts import template_of

FEWEST_WORDS, MOST_WORDS = 5, 400
COPIED_WORDS = 9  # in a row, out of the prompt's own example
REFUSAL = re.compile(
    r"\A\W*(?:(?:i['’]?m|i am|we['’]?re|we are) (?:very |so |truly )?(?:sorry|afraid|unable|not able)\b"
    r"|(?:i|we) (?:can ?not|can['’]?t|won['’]?t|must decline|am unable)\b"
    r"|(?:sorry|unfortunately),? (?:but )?(?:i|we) (?:can|am|are|do)\b|i apologi[sz]e\b"
    r"|as an? (?:ai|artificial|large|language)\b)",
    re.IGNORECASE,
)
LEAKS = re.compile(
    r"\bas an? (?:ai\b|artificial intelligence|(?:large )?language model)"
    r"|\bi(?: am|['’]m) (?:an? )?(?:ai|artificial intelligence|language model|chatbot|assistant)\b"
    r"|</?think>|<\|\w*|\[/?INST\]"
    r"|\b(?:the|this) (?:review(?:er)?|feedback) (?:asks|says|suggests|points)\b"
    r"|\bturned down for\b|^(?:question|review|answer|feedback|revised answer|new answer)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
SPELLINGS = {
    "GBR": ("Britain", "Great Britain", "UK"),
    "USA": ("USA", "U.S.", "US"),
    "CZE": ("Czech Republic",),
    "NLD": ("Holland",),
}


@dataclass(frozen=True)
class Marker:
    """A name that belongs to one community: its own, or one of its countries'."""

    text: str
    community: str
    what: str


def check_text(query: str, answer: str, community: Community, cultural_map: CulturalMap) -> list[Finding]:
    """Refusals, replies about themselves, lengths, copied prompt text, and names of other communities."""
    return [
        *_refusal(answer),
        *_leaks(answer),
        *_length(answer),
        *_copied(answer),
        *_foreign(query, answer, community, cultural_map),
    ]


def _refusal(answer: str) -> Iterator[Finding]:
    if match := REFUSAL.match(answer):
        yield {"kind": "format", "detail": "The reply refuses to answer.", "quote": _around(answer, match)}


def _leaks(answer: str) -> Iterator[Finding]:
    if not REFUSAL.match(answer) and (match := LEAKS.search(answer)):
        detail = "The reply speaks of itself or of its instructions."
        yield {"kind": "format", "detail": detail, "quote": _around(answer, match)}


def _length(answer: str) -> Iterator[Finding]:
    words = len(answer.split())
    unspaced = words < FEWEST_WORDS and len(answer) >= 5 * FEWEST_WORDS and not answer.isascii()
    if words < FEWEST_WORDS and not unspaced:  # Chinese, Japanese, Thai put no spaces between words
        detail = f"The answer has {words} words; at least {FEWEST_WORDS} are wanted."
        yield {"kind": "format", "detail": detail, "quote": answer[:80]}
    elif words > MOST_WORDS:
        detail = f"The answer has {words} words; at most {MOST_WORDS} are wanted."
        yield {"kind": "format", "detail": detail, "quote": None}


def _copied(answer: str) -> Iterator[Finding]:
    words = re.findall(r"\w+", answer.casefold())
    for start in range(len(words) - COPIED_WORDS + 1):
        run = " ".join(words[start : start + COPIED_WORDS])
        if run in _example_runs():
            yield {"kind": "format", "detail": "The answer copies the prompt's example.", "quote": run}
            return


@functools.cache
def _example_runs() -> frozenset[str]:
    """Every run of COPIED_WORDS words in the example of the respond prompt."""
    example = template_of("synthesis/respond").rpartition("Answer: ")[2].partition("[user]")[0]
    words = re.findall(r"\w+", example.casefold())
    return frozenset(
        " ".join(words[start : start + COPIED_WORDS]) for start in range(len(words) - COPIED_WORDS + 1)
    )


def _foreign(query: str, answer: str, community: Community, cultural_map: CulturalMap) -> Iterator[Finding]:
    pattern, markers = _markers(cultural_map)
    question = query.casefold()
    seen: set[str] = set()
    own = re.compile(rf"[ -]{re.escape(community.adjective)}\b")  # "African American" is American
    for match in pattern.finditer(answer):
        marker = markers[match[0]]
        if marker.community == community.key or marker.text in seen or marker.text.casefold() in question:
            continue
        if own.match(answer, match.end()):
            continue
        seen.add(marker.text)
        home = cultural_map.community(marker.community).name
        detail = f"{marker.text!r} is {marker.what} of {home}, and the question does not speak of it."
        yield {"kind": "foreign_marker", "detail": detail, "quote": _around(answer, match)}


@functools.lru_cache
def _markers(cultural_map: CulturalMap) -> tuple[re.Pattern[str], dict[str, Marker]]:
    """Every name that gives a community away, longest first: "Papua New Guinea" is not "Guinea". Case counts:
    turkey is a bird."""
    names = {country.iso3: country.name for country in all_countries()}
    markers: dict[str, Marker] = {}
    for community in cultural_map.communities:
        for iso3 in community.countries:
            for text in (names[iso3], *SPELLINGS.get(iso3, ())):
                markers[text] = Marker(text, community.key, "a country")
    for community in cultural_map.communities:
        for text, what in ((community.name, "the name"), (community.adjective, "the name")):
            markers.setdefault(text, Marker(text, community.key, what))
    longest_first = sorted(markers, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)"), markers


def _around(text: str, match: re.Match[str], reach: int = 30) -> str:
    """The words about a match, on one line."""
    start, end = max(0, match.start() - reach), min(len(text), match.end() + reach)
    start = text.rfind(" ", 0, start) + 1 if start else 0
    end = text.find(" ", end) if " " in text[end:] else len(text)
    return " ".join(text[start:end].split())
