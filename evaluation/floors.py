"""What answers score that ask no model: floors to stand above, and references that know more than a method.

They learn from the whole selection, before questions are drawn from it or split off:

- `uniform`: each option the same. A floor.
- `mean_per_size`: the mean of the selection's distributions over that many options, by place (A, B, ...),
  without those of the item's own question: what a guess knows that has seen the survey's habits and not the
  question. A floor.
- `mean_of_others`: the mean of the same question in every other country (every other population, where the
  file has several of a country) that the file has, whichever were selected: what knows the question and not
  the country. A reference: some countries stand so far from the others that it lies below a floor there.
- `sampling`: what the truth itself would score against a sample of so many respondents as the survey had,
  where it says how many. A reference, and the only ceiling: nobody can be expected to come nearer to this
  survey.
- `oracle_mode`: all mass on the country's most frequent option (the first of equals). A reference: the best
  that an answer with one letter can do, which most distributions beat.

Where there is nothing to learn from (no other question of that size, no other country) an item has no such
value: it is left out there and counted. Means over countries are means of the countries' means, as in the
paper.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.metrics import ALIGNMENTS, alignments
from cultural_palette.evaluation.surveys import Survey
from cultural_palette.evaluation.worth import sample_scores

UNIFORM, PER_SIZE, OTHERS, MODE = "uniform", "mean_per_size", "mean_of_others", "oracle_mode"
SAMPLING = "sampling"
FLOORS = {
    UNIFORM: "uniform",
    PER_SIZE: "mean per number of options",
    OTHERS: "mean of the file's other countries",
    MODE: "best one-hot answer",
}
TITLES = {**FLOORS, SAMPLING: "the truth, through the survey's own sampling"}
"""Of all that a table can have; the last only where the survey says how many answered."""
REFERENCES = (OTHERS, MODE, SAMPLING)
"""They know the survey's answers to the very question; only the last bounds anything."""
Scores = Mapping[str, float]


@dataclass(frozen=True)
class CountryFloors:
    """One country: its number of items, and for each floor that has any the mean of each alignment."""

    n: int
    floors: Mapping[str, Scores]


@dataclass(frozen=True)
class FloorTable:
    """`per_item`: floor -> item -> alignment -> value (0..100); `countries` in the survey's order; `means`
    over them; `missing`: floor -> items that have no such value; `whole`: `means` over all items of the
    selection, before questions were drawn, None where none were.
    """

    per_item: Mapping[str, Mapping[str, Scores]]
    countries: Mapping[str, CountryFloors]
    means: Mapping[str, Scores]
    missing: Mapping[str, int]
    whole: Mapping[str, Scores] | None


def floors_of(survey: Survey) -> dict[str, Any]:
    """For a run's `floors.json`: {floor: {"title", "reference", "missing", "per_item": {item: {alignment:
    value}}, "whole": {alignment: mean over the whole selection} or None}}.
    """
    table = score_floors(survey)
    return {
        floor: {
            "title": title,
            "reference": floor in REFERENCES,
            "missing": table.missing[floor],
            "per_item": {item: dict(scores) for item, scores in table.per_item[floor].items()},
            "whole": dict(table.whole[floor]) if table.whole and floor in table.whole else None,
        }
        for floor, title in TITLES.items()
        if floor in table.per_item
    }


def floor_distributions(survey: Survey) -> dict[str, dict[str, Distribution]]:
    """Each floor's distribution for each item that has one: floor -> item -> distribution."""
    by_size: defaultdict[int, _Sum] = defaultdict(_Sum)
    of_question: defaultdict[str, _Sum] = defaultdict(_Sum)
    for item in survey.whole:
        by_size[len(item.gold)].add(item.gold)
        of_question[item.question.id].add(item.gold)
    everywhere: defaultdict[str, dict[str, Distribution]] = defaultdict(dict)
    for item in survey.everywhere:
        everywhere[item.question.id][item.id] = item.gold
    table: dict[str, dict[str, Distribution]] = {floor: {} for floor in FLOORS}
    for item in survey.items:
        table[UNIFORM][item.id] = Distribution.uniform(len(item.gold))
        if (habit := by_size[len(item.gold)].mean_without(of_question[item.question.id])) is not None:
            table[PER_SIZE][item.id] = habit
        others = [gold for key, gold in everywhere[item.question.id].items() if key != item.id]
        if others:
            table[OTHERS][item.id] = Distribution.mix(others)
        table[MODE][item.id] = _one_hot(item.gold)
    return table


def score_floors(survey: Survey) -> FloorTable:
    """Every floor on every item of a survey, by country, and the means over countries."""
    per_item, countries, means = _scored(survey)
    drawn = len(survey.items) < len(survey.whole)
    whole = _scored(replace(survey, items=survey.whole))[2] if drawn else None
    missing = {floor: len(survey.items) - len(scores) for floor, scores in per_item.items()}
    return FloorTable(per_item, countries, means, missing, whole)


def _scored(
    survey: Survey,
) -> tuple[dict[str, dict[str, Scores]], dict[str, CountryFloors], dict[str, Scores]]:
    golds = {item.id: item.gold for item in survey.items}
    per_item: dict[str, dict[str, Scores]] = {
        floor: {key: alignments(golds[key], guess) for key, guess in guesses.items()}
        for floor, guesses in floor_distributions(survey).items()
    }
    if any(item.respondents for item in survey.items):
        per_item[SAMPLING] = {
            item.id: sample_scores(item.gold.probabilities, item.respondents)
            for item in survey.items
            if item.respondents and not item.labelled
        }
    of_country: defaultdict[str, list[str]] = defaultdict(list)
    for item in survey.items:
        of_country[item.country].append(item.id)
    countries = {}
    for code in survey.countries:
        scores = {
            floor: [table[key] for key in of_country[code] if key in table]
            for floor, table in per_item.items()
        }
        floors = {floor: _mean(some) for floor, some in scores.items() if some}
        countries[code] = CountryFloors(len(of_country[code]), floors)
    means: dict[str, Scores] = {}
    for floor in per_item:
        if some := [row.floors[floor] for row in countries.values() if floor in row.floors]:
            means[floor] = _mean(some)
    return per_item, countries, means


class _Sum:
    """A sum of distributions of one size, from which parts can be taken out again."""

    def __init__(self) -> None:
        self.total: list[float] = []
        self.count = 0

    def add(self, gold: Distribution) -> None:
        """One more."""
        self.total = [a + b for a, b in zip(self.total or [0.0] * len(gold), gold.probabilities, strict=True)]
        self.count += 1

    def mean_without(self, part: _Sum) -> Distribution | None:
        """The mean of all but a part; None when nothing else is there."""
        if self.count == part.count:
            return None
        left = [max(0.0, a - b) for a, b in zip(self.total, part.total, strict=True)]
        return Distribution.from_counts(left)


def _one_hot(gold: Distribution) -> Distribution:
    """All mass on the first of the likeliest options."""
    return Distribution(tuple(float(place == gold.mode_index) for place in range(len(gold))))


def _mean(rows: Sequence[Scores]) -> dict[str, float]:
    return {key: math.fsum(row[key] for row in rows) / len(rows) for key in ALIGNMENTS}
