"""Replies token by token, to whoever asked for them besides LangGraph's own streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import merge_configs, var_child_runnable_config
from langchain_core.tracers._streaming import _StreamingCallbackHandler


class _Tokens(BaseCallbackHandler, _StreamingCallbackHandler[Any]):
    """Passes on each piece of text of every reply. LangChain streams while such a handler is there."""

    run_inline = True  # in the order in which they are written

    def __init__(self, on_token: Callable[[str], None]) -> None:
        self.on_token = on_token

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Unchanged: only the tokens are wanted."""
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        """Unchanged: only the tokens are wanted."""
        return output

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> Any:
        """One piece of text."""
        if token and isinstance(token, str):
            self.on_token(token)


@contextmanager
def streaming_to(on_token: Callable[[str], None] | None) -> Iterator[None]:
    """Every chat model called inside the block gives its reply to `on_token` piece by piece, besides the
    streams that are there already. None: as if the block were not there.
    """
    if on_token is None:
        yield
        return
    here = var_child_runnable_config.get()
    outer: Any = [here] if here is not None else []
    token = var_child_runnable_config.set(merge_configs(*outer, {"callbacks": [_Tokens(on_token)]}))
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)
