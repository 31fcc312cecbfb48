"""What belongs to one running event loop: connections, and the models opened over them.

A client of another loop fails with "Event loop is closed", so nothing here is ever shared between loops.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from cultural_palette.models.http import Pool
from cultural_palette.models.protocol import Model

MOST_MODELS_KEPT = 256


@dataclass
class Connections:
    """One loop's. `pool`: for servers that speak to our own client; `openai`: openai's HTTP client."""

    pool: Pool
    openai: Any = None
    models: dict[Hashable, Model] = field(default_factory=dict)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    closer: AsyncGenerator[None] | None = None

    async def model(self, key: Hashable, make: Callable[[], Awaitable[Model]]) -> Model:
        """The model under `key`, made once a loop."""
        if key in self.models:
            return self.models[key]
        model = await make()
        while len(self.models) >= MOST_MODELS_KEPT:
            self.models.pop(next(iter(self.models)))
        return self.models.setdefault(key, model)

    async def openai_client(self) -> Any:
        """openai's HTTP client for this loop."""
        async with self.opening:
            if self.openai is None:
                self.openai = await asyncio.to_thread(_openai_client)
        return self.openai

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()
        if self.openai is not None:
            await self.openai.aclose()


_BY_LOOP: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Connections] = weakref.WeakKeyDictionary()


async def connections() -> Connections:
    """The running loop's, opened when first asked for."""
    loop = asyncio.get_running_loop()
    if loop not in _BY_LOOP:
        here = _BY_LOOP[loop] = Connections(Pool.open())
        here.closer = _until_the_loop_ends(here)
        await anext(here.closer)
    return _BY_LOOP[loop]


async def close_clients() -> None:
    """Close the running loop's connections: for a program that goes on after it has asked its last.

    `asyncio.run` does it by itself when it ends.
    """
    here = _BY_LOOP.pop(asyncio.get_running_loop(), None)
    if here is not None and here.closer is not None:
        await here.closer.aclose()


async def _until_the_loop_ends(here: Connections) -> AsyncGenerator[None]:
    """Closes the connections when it is closed, which `asyncio.run` does to every generator at its end."""
    try:
        yield
    finally:
        _BY_LOOP.pop(asyncio.get_running_loop(), None)
        await here.close()


def _openai_client() -> Any:
    """openai's HTTP client over aiohttp where that is installed: less than half the CPU time a request, and
    no cap at 100. Redirects are not followed, and answers are bounded, as with our own client.
    """
    import openai

    from cultural_palette.models.bounds import hooks

    options: Any = {"follow_redirects": False, "event_hooks": hooks()}
    try:
        return openai.DefaultAioHttpClient(**options)
    except RuntimeError:  # openai without its aiohttp extra
        return openai.DefaultAsyncHttpxClient(**options)
