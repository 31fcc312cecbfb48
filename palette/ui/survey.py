"""A survey beside the page's answers: what real people of a country said to the same question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cultural_palette.countries import find_country
from cultural_palette.errors import UnknownCountry

MOST_SUGGESTED = 24


@dataclass(frozen=True)
class Surveyed:
    """What a country's people said. `country`: ISO code; `shares`: option -> share (they sum to 1); `sample`:
    what the survey calls them.
    """

    question: str
    country: str
    shares: Mapping[str, float]
    sample: str


class ShownSurvey:
    """A survey by its name, looked up by question and country."""

    def __init__(self, name: str = "", answers: Iterable[Surveyed] = ()) -> None:
        self.name = name
        self._answers = {(_key(answer.question), answer.country): answer for answer in answers}

    def described(self) -> dict[str, Any] | None:
        """The survey's name and its first questions, as the catalogue has them; None without any."""
        if not self._answers:
            return None
        first = {answer.question: answer for answer in reversed(self._answers.values())}
        questions = [
            {"question": answer.question, "options": list(answer.shares)}
            for answer in reversed(first.values())
        ]
        return {"name": self.name, "questions": questions[:MOST_SUGGESTED]}

    def shares(self, country: str, question: str, options: Sequence[str]) -> dict[str, Any] | None:
        """Option -> share of a country's people, as the person wrote the options, in any order; None where
        the survey has not that question with those options for that country (ISO code).
        """
        try:
            answer = self._answers.get((_key(question), find_country(country).iso3))
        except UnknownCountry:
            return None
        given = {_key(option): option for option in options}
        if answer is None or set(given) != {_key(option) for option in answer.shares}:
            return None
        return {
            "survey": self.name,
            "sample": answer.sample,
            "shares": {given[_key(option)]: share for option, share in answer.shares.items()},
        }


_SHOWN = ShownSurvey()


def shown_survey() -> ShownSurvey:
    """The survey of this process' server; an empty one without."""
    return _SHOWN


def show_survey(survey: ShownSurvey) -> None:
    """Show `survey` beside the answers of this process' server, which reads it with every request."""
    global _SHOWN
    _SHOWN = survey


def _key(text: str) -> str:
    return " ".join(text.casefold().split())
