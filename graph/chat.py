"""The palette as a chat: one message in, one message out; for pages and agents that know only messages.

listen reads country, question and options off the message, or asks for them; then the palette's own nodes
run; present lays out what the answer was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Checkpointer

from cultural_palette.cultural_map import CulturalMap, load_map
from cultural_palette.errors import PaletteError
from cultural_palette.graph.build import DESCRIPTIONS, connect, draft_metadata, read_files
from cultural_palette.graph.node import Node, NodeFunction
from cultural_palette.mentions import countries_in
from cultural_palette.nodes.decide import decide
from cultural_palette.nodes.draft import draft
from cultural_palette.nodes.events import Degraded, emit
from cultural_palette.nodes.intake import intake
from cultural_palette.nodes.knobs import DRAFT
from cultural_palette.nodes.listen import ChatContext, ChatOutput, ChatState, is_settled, listen
from cultural_palette.nodes.memory import memory
from cultural_palette.nodes.present import present
from cultural_palette.nodes.regulate import regulate
from cultural_palette.nodes.state import PaletteInput
from cultural_palette.nodes.turn import ASIDE

ChatGraph = CompiledStateGraph[ChatState, ChatContext, PaletteInput, ChatOutput]


def build_chat(
    cultural_map: str | CulturalMap = "continents", *, checkpointer: Checkpointer = None, name: str = "chat"
) -> ChatGraph:
    """The chat over a cultural map. What goes wrong on the way is said in the chat, and no node after it
    runs.

    Only the decision's words come on the `messages` stream, as the one message at the end; drafts and account
    come labelled, on the `custom` stream.
    """
    if isinstance(cultural_map, str):
        cultural_map = load_map(cultural_map)
    read_files()
    countries_in("")
    graph = StateGraph(
        ChatState, context_schema=ChatContext, input_schema=PaletteInput, output_schema=ChatOutput
    )

    def add(step: str, function: NodeFunction, *, quiet: bool = True, **metadata: Any) -> None:
        graph.add_node(
            step,
            Node(_in_the_chat(function), step, quiet=quiet),
            metadata={"description": DESCRIPTIONS[step], **metadata} if step in DESCRIPTIONS else metadata,
        )

    graph.add_node("listen", Node(listen, "listen"), metadata={"description": DESCRIPTIONS["listen"]})
    add("intake", partial(intake, cultural_map=cultural_map, chat=True))
    drafts = []
    for community in cultural_map.communities:
        drafts.append(f"{DRAFT}{community.key}")
        add(drafts[-1], partial(draft, community=community), **draft_metadata(community))
    add("memory", memory)
    add("regulate", regulate)
    add("decide", decide, quiet=False)
    add("present", present)
    graph.add_edge(START, "listen")
    graph.add_conditional_edges("listen", _next, {"answer": "intake", "ask back": END})
    connect(graph, [["intake"], drafts, ["memory"], ["regulate"], ["decide"], ["present"], [END]])
    return graph.compile(checkpointer=checkpointer, name=name)


def _next(state: ChatState) -> str:
    return "answer" if is_settled(state) else "ask back"


def _in_the_chat(function: NodeFunction) -> NodeFunction:
    """A node whose failure is said in the chat; skipped after one."""

    async def node(state: Mapping[str, Any], runtime: Runtime[ChatContext]) -> dict[str, Any]:
        if state.get("failed"):
            return {}
        try:
            return await function(state, runtime)
        except PaletteError as error:
            emit(runtime, Degraded(str(error)))
            message = AIMessage(str(error), additional_kwargs={ASIDE: True})
            return {"failed": str(error), "degraded": [str(error)], "messages": [message]}

    return node
