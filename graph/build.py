"""All wiring of the palette. Edges only: what a node does stands in `nodes/`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from graph.context import PaletteContext
from graph.state import PaletteInput, PaletteOutput, PaletteState
from nodes.decide import decide
from nodes.draft import draft
from nodes.intake import intake
from nodes.memory import memory
from nodes.regulate import regulate
from palette.countries import all_countries, find_country
from palette.cultural_map import CulturalMap, load_map
from palette.prompts import names, template_of
from palette.settings import current_settings

Node = Callable[..., Awaitable[dict[str, Any]]]
PaletteGraph = CompiledStateGraph[PaletteState, PaletteContext, PaletteInput, PaletteOutput]


def build_palette(
    cultural_map: str | CulturalMap = "continents",
    *,
    intake: Node | None = intake,
    draft: Node | None = draft,
    memory: Node | None = memory,
    regulate: Node | None = regulate,
    decide: Node | None = decide,
    checkpointer: Checkpointer = None,
    name: str = "palette",
) -> PaletteGraph:
    """The graph of a cultural map: intake -> one draft a community, in parallel -> memory -> regulate ->
    decide.

    Any node that keeps the contract may stand in for ours: `async def node(state, runtime) -> dict`; a draft
    node also takes `community`, intake `cultural_map` and `drafting`. None leaves a node out.
    """
    if isinstance(cultural_map, str):
        cultural_map = load_map(cultural_map)
    _read_files()
    graph = StateGraph(
        PaletteState, context_schema=PaletteContext, input_schema=PaletteInput, output_schema=PaletteOutput
    )
    steps: list[list[str]] = []
    if intake is not None:
        graph.add_node("intake", partial(intake, cultural_map=cultural_map, drafting=draft is not None))
        steps.append(["intake"])
    if draft is not None:
        for community in cultural_map.communities:
            graph.add_node(
                f"draft_{community.key}",
                partial(draft, community=community),
                metadata={"community": community.key},
            )
        steps.append([f"draft_{community.key}" for community in cultural_map.communities])
    for step, node in (("memory", memory), ("regulate", regulate), ("decide", decide)):
        if node is not None:
            graph.add_node(step, node)
            steps.append([step])
    for before, after in zip([[START], *steps], [*steps, [END]], strict=True):
        if len(after) == 1:
            graph.add_edge(before if len(before) > 1 else before[0], after[0])
        else:
            for step in after:
                graph.add_edge(before[0], step)
    return graph.compile(checkpointer=checkpointer, name=name)


def _read_files() -> None:
    """Read now what nodes need later: a file opened inside an async node blocks the loop, and the server
    refuses it.
    """
    current_settings()
    for prompt in names():
        template_of(prompt)
    find_country(all_countries()[0].iso3)
