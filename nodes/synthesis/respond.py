"""Continent-aware response: answer as an expert on the community (method, section 2.1)."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.nodes.synthesis.state import ChainState, SynthesisContext, context_of
from cultural_palette.nodes.synthesis.voice import Voice, earlier


async def respond(state: ChainState, runtime: Runtime[SynthesisContext], *, voice: Voice) -> dict[str, Any]:
    """Begin a round: one answer, told what an earlier round was turned down for."""
    context, number = context_of(runtime), state.get("round", 0) + 1
    reply = await voice.say(
        state,
        context,
        "respond",
        context.sampling(state["teacher"], number),
        earlier=earlier(state.get("findings") or ()),
    )
    return {
        "round": number,
        "respond": reply.text,
        "feedback": None,
        "aggregate": None,
        "cut": False,
        "usage": reply.usage,
    }
