"""Modular pluralism, Overton mode: the main model sums up what all communities say (Feng et al. 2024)."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.models import BASE
from cultural_palette.nodes.account import write_account
from cultural_palette.nodes.knobs import PaletteContext
from cultural_palette.nodes.state import PaletteState, question_of
from cultural_palette.prompts import render


async def summarise(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = BASE
) -> dict[str, Any]:
    """All comments in one text in which every view has its place; the country is not named to it."""
    messages = render(
        "baselines/summarise", memory=state.get("memory") or "", question=question_of(state).text
    )
    return await write_account(state, runtime, messages, part=part, name="The summary")
