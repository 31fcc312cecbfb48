"""Which part of a survey is evaluated: explicit, frozen, hashed, and written into every result."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from cultural_palette.countries import find_country
from cultural_palette.errors import UnknownCountry, UsageError
from cultural_palette.provenance import short_sha256

if TYPE_CHECKING:
    from cultural_palette.cultural_map import CulturalMap
    from cultural_palette.evaluation.surveys import Survey, SurveyItem

# The paper's 18, in its order.
PAPER = (
    "USA", "CAN", "BOL", "BRA", "GBR", "NLD", "DEU", "UKR", "CHN",
    "RUS", "IND", "THA", "KEN", "NGA", "ETH", "ZWE", "AUS", "NZL",
)  # fmt: skip
OPTIONS_KEPT = ("all", "substantive")
DRAWS = ("shared", "each")


class SelectionError(UsageError):
    """A selection that a survey can not be cut by."""


@dataclass(frozen=True)
class Selection:
    """What is taken of a survey. Its `digest` names it.

    `countries`: ISO3 codes, none for every country the survey has. `options`: "all", or "substantive" (don't
    know, no answer, refused and missing dropped, the rest renormalised). `max_options`: most options shown.
    `questions`: that many questions a country, drawn with `seed`; None for all. `draw`: "shared", the same
    questions for all countries as far as possible, or "each", every country its own. `part`: which side of a
    split.
    """

    countries: tuple[str, ...] = ()
    options: str = "all"
    max_options: int | None = None
    questions: int | None = None
    seed: int = 0
    draw: str = "shared"
    part: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "countries", tuple(self.countries))
        if self.options not in OPTIONS_KEPT:
            raise SelectionError(f"Options {self.options!r}: expected one of {', '.join(OPTIONS_KEPT)}.")
        if self.draw not in DRAWS:
            raise SelectionError(f"Draw {self.draw!r}: expected one of {', '.join(DRAWS)}.")
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
        return {**asdict(self), "countries": list(self.countries)}


def resolve_countries(text: str, cultural_map: CulturalMap) -> tuple[str, ...]:
    """ISO3 codes of a comma-separated list: countries, communities of the map, "paper", "all" (none: every
    country that a survey has).

    Raises SelectionError for a name that is none of these.
    """
    communities: Mapping[str, tuple[str, ...]] = {c.key: c.countries for c in cultural_map.communities}
    found: list[str] = []
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
            found += PAPER
        elif folded in communities:
            found += communities[folded]
        else:
            try:
                found.append(find_country(name).iso3)
            except UnknownCountry as error:
                known = ", ".join(communities)
                raise SelectionError(f"{error} Or name a community ({known}), 'paper' or 'all'.") from None
    return tuple(dict.fromkeys(found))


def draw_questions(
    items: Sequence[SurveyItem], number: int, seed: int, draw: str = "shared"
) -> list[SurveyItem]:
    """`number` questions for each country, in the items' own order.

    "shared": the same ones for all as far as the survey asked them there, so that countries compare: again
    and again the question that most countries still lack (drawn by `seed` among equals), until each country
    has its number or all it was asked. "each": every country its own draw, so that few items hold many
    questions, which narrows intervals clustered by question.
    """
    if draw == "each":
        return _draw_each(items, number, seed)
    askers: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        askers[item.question.id].append(item.country)
    lot = random.Random(seed)
    rank = {key: lot.random() for key in sorted(askers)}
    taken: set[tuple[str, str]] = set()
    have: Counter[str] = Counter()
    left = set(askers)
    while left:
        lacking = {key: [c for c in askers[key] if have[c] < number] for key in left}
        best = min(left, key=lambda key: (-len(lacking[key]), rank[key]))
        if not lacking[best]:
            break
        taken.update((best, country) for country in lacking[best])
        have.update(lacking[best])
        left.remove(best)
    return [item for item in items if (item.question.id, item.country) in taken]


def _draw_each(items: Sequence[SurveyItem], number: int, seed: int) -> list[SurveyItem]:
    asked: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        asked[item.country].append(item.question.id)
    taken: set[tuple[str, str]] = set()
    for country in sorted(asked):  # each country's draw is its own: another selection of countries keeps it
        questions = sorted(asked[country])
        drawn = random.Random(f"{seed}/{country}").sample(questions, min(number, len(questions)))
        taken.update((question, country) for question in drawn)
    return [item for item in items if (item.question.id, item.country) in taken]


def split(survey: Survey, share: float, seed: int = 0) -> tuple[Survey, Survey]:
    """Two surveys: one with about `share` (0..1) of the questions, and the rest. Batteries are never
    parted.
    """
    if not 0 < share < 1:
        raise SelectionError(f"Share {share:g}: expected more than 0 and less than 1.")
    sizes = Counter(question.battery for question in survey.questions)
    batteries = sorted(sizes)
    random.Random(seed).shuffle(batteries)
    wanted = share * len(survey.questions)
    first: set[str] = set()
    for battery in batteries:
        if wanted >= sizes[battery] / 2:
            first.add(battery)
            wanted -= sizes[battery]
    parts = []
    for which, told in ((True, "first"), (False, "second")):
        items = tuple(item for item in survey.items if (item.question.battery in first) is which)
        selection = replace(survey.selection, part=f"{told} of a split at {share:g}, seed {seed}")
        counts = {**survey.counts, "items": len(items), "questions": len({i.question.id for i in items})}
        parts.append(replace(survey, items=items, selection=selection, counts=counts))
    return parts[0], parts[1]
