"""The first node: settles who is asked what, and starts the turn clean."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.runtime import Runtime
from langgraph.types import Overwrite

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import MapError, QuestionError, UnknownCountry
from cultural_palette.fitted_blends import as_blend, fitted_weights, is_fitted
from cultural_palette.models import BASE, META, ModelRef, make_ready, resolve_parts, weights_to_load
from cultural_palette.nodes.events import ModelsLoading, Note, TurnStarted, emit
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState
from cultural_palette.questions import Question

OWN = "own"
"""A blend: all weight on the community that the map gives the country."""


async def intake(
    state: PaletteState,
    runtime: Runtime[PaletteContext],
    *,
    cultural_map: CulturalMap,
    drafting: bool = True,
    chat: bool = False,
    blend: str | None = None,
) -> dict[str, Any]:
    """Resolve the country, check the question and the models, and clear what an earlier turn left.

    In a chat the question is the last message, when a person wrote it. `drafting`: draft nodes follow.
    `chat`: the person's message stands in `messages`, whatever the question was read from it. `blend`: how
    the MoErges weighs its communities, whatever the knob says.
    """
    given: Mapping[str, Any] = state  # from outside: anything may stand there
    if given.get("country") in (None, ""):
        raise UnknownCountry("No country was given. 'palette countries' lists all.")
    country = find_country(given["country"])
    query, in_chat = _query(state)
    question = Question.read(query, given.get("options"))
    knobs = knobs_of(runtime)
    parts = await asyncio.to_thread(resolve_parts, cultural_map, knobs.models, knobs.model)
    await asyncio.to_thread(make_ready, parts)
    if chosen := blend or knobs.blend:
        weighed = await asyncio.to_thread(_blend, chosen, country.iso3, cultural_map, parts.meta)
        parts = replace(parts, meta=parts.meta.with_blend(weighed))
    options = list(question.options)
    keys = [community.key for community in cultural_map.communities]
    notes = []
    if parts.prompted and drafting:
        played_by: dict[str, list[str]] = {}
        for key, ref in parts.agents.items():
            played_by.setdefault(str(ref), []).append(key)
        notes = [
            f"{ref} plays {', '.join(played)} by prompt alone; it was not aligned to these communities."
            for ref, played in played_by.items()
            if len(played) > 1
        ]
    models = {part: str(parts.of(part)) for part in (*keys, META, BASE)}
    communities = {community.key: community.name for community in cultural_map.communities}
    emit(
        runtime,
        TurnStarted(country.iso3, country.name, question.text, options, communities, models),
        *map(Note, notes),
    )
    if loading := weights_to_load(parts):
        emit(runtime, ModelsLoading(loading))
    return {
        "country": country.iso3,
        "query": question.text,
        "options": options,
        "turn": {"query": question.text, "options": options, "in_chat": in_chat or chat},
        "parts": models,
        "communities": communities,
        "chosen": None,
        "drafts": Overwrite({key: None for key in keys} if drafting else {}),
        "memory": None,
        "regulated": None,
        "answer": None,
        "distribution": None,
        "option_mass": None,
        "readout": None,
        "blend": None,
        "blend_layers": None,
        "determinism": None,
        "degraded": Overwrite([]),
        "notes": Overwrite(notes),
        "usage": Overwrite({"input_tokens": 0, "output_tokens": 0, "by_part": {}}),
    }


def _blend(chosen: str, iso3: str, cultural_map: CulturalMap, meta: ModelRef) -> str:
    """A blend as a palette's part takes it: "own" is the country's own community alone, "fitted:FILE" what
    was fitted to the country's answers. Blocks on the file.
    """
    if is_fitted(chosen):
        return as_blend(fitted_weights(chosen, iso3, meta.palette_folder))
    if chosen != OWN:
        return chosen.replace(" ", "")
    home = cultural_map.community_of(iso3)
    if home is None:
        raise MapError(f"The map {cultural_map.name!r} has no community for {iso3}, so none is its own.")
    return f"{home.key}=1"


def _query(state: PaletteState) -> tuple[str, bool]:
    """The question, and whether it is the last message."""
    query, messages = state.get("query"), state.get("messages") or []
    last = messages[-1] if messages else None
    if query is not None:
        return query, isinstance(last, HumanMessage) and last.text.strip() == str(query).strip()
    if isinstance(last, HumanMessage):
        return last.text, True
    what = (
        "The last message is the answer of the turn before"
        if isinstance(last, AIMessage)
        else "Nothing was asked"
    )
    raise QuestionError(f"{what}: give a `query`, or a message from a person.")
