"""All wiring of the palette. Edges only: what a node does stands in `nodes/`."""

from __future__ import annotations

from functools import partial

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from cultural_palette.countries import all_countries, find_country
from cultural_palette.cultural_map import CulturalMap, load_map
from cultural_palette.graph.node import Node, NodeFunction
from cultural_palette.nodes.decide import decide
from cultural_palette.nodes.draft import draft
from cultural_palette.nodes.intake import intake
from cultural_palette.nodes.knobs import DRAFT, PaletteContext
from cultural_palette.nodes.memory import memory
from cultural_palette.nodes.regulate import regulate
from cultural_palette.nodes.state import PaletteInput, PaletteOutput, PaletteState
from cultural_palette.prompts import names, template_of
from cultural_palette.settings import current_settings

PaletteGraph = CompiledStateGraph[PaletteState, PaletteContext, PaletteInput, PaletteOutput]


def build_palette(
    cultural_map: str | CulturalMap = "continents",
    *,
    intake: NodeFunction | None = intake,
    route: NodeFunction | None = None,
    draft: NodeFunction | None = draft,
    resample: NodeFunction | None = None,
    memory: NodeFunction | None = memory,
    regulate: NodeFunction | None = regulate,
    decide: NodeFunction | None = decide,
    checkpointer: Checkpointer = None,
    name: str = "palette",
) -> PaletteGraph:
    """The graph of a cultural map: intake -> one draft a community, in parallel -> memory -> regulate ->
    decide.

    Any node that keeps the contract may stand in for ours: `async def node(state, runtime) -> dict`; a draft
    node also takes `community`, intake `cultural_map` and `drafting`, route `cultural_map`. None leaves a
    node out. After a `route` only the community that it put into `chosen` drafts. `resample`: a node that
    fills `drafts` by itself.
    """
    if isinstance(cultural_map, str):
        cultural_map = load_map(cultural_map)
    _read_files()
    graph = StateGraph(
        PaletteState, context_schema=PaletteContext, input_schema=PaletteInput, output_schema=PaletteOutput
    )
    steps: list[list[str]] = []
    if intake is not None:
        all_draft = draft is not None and route is None
        graph.add_node(
            "intake", Node(partial(intake, cultural_map=cultural_map, drafting=all_draft), "intake")
        )
        steps.append(["intake"])
    if route is not None:
        graph.add_node("route", Node(partial(route, cultural_map=cultural_map), "route"))
        steps.append(["route"])
    if draft is not None:
        for community in cultural_map.communities:
            graph.add_node(
                f"{DRAFT}{community.key}",
                Node(partial(draft, community=community), f"{DRAFT}{community.key}"),
                metadata={"community": community.key},
            )
        steps.append([f"{DRAFT}{community.key}" for community in cultural_map.communities])
    for step, node in (
        ("resample", resample), ("memory", memory), ("regulate", regulate), ("decide", decide),
    ):  # fmt: skip
        if node is not None:
            graph.add_node(step, Node(node, step))
            steps.append([step])
    for before, after in zip([[START], *steps], [*steps, [END]], strict=True):
        if before == ["route"] and len(after) > 1:
            graph.add_conditional_edges("route", _chosen_draft, after)
        elif len(before) > 1 and route is not None:  # one of them ran: there is no company to wait for
            for step in before:
                graph.add_edge(step, after[0])
        elif len(after) == 1:
            graph.add_edge(before if len(before) > 1 else before[0], after[0])
        else:
            for step in after:
                graph.add_edge(before[0], step)
    return graph.compile(checkpointer=checkpointer, name=name)


def _chosen_draft(state: PaletteState) -> str:
    return f"{DRAFT}{state['chosen']}"


def _read_files() -> None:
    """Read now what nodes need later: a file opened inside an async node blocks the loop, and the server
    refuses it.
    """
    current_settings()
    for prompt in (*names(), *names("baselines"), *names("prefix")):
        template_of(prompt)
    find_country(all_countries()[0].iso3)
