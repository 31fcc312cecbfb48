"""All wiring of the palette. Edges only: what a node does stands in `nodes/`."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from cultural_palette.countries import all_countries, find_country
from cultural_palette.cultural_map import Community, CulturalMap, load_map
from cultural_palette.graph.node import Node, NodeFunction
from cultural_palette.nodes.decide import decide
from cultural_palette.nodes.draft import draft
from cultural_palette.nodes.intake import intake
from cultural_palette.nodes.knobs import DRAFT, PaletteContext, draft_nodes
from cultural_palette.nodes.memory import memory
from cultural_palette.nodes.regulate import regulate
from cultural_palette.nodes.state import PaletteInput, PaletteOutput, PaletteState
from cultural_palette.prompts import names, template_of
from cultural_palette.settings import current_settings

DESCRIPTIONS = {
    "listen": "Reads country, question and options off the message, or asks for what is missing.",
    "intake": "Settles country, question and models, and starts the turn clean.",
    "route": "Picks the one community that drafts.",
    "resample": "One model drafts as often as there are communities.",
    "memory": "Joins the drafts below the earlier turns.",
    "regulate": "Distils the drafts into one account, free of bias and stereotype.",
    "decide": "Decides with the account in mind: an option with its distribution, or a free answer.",
    "present": "Lays out what the answer was made from.",
}
"""What each node does, in a line, for those who see the graph drawn."""
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
    read_files()
    graph = StateGraph(
        PaletteState, context_schema=PaletteContext, input_schema=PaletteInput, output_schema=PaletteOutput
    )
    steps: list[list[str]] = [[START]]

    def add(step: str, function: NodeFunction) -> None:
        graph.add_node(step, Node(function, step), metadata={"description": DESCRIPTIONS[step]})
        steps.append([step])

    if intake is not None:
        all_draft = draft is not None and route is None
        add("intake", partial(intake, cultural_map=cultural_map, drafting=all_draft))
    if route is not None:
        add("route", partial(route, cultural_map=cultural_map))
    if draft is not None:
        steps.append([])
        for community in cultural_map.communities:
            step = f"{DRAFT}{community.key}"
            function = partial(draft, community=community)
            graph.add_node(step, Node(function, step), metadata=draft_metadata(community))
            steps[-1].append(step)
    for step, node in (
        ("resample", resample), ("memory", memory), ("regulate", regulate), ("decide", decide),
    ):  # fmt: skip
        if node is not None:
            add(step, node)
    connect(graph, [*steps, [END]], routed=route is not None)
    return graph.compile(checkpointer=checkpointer, name=name)


def draft_metadata(community: Community) -> dict[str, Any]:
    """What a drawing says of a draft node: whose it is, in what colour (#rrggbb)."""
    return {
        "community": community.key,
        "name": community.name,
        "colour": community.colour,
        "description": f"{community.name}'s own model drafts from its point of view.",
    }


def connect(graph: StateGraph[Any, Any, Any, Any], steps: list[list[str]], *, routed: bool = False) -> None:
    """Edges from step to step; nodes of one step run at the same time. `routed`: after "route" one of the
    next step's nodes runs, the others do not.
    """
    for before, after in pairwise(steps):
        if before == ["route"] and len(after) > 1:
            graph.add_conditional_edges("route", _chosen_draft, after)
        elif len(before) > 1 and routed:  # one of them ran: there is no company to wait for
            for step in before:
                graph.add_edge(step, after[0])
        elif len(after) == 1:
            graph.add_edge(before if len(before) > 1 else before[0], after[0])
        else:
            for step in after:
                graph.add_edge(before[0], step)


def _chosen_draft(state: PaletteState) -> str:
    return f"{DRAFT}{state['chosen']}"


def read_files() -> None:
    """Read now what nodes need later: a file opened inside an async node blocks the loop, and the server
    refuses it.
    """
    current_settings()
    for prompt in (*names(), *names("baselines"), *names("rivals"), *names("prefix")):
        template_of(prompt)
    find_country(all_countries()[0].iso3)
    draft_nodes(current_settings().map)
