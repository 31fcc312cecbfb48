"""Where a server keeps its threads: an SQLite file, or Postgres through a pool that checks its connections.

A checkpoint is written when a node ends, so a server that is killed loses no finished turn; taken up again, a
turn repeats only the drafts that were not finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from cultural_palette.errors import SettingsError
from cultural_palette.settings import current_settings

SQLITE, POSTGRES = "sqlite:", ("postgres://", "postgresql://")
MOST_CONNECTIONS = 10
LOCK = 0x70616C65747465
"""Postgres' advisory lock of whoever makes the tables."""
BUSY_S = 30
"""How long a writer waits for another one to finish with the file."""


@asynccontextmanager
async def open_checkpointer() -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """The checkpointer of the settings (`checkpoints`), ready, for as long as the block runs."""
    where = (await asyncio.to_thread(current_settings)).checkpoints
    if where is None:
        raise SettingsError("No place for threads: set PALETTE_CHECKPOINTS, such as 'sqlite:threads.sqlite'.")
    async with checkpointer_at(where.get_secret_value()) as checkpointer:
        yield checkpointer


@asynccontextmanager
async def checkpointer_at(where: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """The checkpointer at `where`: "sqlite:FILE" or "postgresql://user@host/database"."""
    if where.startswith(SQLITE) and len(where) > len(SQLITE):
        async with _sqlite(where.removeprefix(SQLITE)) as checkpointer:
            yield checkpointer
    elif where.startswith(POSTGRES):
        async with _postgres(where) as checkpointer:
            yield checkpointer
    else:
        shown = where.partition("@")[2] or where  # a password stands before the @
        raise SettingsError(f"Checkpoints at {shown!r}: there are 'sqlite:FILE' and 'postgresql://...'.")


async def threads_kept(checkpointer: BaseCheckpointSaver[Any]) -> Sequence[tuple[str, str | None]]:
    """Every thread with checkpoints, and the graph it is of, as its last checkpoint says."""
    latest: dict[str, str | None] = {}
    async for row in checkpointer.alist(None):
        thread = row.config["configurable"]["thread_id"]
        if row.config["configurable"].get("checkpoint_ns", "") == "" and thread not in latest:
            graph: Any = dict(row.metadata).get("graph_id")
            latest[thread] = graph if isinstance(graph, str) else None
    return list(latest.items())


@asynccontextmanager
async def _sqlite(file: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    aiosqlite = await _needs("aiosqlite", "langgraph-checkpoint-sqlite")
    saver = await _needs("langgraph.checkpoint.sqlite.aio", "langgraph-checkpoint-sqlite")
    path = await asyncio.to_thread(_ready, file)
    async with aiosqlite.connect(path, timeout=BUSY_S) as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")  # a finished turn survives a power cut, too
        checkpointer: BaseCheckpointSaver[Any] = saver.AsyncSqliteSaver(connection)
        await checkpointer.setup()  # type: ignore[attr-defined]
        yield checkpointer


def _ready(file: str) -> Path:
    """The file's path; its folder is there."""
    path = Path(file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@asynccontextmanager
async def _postgres(address: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    pools = await _needs("psycopg_pool", "langgraph-checkpoint-postgres psycopg[binary,pool]")
    rows = await _needs("psycopg.rows", "psycopg[binary,pool]")
    saver = await _needs("langgraph.checkpoint.postgres.aio", "langgraph-checkpoint-postgres")
    pool = pools.AsyncConnectionPool(
        address,
        open=False,
        min_size=1,
        max_size=MOST_CONNECTIONS,
        # a connection that its server dropped meanwhile is replaced, not handed out
        check=pools.AsyncConnectionPool.check_connection,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": rows.dict_row},
    )
    async with pool:
        async with _alone(pool):
            await saver.AsyncPostgresSaver(pool).setup()
        yield saver.AsyncPostgresSaver(pool)


@asynccontextmanager
async def _alone(pool: Any) -> AsyncIterator[None]:
    """One server at a time makes the tables: several that start on an empty database would collide. Asked for
    again and again, since a waiting lock would hold up the indexes that the other one makes.
    """
    async with pool.connection() as connection:
        while True:
            row = await (
                await connection.execute("SELECT pg_try_advisory_lock(%s) AS got", (LOCK,))
            ).fetchone()
            if row["got"]:
                break
            await asyncio.sleep(0.1)
        try:
            yield
        finally:
            await connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))


async def _needs(module: str, packages: str) -> Any:
    """A module that not everybody has; imported in a thread, for it reads files."""
    try:
        return await asyncio.to_thread(import_module, module)
    except ImportError as error:
        raise SettingsError(f"The threads' store needs {error.name}: pip install '{packages}'") from None
