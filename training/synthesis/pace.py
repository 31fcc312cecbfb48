"""How many calls are under way at once: as many as allowed, fewer while a server is too busy."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType

ONE_CUT_S = 1.0  # replies 429 within this time are one storm, and cut once


class Pace:
    """`async with pace:` waits for a place, first come first served.

    `busy` halves the places and closes all for a while; each good reply brings a part of one back, so that a
    full round of good replies adds one. Belongs to one event loop.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"at least one call at once, not {most}")
        self.most = most
        self.allowed = float(most)
        self.active = 0
        self.storms = 0
        self._closed_until = 0.0
        self._last_cut = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._over: Exception | None = None
        self._ending = asyncio.Event()

    async def __aenter__(self) -> None:
        if self._over:
            raise self._over
        if self._waiting or not self._open():
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if (
                    place.done() and not place.cancelled() and not place.exception()
                ):  # given and not taken: on to the next
                    self.active -= 1
                self._wake()
                raise
        else:
            self.active += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.active -= 1
        self._wake()

    def good(self) -> None:
        """A reply came."""
        if self.allowed < self.most:
            self.allowed = min(self.most, self.allowed + 1 / self.allowed)

    def busy(self, pause_s: float) -> None:
        """A server said that it is too busy: no new call for `pause_s`, and half as many at once."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._last_cut > ONE_CUT_S:
            self._last_cut = now
            self.storms += 1
            self.allowed = max(1.0, self.allowed / 2)
        if now + pause_s > self._closed_until:
            self._closed_until = now + pause_s
            loop.call_later(pause_s, self._wake)

    def shut(self, why: Exception) -> None:
        """No place any more, for those who wait and for all after: they get `why`."""
        self._over = self._over or why
        self._ending.set()
        for place in self._waiting:
            if not place.done():
                place.set_exception(self._over)
        self._waiting.clear()

    async def pause(self, pause_s: float) -> None:
        """Sleep, but not beyond `shut`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), pause_s)

    def _open(self) -> bool:
        return (
            self.active < int(self.allowed) and asyncio.get_running_loop().time() >= self._closed_until - 1e-3
        )

    def _wake(self) -> None:
        while self._waiting and self._open():
            place = self._waiting.popleft()
            if not place.done():
                self.active += 1
                place.set_result(None)
