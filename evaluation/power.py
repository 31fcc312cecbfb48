"""How many items a difference needs, before anything is run.

The error of a paired difference follows from which items are drawn: with weights w (a country's items share
1 / countries), an item's difference of standard deviation `sd`, of whose variance a share `icc` is common to
the items of a battery,

    error**2 = sd**2 * sum over batteries of (icc * (sum of w)**2 + (1 - icc) * sum of w**2)

and a test of `comparisons` methods, corrected together, finds with 80 % power what is (t + t) errors wide, or
nothing at all where the battery's signs have too few patterns.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cultural_palette.evaluation.metrics import Floats
from cultural_palette.evaluation.selection import draw_questions
from cultural_palette.evaluation.statistics import detectable_difference
from cultural_palette.evaluation.surveys import Survey, SurveyItem

ALPHA = 0.05
SIZES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500)
"""Questions a country that a plan shows."""


@dataclass(frozen=True)
class Assumptions:
    """Of paired differences between two methods, in points of the metric. `sd`: of one item's; `icc`: the
    share of its variance (0..1) that items of one battery have in common.
    """

    sd: float
    icc: float

    def __post_init__(self) -> None:
        if not self.sd > 0 or not math.isfinite(self.sd):
            raise ValueError(f"a standard deviation is above 0, got {self.sd}")
        if not 0 <= self.icc <= 1:
            raise ValueError(f"a share of variance lies between 0 and 1, got {self.icc}")


@dataclass(frozen=True)
class Power:
    """What a draw of `questions` a country can tell. `smallest_p`: after Holm, were the difference ever so
    great; `detectable`: with 80 % power, None where no difference is.
    """

    questions: int
    items: int
    batteries: int
    effective: float
    error: float
    smallest_p: float
    detectable: float | None


@dataclass(frozen=True)
class PowerPlan:
    """`rows`: by number of questions a country, the last with all of them. `needed`: the fewest questions a
    country that show `difference`; None where even all do not.
    """

    difference: float
    comparisons: int
    assumptions: Assumptions
    rows: tuple[Power, ...]
    needed: Power | None


def plan_power(
    survey: Survey, difference: float, assumptions: Assumptions, *, comparisons: int = 1,
    permutations: int = 10000,
) -> PowerPlan:  # fmt: skip
    """What draws of each size from a survey's whole selection can tell, drawn as the selection says."""

    def power(questions: int) -> Power:
        selection = survey.selection
        items = draw_questions(survey.whole, questions, selection.seed, selection.draw)
        return power_of(items, questions, assumptions, comparisons=comparisons, permutations=permutations)

    most = max(Counter(item.country for item in survey.whole).values())
    rows = tuple(power(size) for size in (*(size for size in SIZES if size < most), most))
    needed = None
    if rows[-1].detectable is not None and rows[-1].detectable <= difference:
        low, high = 0, most  # `high` shows it
        while high - low > 1:
            middle = (low + high) // 2
            detectable = power(middle).detectable
            low, high = (
                (low, middle) if detectable is not None and detectable <= difference else (middle, high)
            )
        needed = power(high)
    return PowerPlan(difference, comparisons, assumptions, rows, needed)


def power_of(
    items: Sequence[SurveyItem], questions: int, assumptions: Assumptions, *, comparisons: int = 1,
    permutations: int = 10000,
) -> Power:  # fmt: skip
    """What a test on these items can tell."""
    sizes = Counter(item.country for item in items)
    weights: defaultdict[str, list[float]] = defaultdict(list)
    for item in items:
        weights[item.question.battery].append(1 / (len(sizes) * sizes[item.country]))
    together = math.fsum(math.fsum(own) ** 2 for own in weights.values())
    apart = math.fsum(weight**2 for own in weights.values() for weight in own)
    icc = assumptions.icc
    error = assumptions.sd * math.sqrt(icc * together + (1 - icc) * apart)
    patterns = 2 ** len(weights)
    smallest = 2 / patterns if patterns <= permutations else 1 / (1 + permutations)
    alpha = ALPHA / comparisons
    detectable = detectable_difference(error, 1 / together, alpha) if smallest < alpha else None
    return Power(
        questions, len(items), len(weights), 1 / together, error, min(1.0, comparisons * smallest), detectable
    )


def assumptions_of(differences: Floats, batteries: Sequence[str]) -> Assumptions:
    """From a pilot's paired differences (item,), NaN where there is none: variance components between and
    within batteries (one-way analysis of variance). Without two items in any battery all is taken as common.

    Raises ValueError with fewer than two batteries.
    """
    answered = np.flatnonzero(~np.isnan(differences)).tolist()
    by_battery: defaultdict[str, list[float]] = defaultdict(list)
    for place in answered:
        by_battery[batteries[place]].append(float(differences[place]))
    groups, items = list(by_battery.values()), len(answered)
    if len(groups) < 2:
        raise ValueError(f"{len(groups)} batteries of paired items: a pilot needs two at least")
    sd = float(np.std(differences[answered], ddof=1))
    if sd <= 0:
        raise ValueError("the pilot's two methods do not differ on any item")
    if items == len(groups):
        return Assumptions(sd, 1.0)
    mean = float(np.mean(differences[answered]))
    between = sum(len(own) * (_mean(own) - mean) ** 2 for own in groups) / (len(groups) - 1)
    within = sum((value - _mean(own)) ** 2 for own in groups for value in own) / (items - len(groups))
    size = (items - sum(len(own) ** 2 for own in groups) / items) / (len(groups) - 1)
    common = (between - within) / (between + (size - 1) * within)
    return Assumptions(sd, min(1.0, max(0.0, common)))


def described(plan: PowerPlan) -> Iterator[str]:
    """The plan in a few sentences."""
    yield (
        f"Assumed: an item's difference has a standard deviation of {plan.assumptions.sd:.2f} points, "
        f"{plan.assumptions.icc:.0%} of its variance common to its battery; {plan.comparisons} comparisons, "
        "corrected together (Holm's first step), two-sided 5 %, power 80 %."
    )
    if plan.needed is None:
        most = plan.rows[-1].detectable
        least = "none" if most is None else f"{most:.2f}"
        yield f"All {plan.rows[-1].items:,} items can not show {plan.difference:g}; detectable: {least}."
    else:
        row = plan.needed
        yield (
            f"A difference of {plan.difference:g} needs {row.questions} questions a country: {row.items:,} "
            f"items of {row.batteries:,} batteries (worth {row.effective:.1f})."
        )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
