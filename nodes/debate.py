"""Two agents debate what a country would say (after Ki et al. 2025): a rival of the palette, in our own
words.

Both are the same model with other seeds. Each opens with an answer and a reason, then each reads the
other and answers back; what they came to stands in `drafts`, and the decision is the judge's.
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

DEBATERS = ("first debater", "second debater")


async def debate(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = BASE
) -> dict[str, Any]:
    """Open, answer back: two statements in `drafts`. A debater whose opening failed has failed; the
    other's opening then stands as it is.
    """
    knobs, question, ref = knobs_of(runtime), question_of(state), model_of(state, part)
    fields = {
        "country": find_country(state["country"]).in_text,
        "question": question.text,
        "options": question.lettered(),
    }
    opening = render("rivals/open", **fields)
    opened = await asyncio.gather(
        *(voice(runtime, ref, knobs, opening, key, number) for number, key in enumerate(DEBATERS, 1))
    )
    replies = [reply for _, reply in opened if reply]
    statements = {key: draft for key, (draft, _) in zip(DEBATERS, opened, strict=True)}
    texts = {key: draft["text"] for key, draft in statements.items()}
    first, second = DEBATERS
    if texts[first] is not None and texts[second] is not None:
        answered = await asyncio.gather(
            *(
                voice(
                    runtime, ref, knobs,
                    render("rivals/answer_back", own=texts[own] or "", other=texts[other] or "", **fields),
                    own, number,
                )
                for number, (own, other) in enumerate(((first, second), (second, first)), 3)
            )
        )  # fmt: skip
        replies += [reply for _, reply in answered if reply]
        statements = {key: draft for key, (draft, _) in zip(DEBATERS, answered, strict=True)}
    notes = [note for reply in replies for note in cut_note("A debater's statement", reply)]
    return {"drafts": statements, "notes": notes, **spent({part: summed([reply.usage for reply in replies])})}
