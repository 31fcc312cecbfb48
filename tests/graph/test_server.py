"""`langgraph dev`, for real and offline: every graph id, driven by langgraph_sdk and RemoteGraph.

Models are a small OpenAI-compatible server on localhost; one test asks the embedded nano palette.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client

from cultural_palette.embedded.manifest import BUILT_IN
from cultural_palette.graph.server.assistants import make_assistants
from cultural_palette.graph.variants import BASELINES, VARIANTS
from tests.conftest import ROOT
from tests.fake_server import FakeServer, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
KEYS = ("africa", "america", "asia", "europe", "oceania")
CAST = {"models": {part: f"openai:{part}" for part in (*KEYS, "meta", "base")}}
ASKED = {"country": "Kenya", "query": "Freedom {country} or equality?", "options": ["Freedom", "Equality"]}
START_S = 120.0


@dataclass
class Dev:
    url: str
    fake: FakeServer
    log: Path


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """The server on a free port, in a folder of links, so that its state stays out of the repository."""
    folder = tmp_path_factory.mktemp("dev")
    for name in ("langgraph.ablations.json", "palette", "graph", "nodes", "src"):
        (folder / name).symlink_to(ROOT / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log.txt"
    with serve() as fake, log.open("wb") as out:
        fake.replies["*"] = lambda body: f"{body['model']} speaks of tea."
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PALETTE_", "OPENAI_", "LANG"))}
        env |= {
            "PALETTE_BASE_URL": fake.url,
            "PALETTE_API_KEY": "sk-very-secret",
            "LANGSMITH_TRACING": "false",
            "LANGGRAPH_NO_VERSION_CHECK": "true",
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        command = [
            sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload",
            "--host", "127.0.0.1", "--port", str(port), "--n-jobs-per-worker", "10",
            "--config", "langgraph.ablations.json",
        ]  # fmt: skip
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url, server, log)
            yield Dev(url, fake, log)
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            with urllib.request.urlopen(f"{url}/ok", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail("the dev server did not start:\n" + log.read_text(errors="replace")[-4000:])


@pytest.fixture(autouse=True)
def _calm(dev: Dev) -> Iterator[None]:
    yield
    dev.fake.faults.clear()
    dev.fake.requests.clear()


async def test_every_graph_id_is_served(dev: Dev):
    found = await get_client(url=dev.url).assistants.search(limit=50, metadata={"created_by": "system"})
    assert {assistant["graph_id"] for assistant in found} == {*VARIANTS, *BASELINES, "synthesis", "chat"}
    assert all(assistant["description"] for assistant in found)


@pytest.mark.parametrize("variant", list(VARIANTS))
async def test_sdk_answers(dev: Dev, variant: str):
    client = get_client(url=dev.url)
    result: Any = await client.runs.wait(None, variant, input=ASKED, context=CAST)
    assert result["answer"] == "Freedom", result
    # the fake server: A 0.5 and " A" 0.1, B 0.2
    assert result["distribution"] == pytest.approx({"Freedom": 0.75, "Equality": 0.25})
    assert (result["country"], result["query"], result["degraded"]) == ("KEN", ASKED["query"], [])
    assert tuple(result["drafts"]) == (() if variant == "without-draft" else KEYS)
    assert (result["regulated"] is None) == (variant == "without-self-regulation")
    decider = "base" if variant == "without-moerges" else "meta"
    assert dev.fake.sent_to(decider)[-1]["top_logprobs"] == 20


@pytest.mark.parametrize("variant", list(VARIANTS))
async def test_remote_graph_answers(dev: Dev, variant: str):
    remote = RemoteGraph(variant, url=dev.url)
    result = await remote.ainvoke(ASKED, context=CAST)
    assert result["answer"] == "Freedom"


async def test_remote_graph_streams_drafts_as_they_come(dev: Dev):
    remote = RemoteGraph("palette", url=dev.url)
    nodes = []
    async for update in remote.astream(ASKED, context=CAST, stream_mode="updates"):
        nodes += list(update)
    assert nodes[0] == "intake" and nodes[-3:] == ["memory", "regulate", "decide"]
    assert set(nodes[1:6]) == {f"draft_{key}" for key in KEYS}


async def test_tokens_stream_with_usage(dev: Dev):
    written: dict[str, str] = {}
    result: Any = None
    client = get_client(url=dev.url)
    free = {"country": "KEN", "query": "Tea?"}
    async for event in client.runs.stream(
        None, "palette", input=free, context=CAST, stream_mode=["messages-tuple", "values"]
    ):
        if event.event == "messages":
            message, metadata = event.data
            if message["type"] == "AIMessageChunk":
                node = metadata["langgraph_node"]
                written[node] = written.get(node, "") + message["content"]
        elif event.event == "values":
            result = event.data
    assert written["draft_asia"] == "asia speaks of tea." and written["decide"] == "meta speaks of tea."
    assert set(written) == {*(f"draft_{key}" for key in KEYS), "regulate", "decide"}
    assert result["usage"]["by_part"]["asia"]["output_tokens"] == 4
    assert all(body["stream"] for body in dev.fake.requests)


async def test_a_thread_of_two_turns(dev: Dev):
    client = get_client(url=dev.url)
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "palette", input=ASKED, context=CAST)
    chat = {"messages": [{"role": "user", "content": "And at work?"}]}
    second: Any = await client.runs.wait(thread, "palette", input=chat, context=CAST)
    assert (second["country"], second["query"], second["options"]) == ("KEN", "And at work?", [])
    assert second["memory"].startswith(f"Earlier question: {ASKED['query']}\nEarlier answer: Freedom\n\n")
    assert [m["content"] for m in second["messages"]] == [
        ASKED["query"], "Freedom", "And at work?", "meta speaks of tea.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("slow", "did not answer within 1 s"),
        ("html", "can not be read as a chat completion"),
        ("other json", "asia"),
        ("401", "refused the key"),
        ("500", "HTTP 500"),
        ("truncated", "broke off"),
        ("cut", "asia"),
        ("empty", "empty reply"),
    ],
)
async def test_a_faulty_agent_degrades_the_answer(dev: Dev, fault: str, reason: str):
    dev.fake.faults["asia"] = fault
    client = get_client(url=dev.url)
    streamed: Any = None
    async for event in client.runs.stream(
        None, "palette", input=ASKED, context={**CAST, "draft_timeout_s": 1 if fault == "slow" else 20},
        stream_mode=["messages-tuple", "values"],
    ):  # fmt: skip
        streamed = event.data if event.event == "values" else streamed
    assert streamed["answer"] == "Freedom"
    (said,) = streamed["degraded"]
    assert said.startswith("No draft for Asia: ") and reason in said
    assert streamed["drafts"]["asia"]["text"] is None
    assert "sk-very-secret" not in str(streamed)


async def test_429_once_is_sent_again(dev: Dev):
    dev.fake.faults["asia"] = "429 once"
    result: Any = await get_client(url=dev.url).runs.wait(None, "palette", input=ASKED, context=CAST)
    assert result["degraded"] == [] and len(dev.fake.sent_to("asia")) == 2


@pytest.mark.parametrize(
    ("given", "context", "error"),
    [
        ({**ASKED, "country": "UK"}, CAST, "UnknownCountry"),
        ({**ASKED, "options": ["one"]}, CAST, "QuestionError"),
        (ASKED, {"models": {**CAST["models"], "asia": "openai:nobody"}, "min_drafts": 5}, "TooFewDrafts"),
        (ASKED, {"models": {**CAST["models"], "meta": "openai:nobody"}}, "ModelError"),
        (ASKED, {"model": "opnai:x"}, "SettingsError"),
        ({**ASKED, "options": "Yes"}, CAST, "QuestionError: options = 'Yes' is one text"),
        ({**ASKED, "country": 5}, CAST, "UnknownCountry: country = 5 is no text"),
        (ASKED, {"temprature": 1}, "SettingsError: Unknown knob 'temprature'"),
        (
            ASKED,
            {"blend": "fitted:/etc/passwd"},
            "SettingsError: Blend 'fitted:/etc/passwd': this server reads no",
        ),
        (ASKED, {"temperature": 9}, "SettingsError: Knob 'temperature': Input should be less than"),
        (
            ASKED,
            {"model": "openai:x@http://example.org"},
            "SettingsError: Model 'openai:x@http://example.org'",
        ),
        (ASKED, {"models": {"asia": "embedded:/etc"}}, "SettingsError: Model 'embedded:/etc'"),
    ],
)
async def test_what_can_not_be_asked_fails_by_name_and_in_words(
    dev: Dev, given: Any, context: Any, error: str
):
    client = get_client(url=dev.url)
    result: Any = await client.runs.wait(None, "palette", input=given, context=context, raise_error=False)
    name, _, words = error.partition(": ")
    assert result["__error__"]["error"] == name
    assert result["__error__"]["message"].startswith(words)


async def test_a_configurable_is_looked_at_like_a_context(dev: Dev):
    config: Any = {"configurable": {"blend": "fitted:/etc/passwd"}}
    client = get_client(url=dev.url)
    result: Any = await client.runs.wait(None, "palette", input=ASKED, config=config, raise_error=False)
    assert "reads no file that a caller names" in result["__error__"]["message"]


async def test_a_threads_state_leads_to_no_other_server(dev: Dev):
    """A caller may write a thread's state and go on from there, past intake."""
    client = get_client(url=dev.url)
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "palette", input=ASKED, context=CAST)
    with serve() as elsewhere:
        parts = {part: f"openai:{part}@{elsewhere.url}" for part in (*KEYS, "meta", "base")}
        await client.threads.update_state(thread, {"parts": parts}, as_node="intake")
        result: Any = await client.runs.wait(thread, "palette", input=None, context=CAST, raise_error=False)
        assert "this server asks no model at" in result["__error__"]["message"]
        assert not elsewhere.requests


async def test_events_come_on_the_custom_stream(dev: Dev):
    kinds: list[str] = []
    written = ""
    async for event in get_client(url=dev.url).runs.stream(
        None, "palette", input={"country": "KEN", "query": "Tea?"}, context=CAST, stream_mode=["custom"]
    ):
        if event.event == "custom":
            kinds.append(event.data["type"])
            if event.data.get("community") == "asia" and event.data["type"] == "draft_token":
                written += event.data["text"]
    assert written == "asia speaks of tea."
    assert kinds[0] == "turn_started" and kinds[-1] == "decision"
    assert {"draft_started", "draft_done", "account_done", "answer_token"} <= set(kinds)


async def test_a_generic_chat_client(dev: Dev):
    """Messages alone, as agent-chat-ui sends them; the country comes when it is asked for."""
    client = get_client(url=dev.url)
    thread = (await client.threads.create())["thread_id"]

    async def say(text: str) -> tuple[Any, dict[str, str]]:
        bubbles: dict[str, str] = {}
        state: Any = None
        async for event in client.runs.stream(
            thread,
            "chat",
            input={"messages": [{"type": "human", "content": [{"type": "text", "text": text}]}]},
            context=CAST,
            stream_mode=["messages-tuple", "values", "custom"],
        ):
            if event.event == "messages":
                message = event.data[0]
                if message["type"] in ("ai", "AIMessageChunk"):
                    bubbles[message["id"]] = bubbles.get(message["id"], "") + message["content"]
            elif event.event == "values":
                state = event.data
        return state, bubbles

    state, bubbles = await say("What is a good life?")
    assert list(bubbles.values()) == [state["messages"][-1]["content"]]
    assert state["messages"][-1]["content"].startswith("Which country should answer?")
    state, bubbles = await say("Kenya")
    assert (state["country"], state["query"]) == ("KEN", "What is a good life?")
    assert list(bubbles.values()) == ["meta speaks of tea."]
    assert state["ui"][0]["props"]["answer"] == "meta speaks of tea."
    assert [m["type"] for m in state["messages"]] == ["human", "ai", "human", "ai"]


async def test_a2a_answers_and_fails_in_words(dev: Dev):
    (assistant,) = await get_client(url=dev.url).assistants.search(graph_id="chat")

    async def send(text: str) -> str:
        message = {"role": "user", "messageId": "1", "parts": [{"kind": "text", "text": text}]}
        body = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {"message": message}}
        return str(await _post(f"{dev.url}/a2a/{assistant['assistant_id']}", body))

    assert "Which country should answer?" in await send("What is a good life?")
    assert "stands there already" in await send("Is tea good in Kenya?\nA) yes\nB) Yes")


async def test_mcp_answers_and_fails_in_words(dev: Dev):
    from mcp.client.client import Client

    async with Client(f"{dev.url}/mcp") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"ask_country", "list_countries"}
        listed = await client.call_tool("list_countries", {"containing": "kenya"})
        assert json.loads(listed.content[0].text) == {  # type: ignore[union-attr]
            "countries": {"KEN": {"name": "Kenya", "community": "Africa"}}
        }
        for arguments, words in (
            ({"country": "Kenia", "question": "Tea?"}, "Did you mean KEN (Kenya)"),
            ({"country": "KEN", "question": "Tea?", "options": "Yes"}, "options = 'Yes' is one text"),
        ):
            failed = await client.call_tool("ask_country", arguments)
            assert failed.is_error and words in failed.content[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://smith.langchain.com"}, 200),
        ({}, 200),
    ],
)
async def test_pages_of_other_sites_can_not_drive_it(dev: Dev, headers: dict[str, str], status: int):
    body = {"assistant_id": "palette", "input": ASKED, "context": CAST}
    async with aiohttp.ClientSession() as session:
        # as a page can send it without being asked: no preflight for text/plain
        request = session.post(
            f"{dev.url}/runs/wait", data=json.dumps(body), headers={"Content-Type": "text/plain", **headers}
        )
        async with request as response:
            assert response.status == status, await response.text()


async def test_a_request_that_is_too_large_is_not_read(dev: Dev):
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 100_000

    async with aiohttp.ClientSession() as session:
        async with session.post(f"{dev.url}/runs/wait", data=b" " * 2_000_000) as response:
            assert response.status == 413 and "1,000,000" in await response.text()
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(f"{dev.url}/runs/wait", data=endless()) as response:
                assert response.status >= 400


async def _post(url: str, body: Any) -> Any:
    headers = {"Accept": "application/json"}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        return await response.json()


async def test_a_cancelled_run(dev: Dev):
    client = get_client(url=dev.url)
    thread = (await client.threads.create())["thread_id"]
    dev.fake.faults["asia"] = "slow"
    run = await client.runs.create(thread, "palette", input=ASKED, context=CAST)
    for _ in range(200):
        if len(dev.fake.requests) == 5:
            break
        await asyncio.sleep(0.05)
    await client.runs.cancel(thread, run["run_id"], wait=True)
    assert (await client.runs.get(thread, run["run_id"]))["status"] == "interrupted"
    dev.fake.faults.clear()
    result: Any = await client.runs.wait(
        thread, "palette", input={"country": "KEN", "query": "Tea?"}, context=CAST
    )
    assert (result["query"], result["degraded"]) == ("Tea?", []) and "Earlier" not in result["memory"]


async def test_ten_runs_at_once(dev: Dev):
    client = get_client(url=dev.url)
    runs = [client.runs.wait(None, "palette", input=ASKED, context=CAST) for _ in range(10)]
    results: Any = await asyncio.gather(*runs)
    assert [result["answer"] for result in results] == ["Freedom"] * 10


async def test_the_form_of_the_context(dev: Dev):
    client = get_client(url=dev.url)
    (assistant,) = await client.assistants.search(graph_id="palette")
    schemas: Any = await client.assistants.get_schemas(assistant["assistant_id"])
    fields = schemas["context_schema"]["properties"]
    assert fields["prompt_decide"]["langgraph_nodes"] == ["decide"]
    assert fields["prompt_draft"]["langgraph_nodes"] == [f"draft_{key}" for key in KEYS]
    assert fields["prompt_draft"]["default"].startswith("[system]\n")
    assert "KEN" in schemas["input_schema"]["properties"]["country"]["examples"]
    drawn: Any = await client.assistants.get_graph(assistant["assistant_id"])
    nodes = {node["id"]: node.get("metadata") for node in drawn["nodes"]}
    assert nodes["draft_asia"]["colour"].startswith("#") and nodes["draft_asia"]["name"] == "Asia"
    assert all(nodes[name]["description"] for name in ("intake", "memory", "regulate", "decide"))
    assert {"country", "query", "options", "messages"} <= set(schemas["input_schema"]["properties"])
    assert {"drafts", "answer", "distribution", "blend"} <= set(schemas["output_schema"]["properties"])


@pytest.mark.skipif(
    not (BUILT_IN["nano"] / "manifest.json").is_file(), reason="the nano palette is not built"
)
async def test_the_nano_palette_answers(dev: Dev):
    query = "Is freedom or equality more important?"
    result: Any = await get_client(url=dev.url).runs.wait(None, "palette", input={**ASKED, "query": query})
    assert result["answer"] in ASKED["options"] and result["degraded"] == []
    assert sum(result["distribution"].values()) == pytest.approx(1)
    assert sum(result["blend"].values()) == pytest.approx(1, abs=1e-3)
    # an earlier test's run may still be asking its own question
    assert not [body for body in dev.fake.requests if query in str(body)]


async def test_an_assistant_for_every_ablation(dev: Dev):
    made = await make_assistants(dev.url)
    assert made == await make_assistants(dev.url), "none twice"
    result: Any = await get_client(url=dev.url).runs.wait(
        None, made["Palette: without-draft"], input=ASKED, context=CAST
    )
    assert result["answer"] == "Freedom" and result["drafts"] == {}


def test_no_call_blocked_the_loop(dev: Dev):
    assert "BlockingError" not in dev.log.read_text(errors="replace")
