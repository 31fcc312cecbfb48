"""Persona agents: people of different walks of life answer for themselves, and a judge decides: a rival,
in our words.

All are one model; who a persona is stands in its prompt. The same five for every country, so that nothing
is chosen to fit; which answers they come to, the judge weighs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.countries import find_country
from cultural_palette.models import BASE
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.resample import voice
from cultural_palette.nodes.state import PaletteState, model_of, question_of
from cultural_palette.nodes.turn import cut_note, spent, summed
from cultural_palette.prompts import render

PERSONAS = (
    "a young woman who studies in a large city",
    "a farmer of sixty",
    "a shopkeeper with three children",
    "a religious person who is retired",
    "a civil servant of forty",
)


async def personas(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = BASE
) -> dict[str, Any]:
    """Every persona's answer, in `drafts` under who it is; a failure is recorded with its reason."""
    knobs, question, ref = knobs_of(runtime), question_of(state), model_of(state, part)
    fields = {
        "country": find_country(state["country"]).in_text,
        "question": question.text,
        "options": question.lettered(),
    }
    answers = await asyncio.gather(
        *(
            voice(runtime, ref, knobs, render("rivals/persona", persona=who, **fields), who, number)
            for number, who in enumerate(PERSONAS, 1)
        )
    )
    replies = [reply for _, reply in answers if reply]
    return {
        "drafts": {who: draft for who, (draft, _) in zip(PERSONAS, answers, strict=True)},
        "notes": [note for reply in replies for note in cut_note("A persona's answer", reply)],
        **spent({part: summed([reply.usage for reply in replies])}),
    }
