"""The account that a decision is made with: asked for token by token, told in events, its end noted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.runtime import Runtime

from cultural_palette.models import ask
from cultural_palette.nodes.events import AccountDone, AccountStarted, AccountToken, emit, token_writer
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState, model_of
from cultural_palette.nodes.turn import cut_note, spent


async def write_account(
    state: PaletteState,
    runtime: Runtime[PaletteContext],
    messages: Sequence[BaseMessage],
    *,
    part: str,
    name: str = "The account",
) -> dict[str, Any]:
    """The update of a node whose account `part` writes: `regulated`, notes, usage. `name`: what a note calls
    it when it was cut.
    """
    knobs, ref = knobs_of(runtime), model_of(state, part)
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
    return {"regulated": reply.text, "notes": cut_note(name, reply), **spent({part: reply.usage})}
