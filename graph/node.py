"""A node that runs in both worlds: awaited in an event loop, or called from synchronous code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.runtime import get_runtime

from cultural_palette.background import BACKGROUND
from cultural_palette.models import close_clients

NodeFunction = Callable[..., Awaitable[dict[str, Any]]]


class Node(Runnable[Any, dict[str, Any]]):
    """`async def function(state, runtime) -> dict`, for `ainvoke` as it is, for `invoke` on the background
    loop, where all nodes of all threads share connections.
    """

    def __init__(self, function: NodeFunction, name: str) -> None:
        self.function = function
        self.name = name

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """The node's update, waited for."""
        BACKGROUND.at_close(close_clients)
        return BACKGROUND.run(self._update(input))

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The node's update."""
        return await self.function(input, get_runtime())

    async def _update(self, state: Any) -> dict[str, Any]:
        return await self.function(state, get_runtime())
