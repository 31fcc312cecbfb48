"""Countries that a text names ("in Kenya", "Kenyans"), and options that it lists ("A) Yes B) No").

For the chat, where all that is known may stand in one message.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from cultural_palette.countries import ALIASES, NICKNAMES, Country, all_countries, find_country
from cultural_palette.errors import UnknownCountry

DEMONYMS = Path(__file__).with_name("demonyms.yaml")
PLACE, ADJECTIVE, PEOPLE = "place", "adjective", "people"
# Before a country's name these say whose answer is wanted; "the Russian threat" is about Russia, while
# "Russians" and "Russian parents" are people who might answer.
LOCATING = r"(?:in|from|for|ask|asking|as|people of|someone of|citizens of|views? of)\s+(?:the\s+)?"
PEOPLE_AFTER = re.compile(
    r"\s+(?:people|persons?|citizens?|men|women|families|family|parents|voters|youths?|adults)\b",
    re.IGNORECASE,
)
ADDRESSED = re.compile(r"\s*[:,\u2013\u2014-]\s")  # "Kenya: what is a good life?"
JOINED = re.compile(r"(?:\s|,|&|/|\band\b|\bor\b|\bthe\b|\bin\b)+", re.IGNORECASE)
SHORT_FORMS = {"US": "USA", "U.S.": "USA", "USA": "USA", "U.S.A.": "USA", "UK": "GBR", "U.K.": "GBR"}
_SHORT = {form.casefold() for form in SHORT_FORMS}  # only in capitals: "us" is a word
NO_COUNTRY_WHEN_SMALL = (
    "polish", "turkey", "china", "chad", "jordan", "guinea", "swiss", "pole", "poles", "kiwi", "kiwis",
    "finn",
)  # fmt: skip
MEN = ("frenchman", "irishman", "dutchman")
LETTERED = re.compile(r"(?:^|(?<=\s))\(?([A-Za-z])[).:]\s+")
NUMBERED = re.compile(r"(?:^|(?<=\s))\(?(\d{1,2})[).:]\s+")
BULLET = re.compile(r"^\s*[-*\u2022]\s+(.+?)\s*$")
HEADING = re.compile(r"\s*\b(?:options|answers|choices|choose from)\s*:\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Mentions:
    """Countries in a text, in the order they stand. `located`: those whose view it asks for ("in Kenya",
    "Kenyans"); `others`: those that it only names ("Is China a threat?"). `rest`: the text without any.
    """

    located: tuple[Country, ...]
    others: tuple[Country, ...]
    rest: str

    @property
    def all(self) -> tuple[Country, ...]:
        """Located ones first."""
        return tuple(dict.fromkeys((*self.located, *self.others)))


def countries_in(text: str) -> Mentions:
    """The countries that a text names, each once; longer names win ("South Sudan" over "Sudan")."""
    located: dict[str, Country] = {}
    others: dict[str, Country] = {}
    rest: list[str] = []
    read_to, located_to = 0, None
    for match in _pattern().finditer(text):
        name, plain = match["name"], match["name"].casefold()
        if plain in _SHORT and not name.isupper():
            continue
        if name.islower() and plain in NO_COUNTRY_WHEN_SMALL and not match["where"]:
            continue
        country, kind = _names()[plain]
        addressed = not text[: match.start()].strip() and ADDRESSED.match(text, match.end()) is not None
        joined = located_to is not None and JOINED.fullmatch(text, located_to, match.start()) is not None
        people = kind == PEOPLE or (kind == ADJECTIVE and PEOPLE_AFTER.match(text, match.end()) is not None)
        if match["where"] or people or addressed or joined:
            located[country.iso3] = country
            located_to = match.end()
        else:
            others[country.iso3] = country
            located_to = None
        rest.append(text[read_to : match.start()])
        read_to = match.end()
    rest.append(text[read_to:])
    others = {code: country for code, country in others.items() if code not in located}
    return Mentions(tuple(located.values()), tuple(others.values()), " ".join(" ".join(rest).split()))


def country_alone(text: str) -> Country | None:
    """The country of a text that is nothing but one: "Kenya", "in Kenya, please", "KEN"."""
    bare = text.strip().strip(".!?, ")
    try:
        return find_country(bare)
    except UnknownCountry:
        pass
    mentions = countries_in(bare)
    words = re.findall(r"\w+", mentions.rest)
    return mentions.all[0] if len(mentions.all) == 1 and len(words) <= 2 else None


def options_in(text: str) -> tuple[str, tuple[str, ...]]:
    """A question and the options listed below or behind it: lettered, numbered or bulleted, two at least.
    Without such a list: the text as it is, and none.
    """
    for marker, first in ((LETTERED, "a"), (NUMBERED, "1")):
        if (read := _marked(text, marker, first)) is not None:
            return read
    lines = text.rstrip().splitlines()
    bullets: list[str] = []
    while lines and (match := BULLET.match(lines[-1])):
        bullets.insert(0, match[1])
        lines.pop()
    if len(bullets) >= 2:
        return _without_heading("\n".join(lines)), tuple(bullets)
    return text.strip(), ()


def _marked(text: str, marker: re.Pattern[str], first: str) -> tuple[str, tuple[str, ...]] | None:
    """Markers that count on from the first: A, B, C or 1, 2, 3."""
    markers: list[re.Match[str]] = []
    for match in marker.finditer(text):
        wanted = _successor(markers[-1][1].casefold()) if markers else first
        dotted = match[0].rstrip()[-1] in ".:"
        starts_line = text[: match.start()].rstrip(" \t").endswith("\n") or not text[: match.start()].strip()
        if match[1].casefold() == wanted and (starts_line or not dotted):
            markers.append(match)
    if len(markers) < 2:
        return None
    ends = [*(match.start() for match in markers[1:]), len(text)]
    options = tuple(
        " ".join(text[match.end() : end].split()).rstrip(",;")
        for match, end in zip(markers, ends, strict=True)
    )
    return _without_heading(text[: markers[0].start()]), options


def _successor(label: str) -> str:
    return str(int(label) + 1) if label.isdigit() else chr(ord(label) + 1)


def _without_heading(text: str) -> str:
    return HEADING.sub("", text).strip()


@functools.cache
def _names() -> Mapping[str, tuple[Country, str]]:
    """Every name, folded to lower case -> its country, and what the name is."""
    by_code = {country.iso3: country for country in all_countries()}
    names: dict[str, tuple[Country, str]] = {}
    for code, aliases in ALIASES.items():
        names |= {alias.casefold(): (by_code[code], PLACE) for alias in aliases}
    names |= {name.casefold(): (by_code[code], PLACE) for name, code in NICKNAMES.items() if code in by_code}
    names |= {form.casefold(): (by_code[code], PLACE) for form, code in SHORT_FORMS.items()}
    for code, words in yaml.safe_load(DEMONYMS.read_text(encoding="utf-8")).items():
        for word in map(str.casefold, words):
            plural = word[:-3] + "men" if word in MEN else word + "s"
            names |= {word: (by_code[code], ADJECTIVE), plural: (by_code[code], PEOPLE)}
    names |= {country.name.casefold(): (country, PLACE) for country in by_code.values()}
    return names


@functools.cache
def _pattern() -> re.Pattern[str]:
    longest_first = sorted(_names(), key=len, reverse=True)
    names = "|".join(re.escape(name) for name in longest_first)
    return re.compile(rf"(?P<where>\b{LOCATING})?(?<!\w)(?P<name>{names})(?!\w)", re.IGNORECASE)
