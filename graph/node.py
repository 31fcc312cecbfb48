"""A node that runs in both worlds: awaited in an event loop, or called from synchronous code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.runtime import get_runtime

from cultural_palette.background import BACKGROUND
from cultural_palette.models import close_clients

NodeFunction = Callable[..., Awaitable[dict[str, Any]]]
QUIET = ("nostream", "langsmith:nostream")
"""LangGraph's tag, and the one that chat pages look for: what a model says here is no message of the chat."""


class Node(Runnable[Any, dict[str, Any]]):
    """`async def function(state, runtime) -> dict`, for `ainvoke` as it is, for `invoke` on the background
    loop, where all nodes of all threads share connections. `quiet`: its models' replies are left out of the
    `messages` stream; the `custom` stream has them, labelled.
    """

    def __init__(self, function: NodeFunction, name: str, *, quiet: bool = False) -> None:
        self.function = function
        self.name = name
        self.quiet = quiet

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """The node's update, waited for."""
        BACKGROUND.at_close(close_clients)
        return BACKGROUND.run(self._update(input))

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The node's update."""
        return await self._update(input)

    async def _update(self, state: Any) -> dict[str, Any]:
        with _tagged(QUIET if self.quiet else ()):
            return await self.function(state, get_runtime())


@contextmanager
def _tagged(tags: tuple[str, ...]) -> Iterator[None]:
    """Every model called inside carries these tags, besides its own."""
    config = var_child_runnable_config.get()
    manager = config.get("callbacks") if config else None
    if not tags or config is None or not isinstance(manager, BaseCallbackManager):
        yield
        return
    manager = manager.copy()
    manager.add_tags(list(tags), inherit=True)
    token = var_child_runnable_config.set({**config, "callbacks": manager})
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)
