"""Self-blend: one model drafts as often as there are communities. Do five cultures help, or five samples?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.answers import draft_text
from cultural_palette.countries import find_country
from cultural_palette.errors import ModelError
from cultural_palette.models import BASE, Reply, ask
from cultural_palette.nodes.events import DraftDone, DraftFailed, DraftStarted, DraftToken, emit, token_writer
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
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

    async def one(number: int) -> tuple[Draft, Reply | None]:
        sampling = replace(knobs.draft_sampling, seed=(knobs.seed + STEP * number) % LARGEST_SEED)
        key = sample_key(number)
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
            seconds = time.perf_counter() - start
            failed = Draft(text=None, seconds=seconds, error=str(error), model=str(ref))
            emit(runtime, DraftFailed(draft_text(key, failed)))
            return failed, None
        came = Draft(text=reply.text, seconds=reply.seconds, error=None, model=str(ref))
        emit(runtime, DraftDone(draft_text(key, came)))
        return came, reply

    samples = await asyncio.gather(*(one(number) for number in range(1, len(state["communities"]) + 1)))
    notes = [
        note
        for number, (_, reply) in enumerate(samples, 1)
        if reply
        for note in cut_note(f"Sample {number}", reply)
    ]
    drafts = {sample_key(number): draft for number, (draft, _) in enumerate(samples, 1)}
    usage = summed([reply.usage for _, reply in samples if reply])
    return {"drafts": drafts, "notes": notes, **spent({part: usage})}


def sample_key(number: int) -> str:
    """The key in `drafts` of the sample of this number, from 1."""
    return f"sample {number}"
