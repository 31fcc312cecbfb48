"""A graph of one's own with the palette as a node: it runs on a server elsewhere.

    palette studio &
    python examples/remote_graph/compare.py http://127.0.0.1:2024 KEN NZL

Two countries are asked at the same time, and a third node says where they differ most.
"""

import operator
import sys
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Send


class Asked(TypedDict):
    """What the palette takes."""

    country: str
    query: str
    options: list[str]


class Comparison(TypedDict, total=False):
    """`answers`: country -> the palette's answer, as each comes."""

    question: str
    options: list[str]
    countries: list[str]
    answers: Annotated[dict[str, Any], operator.or_]
    verdict: str


def compare(url: str, api_key: str | None = None) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The graph, with the server's `palette` in it. `api_key`: PALETTE_SERVER_KEY of that server."""
    palette = RemoteGraph("palette", url=url, api_key=api_key)

    async def country(state: Asked) -> dict[str, Any]:
        """RemoteGraph takes and gives what the graph does; it could be the node itself, too."""
        answer = await palette.ainvoke(dict(state))
        return {"answers": {answer["country"]: answer}}

    def each(state: Comparison) -> list[Send]:
        asked = {"query": state["question"], "options": state["options"]}
        return [Send("country", {**asked, "country": name}) for name in state["countries"]]

    def differ(state: Comparison) -> dict[str, Any]:
        shares = {name: answer["distribution"] for name, answer in state["answers"].items()}
        spread = {
            option: max(share[option] for share in shares.values())
            - min(share[option] for share in shares.values())
            for option in state["options"]
        }
        most = max(spread, key=lambda option: spread[option])
        said = ", ".join(f"{name} {100 * share[most]:.0f} %" for name, share in sorted(shares.items()))
        return {"verdict": f"They differ most on {most!r}: {said}."}

    graph = StateGraph(Comparison)
    graph.add_node("country", country)
    graph.add_node("differ", differ)
    graph.add_conditional_edges(START, each, ["country"])
    graph.add_edge("country", "differ")
    graph.add_edge("differ", END)
    return graph.compile()


if __name__ == "__main__":
    import asyncio

    url, *countries = sys.argv[1:]
    question = {"question": "Which matters more to people?", "options": ["Freedom", "Equality"]}
    print(asyncio.run(compare(url).ainvoke({**question, "countries": countries}))["verdict"])
