"""One model answers by itself: the baselines vanilla, prompting, joint and MoE (method, section 6)."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.runtime import Runtime

from cultural_palette.countries import find_country
from cultural_palette.graph.context import PaletteContext, knobs_of
from cultural_palette.graph.state import PaletteState, model_of, question_of
from cultural_palette.models import BASE, ask
from cultural_palette.nodes.decide import NO_ANSWER, choose
from cultural_palette.prompts import render

CHOSEN = "chosen"
"""In the place of a part: the community that `route` picked."""


async def answer(
    state: PaletteState,
    runtime: Runtime[PaletteContext],
    *,
    part: str = BASE,
    prompt: Literal["vanilla", "prompting"] = "prompting",
) -> dict[str, Any]:
    """Ask `part` the question: bare ("vanilla", which does not even name the country), or with the
    country's culture and history to be kept in mind ("prompting").
    """
    knobs, question = knobs_of(runtime), question_of(state)
    part = chosen_of(state) if part == CHOSEN else part
    ref = model_of(state, part)
    fields = {} if prompt == "vanilla" else {"country": find_country(state["country"]).in_text}
    streamed: str | None = None
    if question.options:
        update, usage = await choose(
            ref,
            lambda shown: render(
                f"baselines/{prompt}_option", question=shown.text, options=shown.lettered(), **fields
            ),
            question,
            knobs,
        )
    else:
        messages = render(f"baselines/{prompt}", question=question.text, **fields)
        reply = await ask(
            ref, knobs.meta_sampling, messages, timeout_s=knobs.request_timeout_s, tags=["decide"]
        )
        update, usage, streamed = {"answer": reply.text}, reply.usage or {}, reply.message.id
    if usage:
        update["usage"] = {"by_part": {part: usage}}
    return {**update, **said(state, update["answer"], streamed)}


def chosen_of(state: PaletteState) -> str:
    """The community that an earlier node picked."""
    key = state.get("chosen")
    if key is None:
        raise ValueError("no community was chosen: this node needs a `route` or `select` before it")
    return key


def said(state: PaletteState, text: str | None, streamed: str | None = None) -> dict[str, Any]:
    """What a deciding node returns beside its decision: the question as a checkpoint forgets it, and the
    messages of the turn. `streamed`: the id of the reply that was shown as it came.
    """
    question, asked = question_of(state), state.get("asked")
    messages: list[BaseMessage] = [AIMessage(NO_ANSWER if text is None else text, id=streamed)]
    if not (asked and asked["in_chat"]):
        messages.insert(0, HumanMessage(question.text))
    return {"query": question.text, "options": list(question.options), "messages": messages}
