"""Routing: which one community is asked. By a model, by the cultural map, or settled beforehand."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import MapError, ModelError
from cultural_palette.models import BASE, ModelRef
from cultural_palette.nodes.choose import choose
from cultural_palette.nodes.knobs import Knobs, PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState, model_of, question_of
from cultural_palette.nodes.turn import spent
from cultural_palette.prompts import render
from cultural_palette.questions import Question


async def route(
    state: PaletteState, runtime: Runtime[PaletteContext], *, cultural_map: CulturalMap, part: str = BASE
) -> dict[str, Any]:
    """The community whose model suits country and question best, as `part` sees it: the mode of its exact
    distribution over the communities' names. Raises ModelError when no choice could be read.
    """
    knobs, ref = knobs_of(runtime), model_of(state, part)
    key, usage = await choose_community(
        ref, "route", {}, {c.key: c.name for c in cultural_map.communities}, state, knobs
    )
    return {"chosen": key, **spent({part: usage})}


async def home(
    state: PaletteState, runtime: Runtime[PaletteContext], *, cultural_map: CulturalMap
) -> dict[str, Any]:
    """The country's own community on the map. Raises MapError for a country without one."""
    community = cultural_map.community_of(state["country"])
    if community is None:
        raise MapError(f"The map {cultural_map.name!r} has no community for {state['country']}.")
    return {"chosen": community.key}


async def settled(
    state: PaletteState, runtime: Runtime[PaletteContext], *, cultural_map: CulturalMap, community: str
) -> dict[str, Any]:
    """The same community for every question."""
    return {"chosen": cultural_map.community(community).key}


async def choose_community(
    ref: ModelRef,
    prompt: str,
    fields: dict[str, str],
    names: dict[str, str],
    state: PaletteState,
    knobs: Knobs,
) -> tuple[str, dict[str, int]]:
    """One of `names` (key -> name), read off the reply to a prompt of `baselines/`; and its tokens."""
    question = question_of(state)
    update, usage, _ = await choose(
        ref,
        lambda shown: render(
            f"baselines/{prompt}",
            country=find_country(state["country"]).in_text,
            question=question.text,
            options=shown.lettered(),
            **fields,
        ),
        Question(question.text, tuple(names.values())),
        knobs,
    )
    if update["answer"] is None:
        raise ModelError(f"No community could be chosen: {' '.join(update['degraded'])}")
    by_name = {name: key for key, name in names.items()}
    return by_name[update["answer"]], dict(usage)
