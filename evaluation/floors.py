"""What answers score that need no model: floors to stand above, and ceilings to measure against.

Every floor gives every item a distribution, so that all are compared on the same items. They learn from the
whole selection, before questions are drawn from it or split off:

- `uniform`: each option the same.
- `mean_per_size`: the mean of the selection's distributions over that many options, by place (A, B, ...):
  what a guess knows that has seen the survey's habits and not the question. The item's own row is among
  them.
- `mean_of_others`: the mean of the selection's other countries on the same question; where no other country
  was asked it, uniform (counted as `without_others`). A ceiling for what knows the question and not the
  country.
- `oracle_mode`: all mass on the country's most frequent option (the first of equals): the best that an answer
  with one letter can do.

Means over countries are means of the countries' means, as in the paper.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.metrics import ALIGNMENTS, alignments
from cultural_palette.evaluation.surveys import Survey, SurveyItem

UNIFORM, PER_SIZE, OTHERS, MODE = "uniform", "mean_per_size", "mean_of_others", "oracle_mode"
FLOORS = {
    UNIFORM: "uniform",
    PER_SIZE: "mean per number of options",
    OTHERS: "mean of the other countries",
    MODE: "best one-hot (oracle's mode)",
}
Scores = Mapping[str, float]


@dataclass(frozen=True)
class CountryFloors:
    """One country: its number of items, and for each floor the mean of each alignment (0..100)."""

    n: int
    floors: Mapping[str, Scores]


@dataclass(frozen=True)
class FloorTable:
    """`per_item`: floor -> item -> alignment -> value; `countries` in the survey's order; `means` over
    them.
    """

    per_item: Mapping[str, Mapping[str, Scores]]
    countries: Mapping[str, CountryFloors]
    means: Mapping[str, Scores]
    without_others: int


def floors_of(survey: Survey) -> dict[str, Any]:
    """For a run's `floors.json`: {floor: {"title": str, "per_item": {item: {alignment: value}}}}."""
    per_item = score_floors(survey).per_item
    return {
        floor: {"title": title, "per_item": {item: dict(row) for item, row in per_item[floor].items()}}
        for floor, title in FLOORS.items()
    }


def floor_distributions(survey: Survey) -> dict[str, dict[str, Distribution]]:
    """Each floor's distribution for each item: floor -> item -> distribution."""
    by_size: defaultdict[int, list[Distribution]] = defaultdict(list)
    by_question: defaultdict[str, list[SurveyItem]] = defaultdict(list)
    for item in survey.whole:
        by_size[len(item.gold)].append(item.gold)
        by_question[item.question.id].append(item)
    size_means = {size: Distribution.mix(rows) for size, rows in by_size.items()}
    found: dict[str, dict[str, Distribution]] = {floor: {} for floor in FLOORS}
    for item in survey.items:
        uniform = Distribution.uniform(len(item.gold))
        others = [other.gold for other in by_question[item.question.id] if other.country != item.country]
        found[UNIFORM][item.id] = uniform
        found[PER_SIZE][item.id] = size_means[len(item.gold)]
        found[OTHERS][item.id] = Distribution.mix(others) if others else uniform
        found[MODE][item.id] = _one_hot(item.gold)
    return found


def score_floors(survey: Survey) -> FloorTable:
    """Every floor on every item of a survey, by country, and the means over countries."""
    distributions = floor_distributions(survey)
    golds = {item.id: item.gold for item in survey.items}
    per_item = {
        floor: {key: alignments(golds[key], guess) for key, guess in rows.items()}
        for floor, rows in distributions.items()
    }
    of_country: defaultdict[str, list[str]] = defaultdict(list)
    for item in survey.items:
        of_country[item.country].append(item.id)
    countries = {
        code: CountryFloors(
            len(of_country[code]),
            {floor: _mean([rows[key] for key in of_country[code]]) for floor, rows in per_item.items()},
        )
        for code in survey.countries
    }
    means = {floor: _mean([row.floors[floor] for row in countries.values()]) for floor in FLOORS if countries}
    asked = Counter(item.question.id for item in survey.whole)
    return FloorTable(per_item, countries, means, sum(asked[item.question.id] == 1 for item in survey.items))


def _one_hot(gold: Distribution) -> Distribution:
    """All mass on the first of the likeliest options."""
    return Distribution(tuple(float(place == gold.mode_index) for place in range(len(gold))))


def _mean(rows: Sequence[Scores]) -> dict[str, float]:
    return {key: math.fsum(row[key] for row in rows) / len(rows) for key in ALIGNMENTS}
