"""A survey beside the page's answers: what real people of a country said to the same question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cultural_palette.countries import find_country
from cultural_palette.errors import UnknownCountry

if TYPE_CHECKING:
    from cultural_palette.evaluation.surveys import Survey

MOST_SUGGESTED = 24


class Beside:
    """What the server shows beside its answers; `survey` is put there before it starts."""

    def __init__(self, survey: Survey | None = None) -> None:
        self.survey = survey
        self._items = (
            {(_key(item.question.text), item.country): item for item in survey.items} if survey else {}
        )

    def described(self) -> dict[str, Any] | None:
        """The survey's name and its first questions, as the catalogue has them; None without one."""
        if self.survey is None:
            return None
        questions = self.survey.questions[:MOST_SUGGESTED]
        return {
            "name": self.survey.name,
            "questions": [{"question": q.text, "options": q.options} for q in questions],
        }

    def shares(self, country: str, question: str, options: Sequence[str]) -> dict[str, Any] | None:
        """Option -> share of a country's people, as the person wrote the options, in any order; None where the
        survey has not that question with those options for that country (ISO code).
        """
        try:
            item = self._items.get((_key(question), find_country(country).iso3))
        except UnknownCountry:
            return None
        if item is None or self.survey is None:
            return None
        given = {_key(option): option for option in options}
        if set(given) != {_key(option) for option in item.question.options}:
            return None
        shares = zip(item.question.options, item.gold.probabilities, strict=True)
        return {
            "survey": self.survey.name,
            "sample": item.label,
            "shares": {given[_key(option)]: share for option, share in shares},
        }


def _key(text: str) -> str:
    return " ".join(text.casefold().split())
