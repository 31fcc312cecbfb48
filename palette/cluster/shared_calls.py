"""Calls kept on a storage that all nodes of a cluster see, an object for each, named by its content.

There is no lock between machines, and none is needed: shards are cut so that no two have a call in common,
and Ray runs a shard once at a time. Should a node that was given up for lost still be at work, both make the
calls under way, and the first reply kept is the one that both go on with.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cultural_palette.calls import Call, Flights, Json, Produce, key_of
from cultural_palette.cluster.storage import Storage
from cultural_palette.errors import ArtifactError
from cultural_palette.jsonl import JsonFault, parse_object

THREADS = 16
T = TypeVar("T")


class SharedCalls:
    """The calls in a storage's folder, for one event loop. `needed`, `made`, `saved`: as in CallStore."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.needed: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self._flights = Flights()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="shared-calls")

    @property
    def saved(self) -> Counter[str]:
        """Calls that did not have to be made, by kind."""
        return self.needed - self.made

    def __enter__(self) -> SharedCalls:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def key(self, call: Call) -> str:
        """What a call is kept under."""
        return key_of(call, {})

    async def once(self, call: Call, produce: Produce) -> Json:
        """The kept reply to this call, else the one `produce` gives (JSON values only), kept."""
        key = self.key(call)
        self.needed[call.kind] += 1
        return await self._flights.join(key, lambda: self._lead(key, call, produce))

    async def _lead(self, key: str, call: Call, produce: Produce) -> Json:
        name = f"{key[:2]}/{key}.json"
        if (reply := await self._run(lambda: self._read(name))) is not None:
            return reply
        self.made[call.kind] += 1
        reply = await produce()
        data = json.dumps(reply, ensure_ascii=True, allow_nan=False).encode()
        if await self._run(lambda: self.storage.create(name, data)):
            return reply
        return await self._run(lambda: self._read(name)) or reply

    def _read(self, name: str) -> Json | None:
        data = self.storage.read(name)
        if data is None:
            return None
        try:
            return parse_object(data, half_pairs=True)
        except JsonFault as error:
            raise ArtifactError(f"{self.storage.at(name)}: {error}. Remove it; it is asked again.") from None

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
