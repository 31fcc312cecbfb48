"""Threads that outlive their server: killed at once after a turn, and in the middle of one; on SQLite and
Postgres.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import APIStatusError

from cultural_palette.errors import SettingsError
from cultural_palette.graph.build import build_palette
from cultural_palette.graph.server.checkpoints import checkpointer_at, threads_kept
from tests.fake_server import FakeServer, serve
from tests.graph.server_runs import Studio, postgres, postgres_programs
from tests.nodes.helpers import KEYS

CAST = {"models": {part: f"openai:{part}" for part in (*KEYS, "meta", "base")}}
FREE = {"country": "KEN", "query": "Tea?"}
NEEDS_POSTGRES = pytest.mark.skipif(postgres_programs() is None, reason="no Postgres is installed")
STORES = ["sqlite", pytest.param("postgres", marks=NEEDS_POSTGRES)]


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serve() as fake:
        fake.replies["*"] = lambda body: f"{body['model']} speaks of tea."
        yield fake


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """PALETTE_CHECKPOINTS; None: what `palette studio` does by itself."""
    if request.param == "sqlite":
        yield None
        return
    with postgres() as address:
        yield address


@pytest.fixture
def studio(tmp_path: Path, fake: FakeServer, store: str | None) -> Iterator[Studio]:
    environment = {"PALETTE_BASE_URL": fake.url} | ({"PALETTE_CHECKPOINTS": store} if store else {})
    studio = Studio(tmp_path, environment)
    studio.start()
    yield studio
    studio.stop()


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_kill_9_loses_no_finished_turn_and_repeats_only_unfinished_drafts(
    studio: Studio, fake: FakeServer
):
    client = get_client(url=studio.url)
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "palette", input=FREE, context=CAST)
    studio.kill()

    studio.start()
    client = get_client(url=studio.url)
    # a run that the server remembers as under way it takes up again: it finds all of it done
    await asyncio.wait_for(_idle(client, thread), 30)
    assert len(fake.requests) == len(KEYS) + 2, "nothing of a finished turn is asked again"
    kept: Any = (await client.threads.get_state(thread))["values"]
    assert kept["answer"] == "meta speaks of tea." and set(kept["drafts"]) == set(KEYS)
    assert [m["content"] for m in kept["messages"]] == ["Tea?", "meta speaks of tea."]

    fake.requests.clear()
    fake.faults["asia"] = "slow"
    second = {"country": "KEN", "query": "And coffee?"}
    started = asyncio.create_task(_events(client, thread, second))
    await asyncio.wait_for(_all_drafted_but_asia(client, thread), 60)
    studio.kill()
    with pytest.raises((OSError, Exception)):
        await started

    fake.requests.clear()
    fake.faults.clear()
    studio.start()
    client = get_client(url=studio.url)
    # a run that the server remembered it has taken up again by itself: then there is nothing left to do
    await client.runs.wait(thread, "palette", input=None, context=CAST)
    result: Any = (await client.threads.get_state(thread))["values"]
    assert (result["answer"], result["degraded"]) == ("meta speaks of tea.", [])
    drafted = [body["model"] for body in fake.requests if body["model"] in KEYS]
    assert drafted == ["asia"], "the four drafts that were there are not asked for again"
    assert [m["content"] for m in result["messages"]] == [
        "Tea?", "meta speaks of tea.", "And coffee?", "meta speaks of tea.",
    ]  # fmt: skip


async def _idle(client: Any, thread: str) -> None:
    for _ in range(1_000):
        if (await client.threads.get(thread))["status"] == "idle":
            return
        await asyncio.sleep(0.1)


async def _events(client: Any, thread: str, inputs: Any) -> None:
    async for _ in client.runs.stream(thread, "palette", input=inputs, context=CAST, stream_mode="custom"):
        pass


async def _all_drafted_but_asia(client: Any, thread: str) -> None:
    """Until the four other drafts stand in the thread's checkpoints."""
    while True:
        state = await client.threads.get_state(thread)
        tasks = {task["name"]: task for task in state["tasks"]}
        done = [name for name, task in tasks.items() if name != "draft_asia" and task.get("result")]
        if len(done) == 4 or [name for name in tasks] == ["draft_asia"]:
            return
        await asyncio.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_key_is_asked_for_where_one_is_set(tmp_path: Path, fake: FakeServer):
    studio = Studio(tmp_path, {"PALETTE_BASE_URL": fake.url, "PALETTE_SERVER_KEY": "sesame"})
    studio.start()
    try:
        with pytest.raises(APIStatusError) as refused:
            await get_client(url=studio.url).assistants.search()
        assert refused.value.status_code == 401
        allowed = get_client(url=studio.url, api_key="sesame")
        assert {a["graph_id"] for a in await allowed.assistants.search()} == {"palette", "chat", "synthesis"}
        async with aiohttp.ClientSession() as session, session.post(f"{studio.url}/mcp", json={}) as mcp:
            assert mcp.status == 401
    finally:
        studio.stop()


def test_others_need_a_key(tmp_path: Path):
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "cultural_palette", "studio", "--host", "0.0.0.0"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "PALETTE_SERVER_KEY" in done.stderr


async def test_a_turn_taken_up_again_in_process(script, tmp_path: Path):
    models = {part: f"scripted:{part}" for part in (*KEYS, "meta", "base")}
    config: Any = {"configurable": {"thread_id": "1"}}
    where = f"sqlite:{tmp_path / 'deep' / 'threads.sqlite'}"
    script.replies["meta"] = RuntimeError("no power")
    async with checkpointer_at(where) as checkpointer:
        with pytest.raises(Exception, match="no power"):
            await build_palette(checkpointer=checkpointer).ainvoke(FREE, config, context={"models": models})
    script.replies.clear()
    script.asked.clear()
    async with checkpointer_at(where) as checkpointer:
        assert await threads_kept(checkpointer) == [("1", None)]
        graph = build_palette(checkpointer=checkpointer)
        result = await graph.ainvoke(None, config, context={"models": models})
    assert result["answer"] == "meta speaks."
    assert [part for part, _ in script.asked] == ["meta", "meta"]


@pytest.mark.slow
@NEEDS_POSTGRES
async def test_a_connection_that_postgres_dropped_is_replaced(script):
    import psycopg

    models = {part: f"scripted:{part}" for part in (*KEYS, "meta", "base")}
    config: Any = {"configurable": {"thread_id": "1"}}
    with postgres() as address:
        async with checkpointer_at(address) as checkpointer:
            graph = build_palette(checkpointer=checkpointer)
            await graph.ainvoke(FREE, config, context={"models": models})
            with psycopg.connect(address, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            result = await graph.ainvoke(FREE, config, context={"models": models})
    assert result["answer"] == "meta speaks." and len(result["messages"]) == 4


@pytest.mark.parametrize("where", ["sqlite:", "mysql://root:secret@host/db", "threads.sqlite"])
async def test_a_place_that_is_none(where: str):
    with pytest.raises(SettingsError, match="sqlite:FILE") as refused:
        async with checkpointer_at(where):
            pass
    assert "secret" not in str(refused.value)
