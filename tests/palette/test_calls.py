"""The call store: asked once, here and across processes; failures are never kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from cultural_palette.calls import CALLS, Call, CallStore, once, use_calls
from cultural_palette.errors import ArtifactError, ModelError
from cultural_palette.models import ModelRef, Sampling, ask
from cultural_palette.models.readout import Reading
from cultural_palette.questions import Question
from tests.conftest import ROOT

REF = ModelRef("openai", "m", "http://127.0.0.1:9/v1")
HELLO = [HumanMessage("hello")]
CALL = Call("reply", str(REF), {"messages": [["human", "hello"]]})


class Asked:
    """Counts how often it is asked, and waits in between."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.times, self.seconds, self.error = 0, seconds, error

    async def __call__(self) -> dict[str, int]:
        self.times += 1
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        return {"number": self.times}


async def test_a_call_is_asked_once_and_found_by_the_next_process(tmp_path: Path) -> None:
    asked = Asked()
    with CallStore(tmp_path) as store:
        assert await store.once(Call("reply", "m", {"q": 1}), asked) == {"number": 1}
        assert await store.once(Call("reply", "m", {"q": 1}), asked) == {"number": 1}
    with CallStore(tmp_path) as again:
        assert await again.once(Call("reply", "m", {"q": 1}), asked) == {"number": 1}
        assert len(again) == 1
        assert (again.needed["reply"], again.made["reply"], again.saved["reply"]) == (1, 0, 1)
    assert asked.times == 1


@pytest.mark.parametrize(
    "other",
    [("readout", "m", {"q": 1}), ("reply", "n", {"q": 1}), ("reply", "m", {"q": 2}), ("reply", "m", {})],
)
async def test_whatever_shapes_a_reply_is_in_the_key(tmp_path: Path, other: tuple[str, str, dict]) -> None:
    asked = Asked()
    with CallStore(tmp_path) as store:
        await store.once(Call("reply", "m", {"q": 1}), asked)
        await store.once(Call(*other), asked)
    assert asked.times == 2


async def test_another_revision_is_another_model(tmp_path: Path) -> None:
    asked = Asked()
    for revision in ("one", "two"):
        with CallStore(tmp_path, {"m": revision}) as store:
            await store.once(Call("reply", "m", {}), asked)
    assert asked.times == 2


async def test_two_at_once_share_one_flight(tmp_path: Path) -> None:
    asked = Asked(0.05)
    with CallStore(tmp_path) as store:
        replies = await asyncio.gather(*(store.once(Call("reply", "m", {}), asked) for _ in range(50)))
        assert (store.needed["reply"], store.made["reply"]) == (50, 1)
    assert replies == [{"number": 1}] * 50


async def test_a_failure_reaches_all_who_waited_and_is_not_kept(tmp_path: Path) -> None:
    failing, right = Asked(0.02, ModelError("down")), Asked()
    with CallStore(tmp_path) as store:
        both = await asyncio.gather(
            *(store.once(Call("reply", "m", {}), failing) for _ in range(2)), return_exceptions=True
        )
        assert [str(each) for each in both] == ["down", "down"]
        assert await store.once(Call("reply", "m", {}), right) == {"number": 1}
    assert (failing.times, right.times) == (1, 1)


async def test_those_who_wait_for_a_cancelled_call_ask_themselves(tmp_path: Path) -> None:
    slow, quick = Asked(30), Asked()
    with CallStore(tmp_path) as store, use_calls(store):
        leader = asyncio.create_task(once(CALL, slow))
        await asyncio.sleep(0.05)
        waiter = asyncio.create_task(once(CALL, quick))
        await asyncio.sleep(0.05)
        leader.cancel()
        assert await waiter == {"number": 1}
        assert (store.needed["reply"], store.made["reply"]) == (2, 2)
    assert leader.cancelled()


async def test_the_next_of_those_who_wait_leads_whoever_keeps_the_store(tmp_path: Path) -> None:
    slow, quick = Asked(30), Asked(0.05)
    with CallStore(tmp_path) as store:  # asked of the store itself, as the synthesis does
        leader = asyncio.create_task(store.once(CALL, slow))
        await asyncio.sleep(0.05)
        waiters = [asyncio.create_task(store.once(CALL, quick)) for _ in range(5)]
        await asyncio.sleep(0.05)
        leader.cancel()
        assert await asyncio.gather(*waiters) == [{"number": 1}] * 5
        assert (store.needed["reply"], store.made["reply"]) == (6, 2)


async def test_a_cancelled_waiter_does_not_cancel_the_call(tmp_path: Path) -> None:
    asked = Asked(0.1)
    with CallStore(tmp_path) as store:
        leader = asyncio.create_task(store.once(Call("reply", "m", {}), asked))
        await asyncio.sleep(0.02)
        waiter = asyncio.create_task(store.once(Call("reply", "m", {}), asked))
        await asyncio.sleep(0.02)
        waiter.cancel()
        assert await leader == {"number": 1}


def test_one_store_of_a_folder_in_a_process(tmp_path: Path) -> None:
    with CallStore(tmp_path), pytest.raises(ArtifactError, match="open in this process"), CallStore(tmp_path):
        pass
    with CallStore(tmp_path):
        pass


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / CALLS).write_text("this is no database, and long enough to be taken for none" * 40)
    with pytest.raises(ArtifactError, match=r"calls\.sqlite can not be used"), CallStore(tmp_path):
        pass


async def test_a_transaction_left_open_by_hand_ends_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cultural_palette.calls.BUSY_S", 0.1)
    with CallStore(tmp_path) as store, closing(sqlite3.connect(tmp_path / CALLS)) as by_hand:
        by_hand.execute("BEGIN IMMEDIATE")
        with pytest.raises(ArtifactError, match="Another program has a transaction open in it: end that one"):
            await store.once(CALL, Asked())
        by_hand.rollback()
        assert await store.once(CALL, Asked()) == {"number": 1}


async def test_without_a_store_each_call_is_asked() -> None:
    asked = Asked()
    await once(CALL, asked)
    await once(CALL, asked)
    assert asked.times == 2


async def test_an_asked_model_is_kept_with_its_sampling(tmp_path: Path, script) -> None:
    ref = ModelRef("scripted", "africa")
    with CallStore(tmp_path) as store, use_calls(store):
        for sampling in (Sampling(0.3, 20, 1), Sampling(0.3, 20, 1), Sampling(0.3, 20, 2), Sampling(0.5)):
            first = await ask(ref, sampling, HELLO, timeout_s=5)
            assert (await ask(ref, sampling, HELLO, timeout_s=5)).text == first.text
        assert store.made["reply"] == 3
        # at temperature 0 the seed shapes nothing
        for seed in (1, 2):
            await ask(ref, Sampling(0.0, 20, seed), HELLO, timeout_s=5)
        assert store.made["reply"] == 4


def test_a_reading_survives_to_the_bit() -> None:
    from cultural_palette.distributions import Distribution

    thirds = Distribution((1 / 3, 1 / 3, 1 - 2 / 3))
    reading = Reading(thirds, 0.1 + 0.2, "sampling", 2, 20, ("B",), 1e-9, ("x",), {"input_tokens": 3})
    assert Reading.from_row(json.loads(json.dumps(reading.as_row()))) == reading
    nothing = Reading(None, None, "sampling")
    assert Reading.from_row(json.loads(json.dumps(nothing.as_row()))) == nothing
    assert Question("q").options == ()


PROCESS = """
import asyncio, sys, time
from pathlib import Path
from cultural_palette.calls import Call, CallStore

folder, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

async def one(store, number):
    async def produce():
        with log.open("a") as file:
            file.write(f"{number}\\n")
        await asyncio.sleep(seconds)
        return {"number": number}
    return await store.once(Call("reply", "m", {"q": number}), produce)

async def main():
    with CallStore(folder) as store:
        replies = await asyncio.gather(*(one(store, n) for n in range(40)))
        assert [reply["number"] for reply in replies] == [*range(40)]

asyncio.run(main())
"""


def start(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", PROCESS, tmp_path / "calls", tmp_path / "log", str(seconds)]
    return subprocess.Popen([*map(str, arguments)], cwd=ROOT, text=True)


def test_processes_share_calls_under_way(tmp_path: Path) -> None:
    processes = [start(tmp_path, 0.3) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    asked = (tmp_path / "log").read_text().split()
    assert sorted(map(int, asked)) == [*range(40)]


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_a_call_of_a_killed_process_is_free_again(tmp_path: Path) -> None:
    first = start(tmp_path, 60)
    deadline = time.monotonic() + 30
    while not (tmp_path / "log").exists() or len((tmp_path / "log").read_text().split()) < 40:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert start(tmp_path, 0).wait(60) == 0
    assert len((tmp_path / "log").read_text().split()) == 80


HOLDER = """
import asyncio, sys
from pathlib import Path
from cultural_palette.calls import Call, CallStore

async def main():
    async def stand_still():
        print("under way", flush=True)
        await asyncio.sleep(600)
    with CallStore(Path(sys.argv[1])) as store:
        await store.once(Call("reply", "m", {"q": 1}), stand_still)

asyncio.run(main())
"""


@contextmanager
def a_process_that_stands_still(folder: Path) -> Iterator[None]:
    """Another process that has the call q=1 under way, and is stopped."""
    arguments = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(arguments, cwd=ROOT, text=True, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "under way\n"
            holder.send_signal(signal.SIGSTOP)
            yield
        finally:
            holder.kill()


@pytest.mark.skipif(os.name == "nt", reason="SIGSTOP")
async def test_nobody_waits_for_ever_for_a_process_that_stands_still(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Asked()
    with a_process_that_stands_still(tmp_path), CallStore(tmp_path, longest_wait_s=0.3) as store:
        replies = await asyncio.gather(*(store.once(Call("reply", "m", {"q": 1}), asked) for _ in range(3)))
        assert replies == [{"number": 1}] * 3
    assert "another process stands still with a call of m" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="SIGSTOP")
async def test_a_reply_put_into_the_store_by_hand_ends_the_wait(tmp_path: Path) -> None:
    call, asked = Call("reply", "m", {"q": 1}), Asked()
    with a_process_that_stands_still(tmp_path), CallStore(tmp_path) as store:
        waiting = asyncio.create_task(store.once(call, asked))
        await asyncio.sleep(0.2)
        with closing(sqlite3.connect(tmp_path / CALLS)) as database, database:
            database.execute(
                "INSERT INTO calls VALUES (?, ?, ?, ?, ?)", (store.key(call), "reply", "m", '{"n": 7}', 0.0)
            )
        assert await asyncio.wait_for(waiting, 30) == {"n": 7}
    assert asked.times == 0
