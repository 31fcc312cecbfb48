"""One event loop in a thread of its own, for callers that are not asynchronous: scripts, notebooks, threads.

Connections to servers live as long as that loop, and are closed when the program ends.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
CLOSE_S = 5.0


class BackgroundLoop:
    """A loop that runs until the program ends. A forked child gets one of its own."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process: int | None = None
        self._at_close: list[Callable[[], Coroutine[Any, Any, None]]] = []

    def at_close(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `close` in the loop before it ends; once, however often it is asked for."""
        if close not in self._at_close:
            self._at_close.append(close)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, in the caller's context (settings in force, tracing). Ctrl-C cancels it."""
        if threading.current_thread() is self._thread:  # asked from inside: waiting here would wait for ever
            return _in_a_thread_of_its_own(work)
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None or self._process != os.getpid():
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="cultural-palette", daemon=True
                )
                self._thread.start()
                atexit.register(self._close, self._loop, self._thread, self._process)
            return self._loop

    def _close(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
        if process != os.getpid() or not thread.is_alive():
            return
        for close in self._at_close:
            asyncio.run_coroutine_threadsafe(close(), loop).result(CLOSE_S)
        asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result(CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_S)


def _in_a_thread_of_its_own(work: Coroutine[Any, Any, T]) -> T:
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(asyncio.run(work))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


BACKGROUND = BackgroundLoop()
