"""Retrieval of a country's values (the idea of ValuesRAG, Seo et al. 2025): a rival of the palette, in
our own words.

What people of the country answered to *other* questions is looked up, those nearest to this one first; a
model sums up what they value, and the decision is made with that. It knows answers of the survey, as no
other method does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.countries import find_country
from cultural_palette.errors import UsageError
from cultural_palette.models import BASE
from cultural_palette.nodes.account import write_account
from cultural_palette.nodes.knobs import PaletteContext
from cultural_palette.nodes.state import PaletteState, question_of
from cultural_palette.prompts import render

Library = Callable[[str, str], Sequence[str]]
"""(country, question) -> statements on how its people answered other questions, the nearest first."""


async def recall(
    state: PaletteState,
    runtime: Runtime[PaletteContext],
    *,
    part: str = BASE,
    library: Library | None = None,
) -> dict[str, Any]:
    """An account of the country's values from what the library has; without any statement there is none."""
    if library is None:
        raise UsageError(
            "'values-retrieval' looks up answers to other questions of a survey: run it by "
            "'palette evaluate surveys', or give its node a library of your own."
        )
    question = question_of(state)
    statements = library(state["country"], question.text)
    if not statements:
        return {"regulated": None, "degraded": ["No other answer of this country was there to retrieve."]}
    messages = render(
        "rivals/values",
        country=find_country(state["country"]).in_text,
        question=question.text,
        statements="\n".join(statements),
    )
    return await write_account(state, runtime, messages, part=part)
