"""Two nodes of one's own: each community drafts twice, and the account is a quotation of each."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.answers import draft_text
from cultural_palette.countries import find_country
from cultural_palette.cultural_map import Community
from cultural_palette.errors import ModelError
from cultural_palette.models import ask
from cultural_palette.nodes.events import AccountDone, DraftDone, DraftFailed, DraftStarted, emit
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import Draft, PaletteState, model_of, question_of
from cultural_palette.nodes.turn import spent, summed
from cultural_palette.prompts import render


async def two_takes(
    state: PaletteState, runtime: Runtime[PaletteContext], *, community: Community
) -> dict[str, Any]:
    """A draft node: two takes at two seeds, at the same time; the longer one stands."""
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
    takes = [replace(knobs.draft_sampling, seed=knobs.seed + number) for number in range(2)]
    try:
        replies = await asyncio.gather(
            *(ask(ref, take, messages, timeout_s=knobs.draft_timeout_s, tags=["draft"]) for take in takes)
        )
    except ModelError as error:
        failed = Draft(text=None, seconds=time.perf_counter() - start, error=str(error), model=str(ref))
        emit(runtime, DraftFailed(draft_text(community.key, failed)))
        return {"drafts": {community.key: failed}}
    text = max((reply.text for reply in replies), key=len)
    draft = Draft(text=text, seconds=time.perf_counter() - start, error=None, model=str(ref))
    emit(runtime, DraftDone(draft_text(community.key, draft)))
    return {"drafts": {community.key: draft}, **spent({community.key: summed([r.usage for r in replies])})}


async def quote(state: PaletteState, runtime: Runtime[PaletteContext]) -> dict[str, Any]:
    """A regulate node that asks no model: the first sentence of each draft, with whose it is."""
    names = dict(state["communities"])
    account = " ".join(
        f"{names[key]}: “{first_sentence(draft['text'])}”"
        for key, draft in state["drafts"].items()
        if draft and draft["text"]
    )
    emit(runtime, AccountDone(account))
    return {"regulated": account}


def first_sentence(text: str) -> str:
    """Up to the first full stop, question or exclamation mark that a space follows."""
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]
