"""Which part of a survey is evaluated: explicit, frozen, hashed, and written into every result."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cultural_palette.countries import find_country
from cultural_palette.errors import UnknownCountry, UsageError
from cultural_palette.provenance import short_sha256

if TYPE_CHECKING:
    from cultural_palette.cultural_map import CulturalMap

# The paper's 18, in its order.
PAPER = (
    "USA", "CAN", "BOL", "BRA", "GBR", "NLD", "DEU", "UKR", "CHN",
    "RUS", "IND", "THA", "KEN", "NGA", "ETH", "ZWE", "AUS", "NZL",
)  # fmt: skip
OPTIONS_KEPT = ("all", "substantive")
STRATIFIED, EACH, SHARED = DRAWS = ("stratified", "each", "shared")
SURVEYS, LOCAL = LANGUAGES = ("survey", "local")
"""The survey's own language, or the population's where the survey has that too."""
ROUNDING = 1e-9  # the whole number at the end of a country's strata, as a float


class DrawnQuestion(Protocol):
    """What a draw looks at in a question."""

    @property
    def id(self) -> str:
        """Its stable name."""

    @property
    def survey(self) -> str:
        """The wave it comes from."""

    @property
    def options(self) -> tuple[str, ...]:
        """As they are shown."""


class DrawnItem(Protocol):
    """What is drawn: `surveys.SurveyItem`, one country's answer to one question."""

    @property
    def question(self) -> DrawnQuestion:
        """What was asked."""

    @property
    def country(self) -> str:
        """Where, ISO3."""


Drawn = TypeVar("Drawn", bound=DrawnItem)


class SelectionError(UsageError):
    """A selection that a survey can not be cut by."""


@dataclass(frozen=True)
class Selection:
    """What is taken of a survey. Its `digest` names it.

    `countries`: ISO3 codes, none for every country the survey has. `options`: "all", or "substantive" (don't
    know, no answer, refused and missing dropped, the rest renormalised). `max_options`: most options shown.
    `questions`: that many questions a country, drawn with `seed`; None for all. `draw`: how (see
    `draw_questions`): "stratified", "each" or "shared". `part`: which side of a split. `language`: what is
    asked in, "survey" or "local" (the population's own, where the survey has it; other items are left out).
    `items`: these ids alone, a pinned list.
    """

    countries: tuple[str, ...] = ()
    options: str = "all"
    max_options: int | None = None
    questions: int | None = None
    seed: int = 0
    draw: str = STRATIFIED
    part: str | None = None
    language: str = SURVEYS
    items: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "countries", tuple(self.countries))
        if self.options not in OPTIONS_KEPT:
            raise SelectionError(f"Options {self.options!r}: expected one of {', '.join(OPTIONS_KEPT)}.")
        if self.draw not in DRAWS:
            raise SelectionError(f"Draw {self.draw!r}: expected one of {', '.join(DRAWS)}.")
        if self.language not in LANGUAGES:
            raise SelectionError(f"Language {self.language!r}: expected one of {', '.join(LANGUAGES)}.")
        object.__setattr__(self, "items", tuple(sorted(self.items)))
        if self.items and self.questions is not None:
            raise SelectionError("A pinned list names its items: leave --questions out.")
        if self.max_options is not None and self.max_options < 2:
            raise SelectionError(f"At most {self.max_options} options: a question has 2 at least.")
        if self.questions is not None and self.questions < 1:
            raise SelectionError(f"{self.questions} questions a country: expected 1 or more.")
        if len(set(self.countries)) < len(self.countries):
            raise SelectionError(f"A country stands twice in {', '.join(self.countries)}.")

    def as_dict(self) -> dict[str, Any]:
        """For a manifest: every field, and the digest."""
        return {**self._fields(), "digest": self.digest}

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 over every field."""
        text = json.dumps(self._fields(), sort_keys=True)
        return short_sha256(text)

    def _fields(self) -> dict[str, Any]:
        fields = {**asdict(self), "countries": list(self.countries)}
        if self.language == SURVEYS:
            del fields["language"]
        del fields["items"]
        if self.items:
            fields["items"] = {"count": len(self.items), "sha256": short_sha256("\n".join(self.items))}
        return fields


def resolve_countries(text: str, cultural_map: CulturalMap) -> tuple[str, ...]:
    """ISO3 codes of a comma-separated list: countries, communities of the map, "paper", "all" (none: every
    country that a survey has).

    Raises SelectionError for a name that is none of these.
    """
    communities: Mapping[str, tuple[str, ...]] = {c.key: c.countries for c in cultural_map.communities}
    codes: list[str] = []
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SelectionError("No countries: name some, communities, 'paper' or 'all'.")
    for name in names:
        folded = name.casefold().replace(" ", "_")
        if folded == "all":
            if len(names) > 1:
                raise SelectionError("'all' stands alone: leave the other countries out.")
            return ()
        if folded == "paper":
            codes += PAPER
        elif folded in communities:
            codes += communities[folded]
        else:
            try:
                codes.append(find_country(name).iso3)
            except UnknownCountry as error:
                known = ", ".join(communities)
                raise SelectionError(f"{error} Or name a community ({known}), 'paper' or 'all'.") from None
    return tuple(dict.fromkeys(codes))


def draw_questions(items: Sequence[Drawn], number: int, seed: int, draw: str = STRATIFIED) -> list[Drawn]:
    """`number` questions for each country, in the items' own order.

    "stratified": every question of a country has the same chance, and its sources and numbers of options
    stand in the draw as in the survey; a question has one lot for all countries, so that they share questions
    where they can (permanent random numbers, Ohlsson 1995). "each": the same with a lot for every country, so
    that few items hold many questions. Both are unbiased: a country's expected mean is that of all its
    questions. "shared": as many countries as possible have the very same questions. That is no sample of the
    survey: questions that were asked everywhere come first, and sources that ask the same everywhere with
    them.
    """
    if draw == SHARED:
        return _draw_shared(items, number, seed)
    by_country: defaultdict[str, list[DrawnQuestion]] = defaultdict(list)
    met: set[tuple[str, str]] = set()
    for item in items:
        if (item.country, item.question.id) not in met:  # several populations of a country are one draw
            by_country[item.country].append(item.question)
        met.add((item.country, item.question.id))
    drawn: set[tuple[str, str]] = set()
    for (
        country,
        questions,
    ) in by_country.items():  # a country's draw does not depend on which others there are
        whose = country if draw == EACH else ""
        drawn.update((key, country) for key in _stratified(questions, number, f"{seed}/{whose}"))
    return [item for item in items if (item.question.id, item.country) in drawn]


def _stratified(questions: Sequence[DrawnQuestion], number: int, seed: str) -> Iterator[str]:
    """Ids of `number` of a country's questions, in proportion to its strata (source, number of options).

    A stratum's share of `number` is rounded up or down by lot, so that it is right in the mean: its fractions
    are laid end to end, and those are rounded up on which a grid of step 1 with a random start falls.
    """
    if number >= len(questions):
        yield from (question.id for question in questions)
        return
    strata: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for question in questions:
        strata[question.survey, len(question.options)].append(question.id)
    start = random.Random(f"{seed}/rounding").random()
    before = Fraction(0)
    for stratum in sorted(strata):
        keys = strata[stratum]
        share = Fraction(number * len(keys), len(questions))
        after = before + share
        size = math.floor(float(after) + start + ROUNDING) - math.floor(float(before) + start + ROUNDING)
        before = after
        lots = sorted((random.Random(f"{seed}/{key}").random(), key) for key in keys)
        yield from (key for _, key in lots[:size])


def _draw_shared(items: Sequence[Drawn], number: int, seed: int) -> list[Drawn]:
    """Again and again the question that most countries still lack (drawn by `seed` among equals), until each
    country has its number or all it was asked.
    """
    countries_of: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        if item.country not in countries_of[item.question.id]:
            countries_of[item.question.id].append(item.country)
    lot = random.Random(seed)
    rank = {key: lot.random() for key in sorted(countries_of)}
    drawn: set[tuple[str, str]] = set()
    sizes: Counter[str] = Counter()
    left = set(countries_of)
    while left:
        lacking = {key: [c for c in countries_of[key] if sizes[c] < number] for key in left}
        best = min(left, key=lambda key: (-len(lacking[key]), rank[key]))
        if not lacking[best]:
            break
        drawn.update((best, country) for country in lacking[best])
        sizes.update(lacking[best])
        left.remove(best)
    return [item for item in items if (item.question.id, item.country) in drawn]
