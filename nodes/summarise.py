"""Modular pluralism, Overton mode: the main model sums up what all communities say (Feng et al. 2024)."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.graph.context import PaletteContext, knobs_of
from cultural_palette.graph.state import PaletteState, model_of, question_of
from cultural_palette.models import BASE, ask
from cultural_palette.prompts import render


async def summarise(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = BASE
) -> dict[str, Any]:
    """All comments in one text in which every view has its place; the country is not named to it."""
    knobs = knobs_of(runtime)
    messages = render(
        "baselines/summarise", memory=state.get("memory") or "", question=question_of(state).text
    )
    reply = await ask(
        model_of(state, part),
        knobs.meta_sampling,
        messages,
        timeout_s=knobs.request_timeout_s,
        tags=["regulate"],
    )
    update: dict[str, Any] = {"regulated": reply.text}
    return update | ({"usage": {"by_part": {part: reply.usage}}} if reply.usage else {})
