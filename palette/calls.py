"""Model calls kept on disk by their content: what several methods or an interrupted run have in common is
asked once.

LangGraph's own cache does not serve here: its key ignores the context, and it has no single flight. A key is
made of everything that shapes a reply: what kind of call, model and revision, messages, sampling, seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cultural_palette.errors import ArtifactError
from cultural_palette.provenance import sha256

LOG = logging.getLogger(__name__)
CALLS, LOCKS = "calls.sqlite", "calls.lock"
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS calls"
    " (key TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, reply TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS asked"
    " (run TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, PRIMARY KEY (run, key)) WITHOUT ROWID",
)
FIRST_POLL_S, LAST_POLL_S = 0.01, 0.25
LONGEST_WAIT_S = 900.0
"""For a call that another process makes: longer than any call may take, so that process stands still."""
BUSY_S = 60.0
"""For another program that writes to the database."""
Json = dict[str, Any]
Produce = Callable[[], Awaitable[Json]]


@dataclass(frozen=True)
class Call:
    """A call by its content. `request`: all that shapes the reply, in JSON values; `revision`: what tells the
    model's weights from others served by that name.
    """

    kind: str
    model: str
    request: Mapping[str, Any]
    revision: str | None = None


class Calls(Protocol):
    """What keeps calls: a store, or what counts them on their way to one."""

    needed: Counter[str]

    async def once(self, call: Call, produce: Produce) -> Json:
        """The kept reply to this call, else the one `produce` gives, kept."""


class CountedCalls(Calls, Protocol):
    """A store of its own: it knows under what it keeps a call, and what it did not have to make."""

    @property
    def saved(self) -> Counter[str]:
        """Calls that did not have to be made, by kind."""

    def key(self, call: Call) -> str:
        """What a call is kept under."""


def key_of(call: Call, revisions: Mapping[str, str]) -> str:
    """A SHA-256 of everything that shapes a call's reply; `revisions` win over the call's own."""
    revision = revisions.get(call.model, call.revision)
    whole = {"kind": call.kind, "model": call.model, "revision": revision, "request": call.request}
    return sha256(json.dumps(whole, ensure_ascii=True, sort_keys=True, allow_nan=False))


class Flights:
    """Calls under way in one event loop: whoever wants the same one waits for its reply."""

    def __init__(self) -> None:
        self._flights: dict[str, asyncio.Future[Json]] = {}

    async def join(self, key: str, lead: Produce) -> Json:
        """The reply of the flight under `key`; `lead` makes it where there is none yet, or where whoever made
        it was cancelled.
        """
        while flight := self._flights.get(key):
            with contextlib.suppress(_Abandoned):
                return await asyncio.shield(flight)
        flight = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            reply = await lead()
        except asyncio.CancelledError:
            # those who wait were not cancelled: one of them takes the lead
            flight.set_exception(_Abandoned())
            raise
        except BaseException as error:
            flight.set_exception(error)
            raise
        else:
            flight.set_result(reply)
            return reply
        finally:
            del self._flights[key]
            if flight.done() and not flight.cancelled():
                flight.exception()  # looked at: nobody may have waited


class CallStore:
    """A folder of finished calls, for one event loop of each of any number of processes.

    A call under way is waited for, here and in other processes, and never asked twice; one whose process
    died is free again at once, and one whose process stands still is made again. A failure is passed to those
    who waited for it and is not kept. `needed`: calls that were wanted, `made`: those that reached a model,
    `saved`: the others; each by kind.
    """

    def __init__(
        self,
        folder: str | Path,
        revisions: Mapping[str, str] | None = None,
        run: str = "",
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        """`revisions`: model as in ModelRef -> what tells its weights from others served by that name; `run`:
        whose calls `calls_made` counts, where several share the folder; `longest_wait_s`: for another
        process's call.
        """
        self.folder = Path(folder)
        self.run = run
        self.longest_wait_s = longest_wait_s
        self.revisions = dict(revisions or {})
        self.needed: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self._flights = Flights()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="calls")
        self._database: sqlite3.Connection | None = None
        self._locks: int | None = None

    @property
    def saved(self) -> Counter[str]:
        """Calls that did not have to be asked, by kind."""
        return self.needed - self.made

    def __enter__(self) -> CallStore:
        where = self.folder.resolve()
        if where in _OPEN:  # POSIX locks belong to the process: a second store would let go the first's
            raise ArtifactError(f"The calls in {where} are open in this process already: share that store.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._locks = os.open(self.folder / LOCKS, os.O_RDWR | os.O_CREAT, 0o666)
            self._thread.submit(self._open).result()
        except OSError as error:
            self._close()
            raise ArtifactError(f"{self.folder} can not be written: {error}") from error
        except ArtifactError:
            self._close()
            raise
        _OPEN.add(where)
        return self

    def __exit__(self, *_: object) -> None:
        _OPEN.discard(self.folder.resolve())
        self._close()

    def __len__(self) -> int:
        return int(self._thread.submit(self._query, "SELECT count(*) FROM calls", ()).result()[0])

    def calls_made(self) -> Counter[str]:
        """Calls that this run made, by kind, in earlier sittings too, however those ended; each once."""
        sql = "SELECT json_group_object(kind, n) FROM"
        sql += " (SELECT kind, count(*) AS n FROM asked WHERE run = ? GROUP BY kind)"
        return Counter(json.loads(self._thread.submit(self._query, sql, (self.run,)).result()[0]))

    async def once(self, call: Call, produce: Produce) -> Json:
        """The kept reply to this call, else the one `produce` gives (JSON values only), kept."""
        key = self.key(call)
        self.needed[call.kind] += 1
        return await self._flights.join(key, lambda: self._lead(key, call, produce))

    def key(self, call: Call) -> str:
        """What a call is kept under: a SHA-256 of everything that shapes its reply."""
        return key_of(call, self.revisions)

    async def _lead(self, key: str, call: Call, produce: Produce) -> Json:
        if (reply := await self._read(key)) is not None:
            return reply
        offset = int(key[:15], 16)  # a byte of the lock file for each key: 2**60 of them
        poll_s, waiting_since = FIRST_POLL_S, time.monotonic()
        while not (locked := _lock(self._file, offset)):
            if time.monotonic() - waiting_since > self.longest_wait_s:
                LOG.warning(
                    "%s: another process stands still with a call of %s (%.0f s): it is made here",
                    self.folder, call.model, self.longest_wait_s,
                )  # fmt: skip
                break
            await asyncio.sleep(poll_s)
            poll_s = min(2 * poll_s, LAST_POLL_S)
            if (reply := await self._read(key)) is not None:
                return reply
        try:
            if (reply := await self._read(key)) is not None:
                return reply
            self.made[call.kind] += 1
            await self._run("INSERT OR IGNORE INTO asked VALUES (?, ?, ?)", (self.run, key, call.kind))
            reply = await produce()
            text = json.dumps(reply, ensure_ascii=True, allow_nan=False)
            await self._run(
                "INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?, ?)",
                (key, call.kind, call.model, text, time.time()),
            )
            return reply
        finally:
            if locked:
                _unlock(self._file, offset)

    async def _read(self, key: str) -> Json | None:
        row = await self._run("SELECT reply FROM calls WHERE key = ?", (key,))
        return json.loads(row[0]) if row else None

    async def _run(self, sql: str, values: Sequence[Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._query, sql, values)

    def _query(self, sql: str, values: Sequence[Any]) -> Any:
        if self._database is None:
            raise ArtifactError(f"The calls in {self.folder} are closed.")
        try:
            with self._database:
                return self._database.execute(sql, values).fetchone()
        except sqlite3.Error as error:
            locked = "locked" in str(error)
            hint = (
                " Another program has a transaction open in it: end that one, and run again."
                if locked
                else ""
            )
            raise ArtifactError(f"{self.folder / CALLS} can not be used: {error}.{hint}") from error

    def _open(self) -> None:
        try:
            self._database = sqlite3.connect(self.folder / CALLS, timeout=BUSY_S)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")  # whole after kill -9
            for table in SCHEMA:
                self._database.execute(table)
        except sqlite3.Error as error:
            raise ArtifactError(
                f"{self.folder / CALLS} can not be used: {error}. Take another folder, or that file away."
            ) from error

    def _close(self) -> None:
        if self._database is not None:
            self._thread.submit(self._database.close).result()
        if self._locks is not None:
            os.close(self._locks)
        self._database = self._locks = None
        self._thread.shutdown()

    @property
    def _file(self) -> int:
        if self._locks is None:
            raise ArtifactError(f"The calls in {self.folder} are closed.")
        return self._locks


class _Abandoned(Exception):
    """The one who asked was cancelled."""


_OPEN: set[Path] = set()
_STORE: ContextVar[Calls | None] = ContextVar("palette_calls", default=None)


@contextmanager
def use_calls(store: Calls | None) -> Iterator[Calls | None]:
    """Keep the calls made inside the block, and in every task started there, in `store`."""
    token = _STORE.set(store)
    try:
        yield store
    finally:
        _STORE.reset(token)


async def once(call: Call, produce: Produce) -> Json:
    """A call's reply out of the store in force, else from `produce`. Without a store it is just made."""
    store = _STORE.get()
    return await (produce() if store is None else store.once(call, produce))


def call_store() -> Calls | None:
    """The store in force."""
    return _STORE.get()


def _lock(descriptor: int, offset: int) -> bool:
    """Lock one byte of the lock file; it ends with the process. False when another process has it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise ArtifactError(f"{LOCKS} can not be locked: {error}. Keep the calls on a local disk.") from error
    return True


def _unlock(descriptor: int, offset: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, offset)
