"""Self-blend: one model drafts as often as there are communities. Do five cultures help, or five samples?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.runtime import Runtime

from cultural_palette.answers import draft_text
from cultural_palette.countries import find_country
from cultural_palette.errors import ModelError
from cultural_palette.models import BASE, ModelRef, Reply, ask
from cultural_palette.nodes.events import DraftDone, DraftFailed, DraftStarted, DraftToken, emit, token_writer
from cultural_palette.nodes.knobs import Knobs, PaletteContext, knobs_of
from cultural_palette.nodes.state import Draft, PaletteState, model_of, question_of
from cultural_palette.nodes.turn import cut_note, spent, summed
from cultural_palette.prompts import render

STEP = 100_003
"""Between the seeds of two samples, so that those of neighbouring runs never meet."""
LARGEST_SEED = 2**31


async def resample(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = BASE
) -> dict[str, Any]:
    """As many drafts as the map has communities, all by `part` for the country itself, each with a seed of
    its own. They stand in `drafts` as "sample 1", ...; a failure is recorded with its reason.
    """
    knobs, question, ref = knobs_of(runtime), question_of(state), model_of(state, part)
    messages = render(
        "baselines/draft",
        country=find_country(state["country"]).in_text,
        question=question.text,
        options=question.lettered(),
    )

    samples = await asyncio.gather(
        *(
            voice(runtime, ref, knobs, messages, sample_key(number), number)
            for number in range(1, len(state["communities"]) + 1)
        )
    )
    notes = [
        note
        for number, (_, reply) in enumerate(samples, 1)
        if reply
        for note in cut_note(f"Sample {number}", reply)
    ]
    drafts = {sample_key(number): draft for number, (draft, _) in enumerate(samples, 1)}
    usage = summed([reply.usage for _, reply in samples if reply])
    return {"drafts": drafts, "notes": notes, **spent({part: usage})}


async def voice(
    runtime: Runtime[PaletteContext],
    ref: ModelRef,
    knobs: Knobs,
    messages: Sequence[BaseMessage],
    key: str,
    number: int,
) -> tuple[Draft, Reply | None]:
    """One of several voices of one model: a draft under `key`, told as it comes, with the seed of its
    number. A failure is a draft without text, and no reply.
    """
    sampling = replace(knobs.draft_sampling, seed=(knobs.seed + STEP * number) % LARGEST_SEED)
    emit(runtime, DraftStarted(key, key.capitalize(), str(ref)))
    start = time.perf_counter()
    try:
        reply = await ask(
            ref,
            sampling,
            messages,
            timeout_s=knobs.draft_timeout_s,
            tags=["draft"],
            on_token=token_writer(runtime, lambda text: DraftToken(key, text)),
        )
    except ModelError as error:
        failed = Draft(text=None, seconds=time.perf_counter() - start, error=str(error), model=str(ref))
        emit(runtime, DraftFailed(draft_text(key, failed)))
        return failed, None
    came = Draft(text=reply.text, seconds=reply.seconds, error=None, model=str(ref))
    emit(runtime, DraftDone(draft_text(key, came)))
    return came, reply


def sample_key(number: int) -> str:
    """The key in `drafts` of the sample of this number, from 1."""
    return f"sample {number}"
