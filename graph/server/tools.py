"""The palette as MCP tools, for assistants: `ask_country` and `list_countries`, over standard input and
output (`palette mcp`) and beside the LangGraph server's API (`/mcp`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import WithJsonSchema

from cultural_palette.answers import Answer
from cultural_palette.countries import all_countries, find_country
from cultural_palette.cultural_map import load_map
from cultural_palette.errors import PaletteError
from cultural_palette.graph.front_door import aask
from cultural_palette.settings import current_settings
from cultural_palette.version import __version__

DIGITS = 3
INSTRUCTIONS = (
    "Asks what people in a country would say. Five models, each aligned to a cultural community, draft an "
    "answer; a merged model decides. An answer is a model's, not a poll: pass its notes on."
)
# Looked at by hand: a client that sends one text in the place of a list is told so, in words.
Text = Annotated[Any, WithJsonSchema({"type": "string"})]
Texts = Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "string"}})]


def mcp_server() -> MCPServer:
    """A server with both tools."""
    server: MCPServer = MCPServer("cultural-palette", version=__version__, instructions=INSTRUCTIONS)
    server.add_tool(ask_country, structured_output=False)
    server.add_tool(list_countries, structured_output=False)
    return server


async def ask_country(country: Text, question: Text, options: Texts = None, seed: int = 0) -> dict[str, Any]:
    """What people in a country would most likely answer.

    country: ISO code or name ("KEN", "Kenya"). question: in full. options: 2 to 40 answers to choose from;
    the reply then has a probability for each. Without options the reply is free text. Takes seconds to a
    minute. The reply is JSON: answer, distribution (option -> probability), blend (community -> weight in the
    decision), notes and degraded (what to know about this answer; pass it on).
    """
    try:
        return summary(await aask(country, question, options=options or (), seed=seed))
    except PaletteError as error:
        raise ToolError(str(error)) from None


async def list_countries(containing: Text = "") -> dict[str, Any]:
    """The countries that can be asked: ISO code -> name and cultural community.

    containing: keeps those whose code, name or community holds this text; left out, all (about 250).
    """
    try:
        return {"countries": await asyncio.to_thread(_listed, str(containing or "").casefold())}
    except PaletteError as error:
        raise ToolError(str(error)) from None


def summary(answer: Answer) -> dict[str, Any]:
    """An answer in short, for a reader with little room: no drafts, probabilities to three digits."""
    short: dict[str, Any] = {
        "country": find_country(answer.country).name,
        "answer": answer.answer,
        "distribution": _rounded(answer.distribution),
        "blend": _rounded(answer.blend),
        "notes": list(answer.notes),
        "degraded": list(answer.degraded),
    }
    return {key: value for key, value in short.items() if key == "answer" or value not in (None, [])}


def _listed(text: str) -> dict[str, dict[str, str | None]]:
    cultural_map = load_map(current_settings().map)
    listed = {}
    for country in all_countries():
        home = cultural_map.community_of(country.iso3)
        words = (country.iso3, country.name, home.name if home else "")
        if any(text in word.casefold() for word in words):
            listed[country.iso3] = {"name": country.name, "community": home.name if home else None}
    return listed


def _rounded(shares: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if shares is None else {key: round(share, DIGITS) for key, share in shares.items()}
