"""Wiring of the synthesis: for every query all communities of the map in parallel, each by a chain of its
own. Edges only: what a node does stands in `nodes/synthesis/`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from cultural_palette.countries import all_countries, find_country
from cultural_palette.cultural_map import Community, CulturalMap, load_map
from cultural_palette.errors import ModelError
from cultural_palette.models import ModelRef, resolve_parts
from cultural_palette.models import ask as ask_model
from cultural_palette.nodes.synthesis.aggregate import aggregate
from cultural_palette.nodes.synthesis.feedback import feedback
from cultural_palette.nodes.synthesis.respond import respond
from cultural_palette.nodes.synthesis.state import (
    Answer,
    Ask,
    ChainState,
    SynthesisContext,
    SynthesisInput,
    SynthesisOutput,
    SynthesisState,
    TeacherRefused,
    answer_of,
    context_of,
    unanswered,
)
from cultural_palette.nodes.synthesis.validate import validate
from cultural_palette.nodes.synthesis.voice import Voice
from cultural_palette.prompts import names, template_of
from cultural_palette.settings import current_settings

Chain = CompiledStateGraph[ChainState, SynthesisContext, ChainState, ChainState]
SynthesisGraph = CompiledStateGraph[SynthesisState, SynthesisContext, SynthesisInput, SynthesisOutput]
Answering = Callable[[str, SynthesisContext], Awaitable[Answer]]
"""A query and the knobs -> one community's answer."""


def build_synthesis(
    cultural_map: str | CulturalMap = "continents", *, ask: Ask = ask_model, name: str = "synthesis"
) -> SynthesisGraph:
    """The graph of a cultural map: one box a community, all in parallel; in each respond -> feedback ->
    aggregate -> validate, and round again with the findings until the answer passes or its rounds are over.

    `ask`: how the teacher is reached, as `palette.models.ask`; it raises ModelError when it is not.
    """
    if isinstance(cultural_map, str):
        cultural_map = load_map(cultural_map)
    _read_files()
    graph = StateGraph(
        SynthesisState,
        context_schema=SynthesisContext,
        input_schema=SynthesisInput,
        output_schema=SynthesisOutput,
    )
    for community in cultural_map.communities:
        chain = build_chain(Voice(community, cultural_map, ask))
        graph.add_node(
            community.key, _box(chain, community, cultural_map), metadata={"community": community.key}
        )
        graph.add_edge(START, community.key)
        graph.add_edge(community.key, END)
    return graph.compile(name=name)


def answerings(cultural_map: CulturalMap, ask: Ask) -> dict[str, Answering]:
    """What is in the graph's boxes, by community, for a run that fans out by itself."""
    _read_files()
    return {
        community.key: partial(
            _answer, build_chain(Voice(community, cultural_map, ask)), community, cultural_map
        )
        for community in cultural_map.communities
    }


def build_chain(voice: Voice) -> Chain:
    """One community's way from a query to an answer that passed, or to findings."""
    graph = StateGraph(ChainState, context_schema=SynthesisContext)
    for step, node in (
        ("respond", respond),
        ("feedback", feedback),
        ("aggregate", aggregate),
        ("validate", validate),
    ):
        graph.add_node(step, partial(node, voice=voice))
    graph.add_edge(START, "respond")
    graph.add_edge("respond", "feedback")
    graph.add_edge("feedback", "aggregate")
    graph.add_edge("aggregate", "validate")
    graph.add_conditional_edges("validate", _again, {"again": "respond", "done": END})
    return graph.compile(name=voice.community.key)


def _again(state: ChainState, runtime: Runtime[SynthesisContext]) -> str:
    return "done" if state["passed"] or state["round"] >= context_of(runtime).max_rounds else "again"


async def _answer(
    chain: Chain, community: Community, cultural_map: CulturalMap, query: str, context: SynthesisContext
) -> Answer:
    teacher = await _teacher_of(community.key, cultural_map, context.teacher)
    try:
        done: Any = await chain.ainvoke({"query": query, "teacher": teacher}, context=context)
    except TeacherRefused as error:
        return unanswered(teacher, "set_aside", str(error))
    except ModelError as error:  # the others go on
        return unanswered(teacher, "failed", str(error))
    return answer_of(done)


def _box(
    chain: Chain, community: Community, cultural_map: CulturalMap
) -> Callable[..., Awaitable[dict[str, Any]]]:
    """A node around a chain; Studio finds the chain in it, and draws it opened."""

    async def box(state: SynthesisState, runtime: Runtime[SynthesisContext]) -> dict[str, Any]:
        if community.key not in (state.get("communities") or [community.key]):
            return {}
        answer = await _answer(chain, community, cultural_map, state["query"], context_of(runtime))
        return {"answers": {community.key: answer}}

    return box


async def _teacher_of(key: str, cultural_map: CulturalMap, teacher: str | None) -> str:
    """The model that answers for a community: its own of an embedded palette, else the one teacher."""
    if teacher and not ModelRef.parse(teacher).in_process:
        return teacher
    return (await asyncio.to_thread(cast_teacher, cultural_map, teacher))[key]


@functools.lru_cache
def cast_teacher(cultural_map: CulturalMap, teacher: str | None) -> dict[str, str]:
    """Who answers for each community. Reads an embedded palette's manifest."""
    agents = resolve_parts(cultural_map, {}, teacher).agents
    return {key: str(ref) for key, ref in agents.items()}


def _read_files() -> None:
    """Read now what nodes need later: a file opened inside an async node blocks the loop."""
    current_settings()
    for prompt in names("synthesis"):
        template_of(prompt)
    find_country(all_countries()[0].iso3)
