"""Self-regulation: one concise account of the country, free of bias and stereotype (method, section 5.3)."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.countries import find_country
from cultural_palette.models import META
from cultural_palette.nodes.account import write_account
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState, model_of, question_of
from cultural_palette.prompts import render


async def regulate(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = META
) -> dict[str, Any]:
    """Distil the memory; without one, write the account from what the model knows of the country itself."""
    knobs, question, ref = knobs_of(runtime), question_of(state), model_of(state, part)
    fields = {"country": find_country(state["country"]).in_text, "question": question.text}
    memory = state.get("memory")
    if memory:
        messages = render("regulate", template=await knobs.template("regulate", ref), memory=memory, **fields)
    else:
        messages = render("account", template=await knobs.template("account", ref), **fields)
    return await write_account(state, runtime, messages, part=part)
