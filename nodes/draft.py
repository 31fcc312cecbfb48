"""Cultural draft: one community's model answers from its own point of view (method, section 5.1)."""

from __future__ import annotations

import time
from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.answers import draft_text
from cultural_palette.countries import find_country
from cultural_palette.cultural_map import Community
from cultural_palette.errors import ModelError
from cultural_palette.models import ask
from cultural_palette.nodes.events import DraftDone, DraftFailed, DraftStarted, DraftToken, emit, token_writer
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import Draft, PaletteState, model_of, question_of
from cultural_palette.nodes.turn import cut_note, spent
from cultural_palette.prompts import render


async def draft(
    state: PaletteState, runtime: Runtime[PaletteContext], *, community: Community
) -> dict[str, Any]:
    """One draft within its time budget. A failure is recorded with its reason: the other communities go
    on.
    """
    knobs, question = knobs_of(runtime), question_of(state)
    ref = model_of(state, community.key)
    messages = render(
        "draft",
        template=await knobs.template("draft", ref),
        community=community.name,
        country=find_country(state["country"]).in_text,
        question=question.text,
        options=question.lettered(),
    )
    emit(runtime, DraftStarted(community.key, community.name, str(ref)))
    start = time.perf_counter()
    try:
        reply = await ask(
            ref,
            knobs.draft_sampling,
            messages,
            timeout_s=knobs.draft_timeout_s,
            tags=["draft", community.key],
            on_token=token_writer(runtime, lambda text: DraftToken(community.key, text)),
        )
    except ModelError as error:
        failed = Draft(text=None, seconds=time.perf_counter() - start, error=str(error), model=str(ref))
        emit(runtime, DraftFailed(draft_text(community.key, failed)))
        return {"drafts": {community.key: failed}}
    came = Draft(text=reply.text, seconds=reply.seconds, error=None, model=str(ref))
    emit(runtime, DraftDone(draft_text(community.key, came)))
    return {
        "drafts": {community.key: came},
        "notes": cut_note(f"The draft of {community.name}", reply),
        **spent({community.key: reply.usage}),
    }
