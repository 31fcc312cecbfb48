"""Cross-continent feedback along Hofstede's six dimensions (method, section 2.2).

The paper's prompt names Oceania inside two of the six whatever the continent is: a slip. Ours names the
community in each.
"""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.nodes.synthesis.state import ChainState, SynthesisContext, context_of
from cultural_palette.nodes.synthesis.voice import Voice


async def feedback(state: ChainState, runtime: Runtime[SynthesisContext], *, voice: Voice) -> dict[str, Any]:
    """Review the response; nothing to do without one."""
    if not (response := state.get("respond")):
        return {}
    context = context_of(runtime)
    reply = await voice.say(
        state,
        context,
        "feedback",
        context.sampling(state["teacher"], state["round"]),
        response=response,
        others=voice.others,
    )
    return {"feedback": reply.text, "usage": reply.usage}
