"""Our own client against a server with every fault: retries, budgets, streams, cancelled runs, hundreds at
once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import time
from email.utils import formatdate

import pytest
from langchain_core.messages import HumanMessage

from cultural_palette.errors import ModelError
from cultural_palette.graph.build import build_palette
from cultural_palette.models import ModelRef, Sampling, ask, close_clients, open_model
from cultural_palette.models import http as client
from cultural_palette.models.http import Pool, Refused, budget, retry_after_of, wait_before
from cultural_palette.models.openai import OpenAIModel
from cultural_palette.models.vllm import VllmModel
from cultural_palette.settings import get_settings, use_settings
from tests.fake_server import serve

HELLO = [HumanMessage("Hello?")]
AFRICA = ModelRef.parse("openai:africa")


async def until(said, seconds=30):
    for _ in range(50 * seconds):
        if said():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that")


CLOSED = {"country": "KEN", "query": "Is tea good?", "options": ["Yes", "No"]}


@pytest.fixture
def server():
    with serve() as fake, use_settings(get_settings(base_url=fake.url, model="openai:africa", retries=4)):
        fake.vllm = True
        yield fake


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.02)


async def said(timeout_s=10.0):
    try:
        return (await ask(AFRICA, Sampling(), HELLO, timeout_s=timeout_s)).text
    finally:
        await close_clients()


async def streamed(messages=HELLO):
    try:
        model = await open_model(AFRICA)
        assert isinstance(model, VllmModel)
        return [chunk async for chunk in model.chat.astream(messages)]
    finally:
        await close_clients()


# -- which client


async def test_vllm_gets_our_client_and_others_chat_openai(server):
    assert isinstance(await open_model(AFRICA), VllmModel)
    await close_clients()
    server.vllm = False
    assert isinstance(await open_model(AFRICA), OpenAIModel)
    await close_clients()


async def test_openais_own_address_is_not_asked_what_it_is(monkeypatch):
    async def never(self, path):
        raise AssertionError("a request left")

    monkeypatch.setattr(client.Server, "get", never)
    with use_settings(get_settings(api_key="sk-x")):
        assert isinstance(await open_model(ModelRef.parse("openai:gpt")), OpenAIModel)
    await close_clients()


# -- retries


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(server, quick, status):
    server.refuse = [status] * 3
    assert await said() == "africa speaks of many things."
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
async def test_what_can_not_pass_is_not(server, quick, status):
    server.refuse = [status] * 3
    with pytest.raises(ModelError, match=str(status)):
        await said()
    assert len(server.requests) == 1


async def test_a_reply_cut_short_is_asked_for_again_whole(server, quick):
    server.faults["africa"] = "short body"
    with pytest.raises(ModelError, match="broke off"):
        await said()
    assert len(server.requests) == 5  # one try and four retries


def test_waits_grow_and_differ():
    waits = [[wait_before(attempt, None) for _ in range(50)] for attempt in (1, 2, 3, 20)]
    for seconds, longest in zip(waits, (0.5, 1, 2, 8), strict=True):
        assert longest / 2 <= min(seconds) < max(seconds) <= longest
        assert len(set(seconds)) == 50
    assert 3 <= wait_before(1, 3.0) <= 3.75


def test_retry_after_in_every_spelling():
    assert retry_after_of({"Retry-After": "7"}) == 7
    assert retry_after_of({"retry-after-ms": "250", "Retry-After": "7"}) == 0.25
    in_a_minute = retry_after_of({"Retry-After": formatdate(time.time() + 60, usegmt=True)})
    assert in_a_minute == pytest.approx(60, abs=2)
    assert retry_after_of({"Retry-After": "soon"}) is None and retry_after_of({}) is None
    assert retry_after_of({"Retry-After": "-1"}) is None and retry_after_of({"Retry-After": "nan"}) is None


async def test_retry_after_is_kept_within_the_budget(server, quick):
    server.refuse, server.retry_after = [429], "1"
    assert await said()
    first, second = server.at
    assert second - first >= 1
    server.refuse, server.retry_after = [429], "60"
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"too busy .*HTTP 429: come back later"):
        await said(timeout_s=20)
    assert time.monotonic() - began < 10  # said at once, with the reason, not after 20 s without one


async def test_the_budget_is_for_the_whole_call(server, monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.4)
    server.refuse = [503] * 9
    with pytest.raises(ModelError, match="503"):
        await said(timeout_s=0.6)
    assert len(server.requests) <= 3


async def test_budgets_nest_and_end(server):
    assert client.time_left() is None
    with budget(5):
        assert 4 < (client.time_left() or 0) <= 5
    assert client.time_left() is None


# -- streams


async def test_a_stream_comes_in_pieces_with_its_usage(server):
    chunks = await streamed()
    assert "".join(chunk.text for chunk in chunks) == "africa speaks of many things."
    assert len([chunk for chunk in chunks if chunk.text]) == 5
    whole = sum(chunks[1:], chunks[0])
    assert whole.usage_metadata["output_tokens"] == 5
    assert whole.response_metadata["finish_reason"] == "stop"


async def test_a_stream_is_tried_again_only_before_its_first_word(server, quick):
    server.refuse = [503, 503]
    assert len(await streamed()) > 5
    assert len(server.requests) == 3
    server.requests.clear()
    for fault in ("cut", "truncated"):
        server.faults["africa"] = fault
        with pytest.raises(Exception, match=r"ended before|[Cc]onnection|payload"):
            await streamed()
    assert len(server.requests) == 2


async def test_a_long_line_is_read_whole(server):
    server.replies["africa"] = "tea" * 100_000
    assert "".join(chunk.text for chunk in await streamed()) == "tea" * 100_000


# -- the graph


async def runs(count, at_once, **context):
    palette = build_palette("continents")
    gate = asyncio.Semaphore(at_once)

    async def one():
        async with gate:
            return await palette.ainvoke(CLOSED, context=context or None)

    try:
        return await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
    finally:
        await close_clients()


async def test_a_storm_loses_nothing_and_counts_nothing_twice(server, quick):
    server.refuse = [429, 503] * 30
    results = await runs(20, 20)
    for result in results:
        assert isinstance(result, dict), result
        assert all(draft["text"] for draft in result["drafts"].values())
        assert result["degraded"] == []
        # five drafts, the account and the decision: the server counts 5 words each
        assert result["usage"]["output_tokens"] == 7 * 5
    assert len(server.requests) == 20 * 7 + 60


async def test_a_part_that_is_missing_is_a_draft_that_is(server):
    palette = build_palette("continents")
    try:
        result = await palette.ainvoke(CLOSED, context={"models": {"asia": "openai:asien"}})
    finally:
        await close_clients()
    assert "does not know the model 'asien'" in result["drafts"]["asia"]["error"]
    assert len(result["degraded"]) == 1 and result["answer"] == "Yes"
    assert len(server.sent_to("asien")) == 1


async def test_a_cancelled_run_cancels_its_requests(server):
    server.faults["*"] = "slow"
    task = asyncio.create_task(runs(4, 4))
    await until(lambda: len(server.requests) >= 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: server.cancelled == 20)


@pytest.mark.slow
async def test_256_runs_at_once_finish_within_memory(server):
    await runs(2, 2)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = await runs(256, 256)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert [result["answer"] for result in results] == ["Yes"] * 256
    assert len(server.requests) == 258 * 7
    assert grown_mib < 256, f"{grown_mib:.0f} MiB for 256 runs"


async def test_the_pool_keeps_to_its_number_of_connections(server, monkeypatch):
    monkeypatch.setattr(client, "MOST_CONNECTIONS", 3)
    server.faults["*"] = "slow"
    pool = Pool.open()
    asked = pool.server(server.url, None, 0)
    body = {"model": "africa", "messages": []}
    tasks = [asyncio.create_task(asked.post("/chat/completions", body)) for _ in range(8)]
    await asyncio.sleep(0.5)
    assert len(server.requests) == 3
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.close()


def test_asyncio_run_closes_the_connections(server, caplog, capsys):
    async def unclosed():
        return (await ask(AFRICA, Sampling(), HELLO, timeout_s=10)).text

    for _ in range(2):
        assert asyncio.run(unclosed())
    gc.collect()
    assert "Unclosed" not in caplog.text + capsys.readouterr().err


async def test_a_refusal_never_holds_the_key(server):
    server.faults["africa"] = "401"
    with use_settings(get_settings(base_url=server.url, api_key="sk-very-secret")):
        model = await open_model(AFRICA)
        with pytest.raises(Refused) as caught:
            await model.reply(HELLO, Sampling())
        await close_clients()
    assert "sk-very-secret" not in f"{caught.value!r} {caught.value.body}"
    assert "***" in str(caught.value)
    assert isinstance(model, VllmModel)
    assert "sk-very-secret" not in json.dumps(model.chat.model_dump())


@pytest.mark.parametrize("vllm", [True, False])
async def test_a_server_that_takes_no_blend_is_never_asked_under_its_name(server, vllm):
    """A vLLM without our plug-in, and any other server: refused with the way out, never answered."""
    server.vllm = vllm
    blended = ModelRef.parse("openai:moerges").with_blend("africa=0.2, oceania=0.8")
    assert str(blended) == "openai:moerges[africa=0.2,oceania=0.8]"
    try:
        with pytest.raises(
            ModelError, match=r"can not blend by 'africa=0\.2,oceania=0\.8'.*Leave out --blend"
        ):
            await ask(blended, Sampling(), HELLO, timeout_s=10)
    finally:
        await close_clients()
    assert server.requests == []
