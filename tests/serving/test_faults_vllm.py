"""Faults of real vLLM servers, and of what stands before them: a run finishes or fails with the reason."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from langchain_core.messages import HumanMessage

from cultural_palette.errors import ModelError
from cultural_palette.graph.build import build_palette
from cultural_palette.models import ModelRef, Sampling, ask, close_clients
from cultural_palette.settings import get_settings, use_settings
from tests.serving.test_readout_vllm import counter


async def until(said, seconds=30):
    for _ in range(50 * seconds):
        if said():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that")


CLOSED = {"country": "KEN", "query": "Is tea good?", "options": ["Yes", "No"]}
LONG = [HumanMessage("Tell a long story of tea.")]
TOKENS = 40


@pytest.fixture
def cast(vllm_servers):
    """Settings for the whole palette on real servers; `moved` sends parts elsewhere."""

    def settings(moved=None, **more):
        refs = {**vllm_servers.refs, **(moved or {})}
        flags = {"max_tokens": TOKENS, "retries": 5, "draft_timeout_s": 120, "min_drafts": 3}
        return get_settings(models=refs, **(flags | more))

    return settings


async def runs(count, settings, **question):
    """So many runs at once; each its result, or its failure."""
    palette = build_palette("continents")
    with use_settings(settings):
        try:
            asked = CLOSED | question
            return await asyncio.gather(
                *(palette.ainvoke(asked) for _ in range(count)), return_exceptions=True
            )
        finally:
            await close_clients()


def whole(result):
    """All five drafts, an account, a decision, and each call's tokens counted once."""
    assert isinstance(result, dict), repr(result)
    assert result["degraded"] == [] and result["answer"] in CLOSED["options"]
    by_part = result["usage"]["by_part"]
    assert set(by_part) == {*result["drafts"], "meta"}
    for key, draft in result["drafts"].items():
        assert draft["text"]
        assert 0 < by_part[key]["output_tokens"] <= TOKENS
    assert 1 < by_part["meta"]["output_tokens"] <= TOKENS + 1
    return True


class Proxy:
    """Stands before a server. `fault(n)` says what becomes of request n."""

    def __init__(self, target):
        self.target, self.fault, self.seen, self.url = target.removesuffix("/v1"), lambda n: "", 0, ""

    async def pass_on(self, request):
        body = await request.read()
        fault = ""
        if request.path.endswith("/completions"):
            self.seen += 1
            fault = self.fault(self.seen)
        if fault.isdigit():
            headers = {"Retry-After": "0.2"} if fault == "429" else None
            return web.json_response({"error": {"message": "storm"}}, status=int(fault), headers=headers)
        if fault == "hung":
            await asyncio.sleep(600)
        if fault == "key" and request.headers.get("Authorization") != "Bearer right":
            return web.json_response({"error": "Unauthorized"}, status=401)
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method,
                self.target + request.path,
                data=body,
                headers={"Content-Type": "application/json"},
            ) as answer,
        ):
            if fault == "slow first token":
                await asyncio.sleep(1.5)
            if fault == "truncated":
                response = web.StreamResponse(headers={"Content-Type": answer.content_type})
                response.content_length = 1000
                await response.prepare(request)
                await response.write((await answer.content.read(100))[:50])
                assert request.transport is not None
                request.transport.close()
                return response
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response


@asynccontextmanager
async def before(target) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    app = web.Application(client_max_size=10**7)
    app.router.add_route("*", "/{tail:.*}", proxy.pass_on)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield proxy
    finally:
        await runner.cleanup()


def through(proxy, servers, *parts):
    ours, theirs = (url.removesuffix("/v1") for url in (proxy.url, servers.url))
    return {part: servers.refs[part].replace(theirs, ours) for part in parts}


async def test_storms_pass(vllm_servers, cast):
    async with before(vllm_servers.url) as proxy:
        proxy.fault = lambda n: ("429", "503", "")[n % 3]
        results = await runs(6, cast(through(proxy, vllm_servers, "africa", "asia"), retries=20))
    assert all(whole(result) for result in results)
    assert proxy.seen > 12


@pytest.mark.parametrize("fault", ["truncated", "slow first token"])
async def test_a_fault_at_first_is_got_over(vllm_servers, cast, fault):
    async with before(vllm_servers.url) as proxy:
        proxy.fault = lambda n: fault if n <= 2 else ""
        results = await runs(2, cast(through(proxy, vllm_servers, "africa")))
    assert all(whole(result) for result in results)
    assert proxy.seen == (4 if fault == "truncated" else 2)


async def test_a_hung_socket_costs_one_draft_its_budget(vllm_servers, cast):
    async with before(vllm_servers.url) as proxy:
        proxy.fault = lambda n: "hung"
        moved = through(proxy, vllm_servers, "africa")
        (result,) = await runs(1, cast(moved, draft_timeout_s=20))
    assert "did not answer within 20 s" in result["drafts"]["africa"]["error"]
    assert result["answer"] and len(result["degraded"]) == 1


async def test_an_adapter_that_is_missing(vllm_servers, cast):
    ref = f"openai:antarctica@{vllm_servers.url}/v1"
    (result,) = await runs(1, cast({"africa": ref}))
    error = result["drafts"]["africa"]["error"]
    assert "does not know the model 'antarctica' (HTTP 404" in error and "palette doctor" in error
    assert result["answer"] and len(result["degraded"]) == 1


async def test_a_decider_that_is_not_served_fails_the_run(vllm_servers, cast):
    (result,) = await runs(1, cast({"meta": f"openai:moerge@{vllm_servers.url}/v1"}))
    assert isinstance(result, ModelError) and "does not know the model 'moerge'" in str(result)


async def test_a_wrong_key(vllm_servers, cast):
    async with before(vllm_servers.url) as proxy:
        proxy.fault = lambda n: "key"
        moved = through(proxy, vllm_servers, "africa")
        (wrong,) = await runs(1, cast(moved, api_key="sk-wrong"))
        (right,) = await runs(1, cast(moved, api_key="right"))
    assert "refused the key (HTTP 401)" in wrong["drafts"]["africa"]["error"]
    assert "sk-wrong" not in str(wrong)
    assert whole(right)


async def test_a_cancelled_run_is_aborted_at_the_server(vllm_servers):
    running, url = "vllm:num_requests_running", vllm_servers.url
    written = counter(url, "vllm:generation_tokens_total")
    ref, sampling = ModelRef.parse(vllm_servers.refs["africa"]), Sampling(1.0, 900, 1)
    with use_settings(get_settings(models=dict(vllm_servers.refs))):
        tasks = [asyncio.create_task(ask(ref, sampling, LONG, timeout_s=60)) for _ in range(6)]
        await until(lambda: counter(url, running) >= 1)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await close_clients()
    await until(lambda: counter(url, running) == 0)
    assert [type(each) for each in ended] == [asyncio.CancelledError] * 6
    assert counter(url, "vllm:generation_tokens_total") - written < 6 * 900 / 2  # nobody wrote to the end


async def test_many_runs_at_once(vllm_servers, cast):
    """256 of them on real servers: every run whole, memory within bounds."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = await runs(256, cast(max_tokens=4, draft_timeout_s=600, request_timeout_s=600))
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    assert all(isinstance(result, dict) and result["answer"] for result in results)
    assert all(len(result["usage"]["by_part"]) == 6 and result["degraded"] == [] for result in results)
    assert grown_mib < 256, f"{grown_mib:.0f} MiB"


async def test_killed_in_the_middle_and_started_again(vllm_servers, cast):
    """The last test: it takes as long as a server's start."""
    settings = cast(retries=100, draft_timeout_s=900, request_timeout_s=900)
    task = asyncio.create_task(runs(6, settings))
    await until(lambda: counter(vllm_servers.url, "vllm:num_requests_running") >= 1)
    await asyncio.to_thread(vllm_servers.kill, "palette")
    assert not task.done()
    await asyncio.to_thread(vllm_servers.restart)
    assert all(whole(result) for result in await task)
