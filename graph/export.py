"""What a LangGraph server serves: langgraph.json lists what a person calls, langgraph.ablations.json the
ablations and baselines as well.

Nothing is built at import: each graph is made when its first run or its first drawing wants it, on the map of
the settings. No checkpointer: the server brings its own.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from langgraph_sdk.runtime import ServerRuntime
from pydantic import BaseModel

from cultural_palette.graph.chat import build_chat
from cultural_palette.graph.synthesis import build_synthesis
from cultural_palette.graph.variants import BASELINES, VARIANTS, build_variant
from cultural_palette.models.allowed import refuse_places
from cultural_palette.nodes.knobs import PaletteContext, refuse_unknown
from cultural_palette.nodes.listen import ChatContext
from cultural_palette.nodes.synthesis.state import SynthesisContext
from cultural_palette.settings import current_settings

Served: TypeAlias = Callable[[ServerRuntime[Any]], Awaitable[Any]]
SERVERS_OWN = ("__", "langgraph_", "x-", "user-agent")
"""How keys begin that a server puts into a run's context by itself."""


def served(build: Callable[[str], Any], schema: type[BaseModel]) -> Served:
    """A graph as the server asks for it: built once, and each run's context looked at before it starts, for
    the server itself drops keys that the schema does not have.
    """
    built, building = functools.cache(build), threading.Lock()

    def of_map() -> Any:
        with building:  # requests that come at once would each build their own
            return built(current_settings().map)

    async def graph(runtime: ServerRuntime[Any]) -> Any:
        context = getattr(runtime, "context", None)
        if isinstance(context, Mapping):
            ours = {key: value for key, value in context.items() if not key.startswith(SERVERS_OWN)}
            refuse_unknown(ours, schema)
            await asyncio.to_thread(refuse_places, ours)
        return await asyncio.to_thread(of_map)

    return graph


def _variant(name: str) -> Served:
    return served(functools.partial(build_variant, name), PaletteContext)


palette = _variant("palette")
chat = served(build_chat, ChatContext)
synthesis = served(build_synthesis, SynthesisContext)

# The ablations and baselines, each under its name in Python: a row more in the tables is a graph more here.
globals().update(
    {name.replace("-", "_"): _variant(name) for name in {**VARIANTS, **BASELINES} if name != "palette"}
)
