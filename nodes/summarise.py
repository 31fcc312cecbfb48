"""Modular pluralism, Overton mode: the main model sums up what all communities say (Feng et al. 2024)."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.models import BASE, ask
from cultural_palette.nodes.events import AccountDone, AccountStarted, AccountToken, emit, token_writer
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState, model_of, question_of
from cultural_palette.nodes.turn import cut_note, spent
from cultural_palette.prompts import render


async def summarise(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = BASE
) -> dict[str, Any]:
    """All comments in one text in which every view has its place; the country is not named to it."""
    knobs = knobs_of(runtime)
    messages = render(
        "baselines/summarise", memory=state.get("memory") or "", question=question_of(state).text
    )
    ref = model_of(state, part)
    emit(runtime, AccountStarted(str(ref)))
    reply = await ask(
        ref,
        knobs.meta_sampling,
        messages,
        timeout_s=knobs.request_timeout_s,
        tags=["regulate"],
        on_token=token_writer(runtime, AccountToken),
    )
    emit(runtime, AccountDone(reply.text))
    return {
        "regulated": reply.text,
        "notes": cut_note("The summary", reply),
        **spent({part: reply.usage}),
    }
