"""Continent-specific aggregation: rewrite the response with the feedback (method, section 2.3)."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.nodes.synthesis.state import ChainState, SynthesisContext, context_of
from cultural_palette.nodes.synthesis.voice import Voice, earlier


async def aggregate(state: ChainState, runtime: Runtime[SynthesisContext], *, voice: Voice) -> dict[str, Any]:
    """The answer as it may be kept; nothing to do without response or feedback."""
    response, feedback = state.get("respond"), state.get("feedback")
    if not response or not feedback:
        return {}
    context = context_of(runtime)
    reply = await voice.say(
        state,
        context,
        "aggregate",
        context.sampling(state["teacher"], state["round"]),
        response=response,
        feedback=feedback,
        others=voice.others,
        earlier=earlier(state.get("findings") or ()),
    )
    return {"aggregate": reply.text, "cut": reply.cut, "usage": reply.usage}
