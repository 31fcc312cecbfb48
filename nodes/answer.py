"""One model answers by itself: the baselines vanilla, prompting, joint and MoE (method, section 6)."""

from __future__ import annotations

from typing import Any, Literal

from langgraph.runtime import Runtime

from cultural_palette.countries import find_country
from cultural_palette.models import BASE, ask
from cultural_palette.nodes.choose import choose
from cultural_palette.nodes.events import AnswerToken, token_writer
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState, model_of, question_of
from cultural_palette.nodes.turn import Decision, cut_note, end_of_turn
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
    part = chosen_community(state) if part == CHOSEN else part
    ref = model_of(state, part)
    fields = {} if prompt == "vanilla" else {"country": find_country(state["country"]).in_text}
    if question.options:
        update, usage, _ = await choose(
            ref,
            lambda shown: render(
                f"baselines/{prompt}_option", question=shown.text, options=shown.lettered(), **fields
            ),
            question,
            knobs,
        )
        return end_of_turn(state, runtime, Decision(update, {part: usage}))
    messages = render(f"baselines/{prompt}", question=question.text, **fields)
    reply = await ask(
        ref,
        knobs.meta_sampling,
        messages,
        timeout_s=knobs.request_timeout_s,
        tags=["decide"],
        on_token=token_writer(runtime, AnswerToken),
    )
    update, tokens = {"answer": reply.text}, {part: reply.usage or {}}
    notes = cut_note("The answer", reply)
    return end_of_turn(state, runtime, Decision(update, tokens, reply.message.id, notes))


def chosen_community(state: PaletteState) -> str:
    """The community that an earlier node picked."""
    key = state.get("chosen")
    if key is None:
        raise ValueError("no community was chosen: this node needs a `route` or `select` before it")
    return key
