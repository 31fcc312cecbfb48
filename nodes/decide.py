"""Final decision: the most fitting option with its distribution, or a free answer (method, section 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.runtime import Runtime

from cultural_palette.countries import find_country
from cultural_palette.errors import ModelError
from cultural_palette.models import META, Blend, ask, blend_of, scope_notes_of
from cultural_palette.nodes.choose import choose
from cultural_palette.nodes.events import AnswerToken, token_writer
from cultural_palette.nodes.knobs import Knobs, PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState, model_of, question_of
from cultural_palette.nodes.turn import Decision, cut_note, end_of_turn
from cultural_palette.prompts import render
from cultural_palette.questions import Question


async def decide(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = META
) -> dict[str, Any]:
    """Decide with the account in mind: the regulated one, or the drafts as they are when self-regulation
    is left out.
    """
    knobs, question, ref = knobs_of(runtime), question_of(state), model_of(state, part)
    fields = {
        "account": state.get("regulated") or state.get("memory") or "",
        "country": find_country(state["country"]).in_text,
        "question": question.text,
    }
    streamed: str | None = None
    blend: Blend | None
    cut: list[str] = []
    if question.options:
        template = await knobs.template("decide_option", ref)

        def prompt(shown: Question) -> list[BaseMessage]:
            return render("decide_option", template=template, options=shown.lettered(), **fields)

        messages = prompt(question)
        update, usage, blend = await choose(ref, prompt, question, knobs)
    else:
        messages = render("decide", template=await knobs.template("decide", ref), **fields)
        reply = await ask(
            ref,
            knobs.meta_sampling,
            messages,
            timeout_s=knobs.request_timeout_s,
            tags=["decide"],
            on_token=token_writer(runtime, AnswerToken),
        )
        update, usage, streamed = {"answer": reply.text}, reply.usage or {}, reply.message.id
        blend = reply.blend
        cut = cut_note("The answer", reply)
    notes = await scope_notes_of(ref, question, state["country"], timeout_s=knobs.request_timeout_s)
    why_none: list[str] = []
    if blend is None:
        blend, why_none = await _blend(state, messages, part, knobs)
    decision = Decision(update, {part: usage}, streamed, [*cut, *notes, *why_none], blend)
    return end_of_turn(state, runtime, decision)


async def _blend(
    state: PaletteState, messages: Sequence[BaseMessage], part: str, knobs: Knobs
) -> tuple[Blend | None, list[str]]:
    """How much each community weighed in the decision, where the reply did not bring it along, or a note why
    that can not be had. A model of a server that also drafts is no MoErges.
    """
    if part != META:
        return None, []
    parts, communities, ref = state["parts"], list(state["communities"]), model_of(state, META)
    if not ref.in_process and parts[META] in [parts[key] for key in communities]:
        return None, []
    try:
        return await blend_of(ref, messages, communities, timeout_s=knobs.request_timeout_s), []
    except ModelError as error:
        return None, [str(error)]
