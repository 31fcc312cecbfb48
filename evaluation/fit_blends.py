"""Asking a palette what its communities would answer, to fit a country's blend on: `palette fit-blend`.

Two blends, fitted apart. *of agents*: of the agents' distributions, a convex problem (`blend_fit.fit_blend`).
*of the model*: of the communities inside the MoErges, whose answer is no mixture of theirs; the blend is the
best of some candidates (equal weights, each community alone and half of it, the agents' fit), chosen by
cross-validation over batteries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.blend_fit import (
    AnsweredQuestion,
    FittedBlend,
    choose_blend,
    fit_blend,
)
from cultural_palette.evaluation.surveys import SurveyItem
from cultural_palette.fitted_blends import as_blend
from cultural_palette.models import ModelRef, Parts, Sampling, read
from cultural_palette.option_orders import in_order, orders_of
from cultural_palette.orders import Averaged
from cultural_palette.prompts import render
from cultural_palette.questions import Question

Of = Literal["agents", "model"]
LEAST_MASS = 1e-6
UNIFORM, FIT = "uniform", "the agents' fit"


@dataclass(frozen=True)
class BlendPlan:
    """How a blend is fitted. `prompt`: one with country, question and options; `orders`: of the options."""

    parts: Parts
    cultural_map: CulturalMap
    of: Of = "agents"
    prompt: str = "survey/shares"
    orders: int = 2
    seed: int = 0
    at_once: int = 4


async def fit_country(plan: BlendPlan, items: Sequence[SurveyItem]) -> FittedBlend:
    """The blend of one country, whose answers `items` are. Raises BlendFitError for too few of them."""
    keys = list(plan.parts.agents)
    agents = await asyncio.gather(*(_answers(plan, plan.parts.agents[key], items) for key in keys))
    answered = [
        AnsweredQuestion(item.question.battery, item.gold, dict(zip(keys, some, strict=True)))
        for item, some in zip(items, zip(*agents, strict=True), strict=True)
    ]
    fitted = fit_blend(answered, plan.seed)
    if plan.of == "agents":
        return fitted
    candidates = candidate_blends(keys, fitted.weights)
    answers = {
        name: await _answers(plan, plan.parts.meta.with_blend(as_blend(weights)), items)
        for name, weights in candidates.items()
    }
    golds, batteries = [item.gold for item in items], [item.question.battery for item in items]
    return choose_blend(candidates, answers, golds, batteries, plan.seed)


def candidate_blends(keys: Sequence[str], fitted: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Equal weights first, then the agents' fit, each community alone, and each half with equal weights."""
    equal = 1 / len(keys)
    return {
        UNIFORM: dict.fromkeys(keys, equal),
        FIT: dict(fitted),
        **{key: {other: float(other == key) for other in keys} for key in keys},
        **{f"half {key}": {other: equal / 2 + 0.5 * (other == key) for other in keys} for key in keys},
    }


async def _answers(plan: BlendPlan, ref: ModelRef, items: Sequence[SurveyItem]) -> list[Distribution]:
    gate = asyncio.Semaphore(plan.at_once)

    async def one(item: SurveyItem) -> Distribution:
        async with gate:
            return await _answer(plan, ref, item)

    return list(await asyncio.gather(*(one(item) for item in items)))


async def _answer(plan: BlendPlan, ref: ModelRef, item: SurveyItem) -> Distribution:
    """Over the options in the survey's order; uniform, the model's silence, where nothing can be read."""
    original = Question(item.question.text, item.question.options)
    orders = orders_of(len(original.options), plan.orders, plan.seed)
    readings: list[Any] = []
    for order in orders:
        question = in_order(original, order)
        messages = render(
            plan.prompt,
            country=find_country(item.country).name,
            question=question.text,
            options=question.lettered(),
        )
        patience_s = ref.runs_on.patience_s
        readings.append(await read(ref, Sampling(0.0), messages, question, timeout_s=patience_s))
    averaged = Averaged.over(readings, orders, original.labels, LEAST_MASS)
    return averaged.distribution or Distribution.uniform(len(original.options))
