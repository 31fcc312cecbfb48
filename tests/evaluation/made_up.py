"""A survey of nobody, and settings in which scripted models play every part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.methods import methods_named
from cultural_palette.evaluation.plan import Plan
from cultural_palette.evaluation.selection import Selection
from cultural_palette.evaluation.surveys import Survey, SurveyItem, SurveyQuestion
from cultural_palette.settings import get_settings

CONTINENTS = load_map("continents")
KEYS = tuple(community.key for community in CONTINENTS.communities)
SCRIPTED = {part: f"scripted:{part}" for part in (*KEYS, "meta", "base")}


def survey(questions: int = 2, countries: Sequence[str] = ("KEN", "USA")) -> Survey:
    """Yes-or-no questions, one battery each; in country k of question q the share of yes is known."""
    items = [
        SurveyItem(
            SurveyQuestion(f"q{q}", f"Is thing {q} good?", ("Yes", "No"), "made up", f"b{q}"),
            country,
            Distribution.from_counts((1 + q, 1 + k)),
            country,
        )
        for q in range(questions)
        for k, country in enumerate(countries)
    ]
    return Survey(
        "made-up", "made-up.jsonl", "0" * 64, tuple(items), Selection(tuple(countries)), {"items": len(items)}
    )


def plan(
    *names: str,
    runs: int = 1,
    orders: int = 1,
    wording: int = 0,
    models: Any = None,
    others: Any = None,
    **more: Any,
) -> Plan:
    """A plan of these methods on the made-up survey."""
    chosen, left_out = methods_named(names, CONTINENTS, others or {})
    settings = get_settings(models=SCRIPTED if models is None else models, readout_samples=2, **more)
    return Plan(survey(), chosen, CONTINENTS, settings, runs, others or {}, left_out, orders, wording)
