"""Who plays which part, and what a person is told when a server fails. The server is real, on localhost."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage
from langchain_core.runnables.config import var_child_runnable_config

from cultural_palette import models
from cultural_palette.cultural_map import Community, load_map
from cultural_palette.embedded.manifest import Manifest
from cultural_palette.errors import MapError, ModelError, SettingsError
from cultural_palette.models import (
    ModelRef,
    Sampling,
    ask,
    chat_model,
    close_clients,
    open_model,
    resolve_parts,
)
from cultural_palette.models import http as client
from cultural_palette.models.determinism import promise
from cultural_palette.settings import get_settings, use_settings
from tests.fake_server import serve
from tests.scripted import scripted_provider

CONTINENTS = load_map("continents")
HELLO = [HumanMessage("Hello, what do people eat?")]
KEY = "sk-very-secret"


@pytest.fixture
def server():
    with serve() as fake:
        yield fake


@pytest.fixture
def nano(monkeypatch, tmp_path):
    """A palette on paper: its manifest can be read, its weights can not."""
    keys = ("africa", "america", "asia", "europe", "oceania")
    manifest = Manifest("nano", "continents", tmp_path, {key: tmp_path for key in keys}, tmp_path)

    def read(name):
        if name in ("nano", "/my/palette"):
            return manifest
        raise ModelError(f"No palette {name!r}")

    monkeypatch.setattr("cultural_palette.models.parts.read_manifest", read)


# -- names


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("embedded:nano", ModelRef("embedded", "nano")),
        ("embedded:nano/africa", ModelRef("embedded", "nano/africa")),
        ("openai:gpt-4o-mini", ModelRef("openai", "gpt-4o-mini")),
        ("openai:africa@http://127.0.0.1:8000/v1", ModelRef("openai", "africa", "http://127.0.0.1:8000/v1")),
        ("openai:qwen2.5:7b@https://x.org/v1/", ModelRef("openai", "qwen2.5:7b", "https://x.org/v1")),
        ("openai:org/name@v2", ModelRef("openai", "org/name@v2")),
    ],
)
def test_references(text, ref):
    assert ModelRef.parse(text) == ref
    assert ModelRef.parse(str(ref)) == ref


@given(
    name=st.from_regex(r"[A-Za-z0-9._/:-]{1,30}", fullmatch=True),
    url=st.none() | st.from_regex(r"https?://[a-z0-9.]{1,10}(:[0-9]{1,4})?/v1", fullmatch=True),
)
def test_references_round_trip(name, url):
    ref = ModelRef("openai", name, url)
    assert ModelRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpt-4o-mini", "not of the form provider:name"),
        ("openai:", "not of the form"),
        ("openai:@http://x/v1", "not of the form"),
        ("", "not of the form"),
        ("opnai:x", r"Unknown provider 'opnai' in model 'opnai:x'\. Did you mean 'openai'\?"),
        ("embedded:nano@http://x/v1", "runs in this process and takes no address"),
        ("openai:x@http://me:pw@host/v1", "holds a user or password"),
    ],
)
def test_bad_references(text, message):
    with pytest.raises(SettingsError, match=message) as caught:
        ModelRef.parse(text)
    assert "pw" not in str(caught.value).replace("password", "")


# -- the cast


def test_the_nano_palette_plays_every_part(nano):
    parts = resolve_parts(CONTINENTS, {}, None)
    assert {key: str(ref) for key, ref in parts.agents.items()} == {
        key: f"embedded:nano/{key}" for key in ("africa", "america", "asia", "europe", "oceania")
    }
    assert (str(parts.meta), str(parts.base), parts.prompted) == (
        "embedded:nano/meta",
        "embedded:nano/base",
        False,
    )
    assert parts.of("asia") == parts.agents["asia"] and parts.of("meta") == parts.meta


def test_one_model_plays_every_part_by_prompt_alone():
    parts = resolve_parts(CONTINENTS, {}, "openai:gpt")
    assert {str(ref) for ref in (*parts.agents.values(), parts.meta, parts.base)} == {"openai:gpt"}
    assert parts.prompted


def test_a_part_of_its_own_wins(nano):
    lora = {c.key: f"openai:{c.key}@http://lora:1/v1" for c in CONTINENTS.communities}
    parts = resolve_parts(CONTINENTS, {**lora, "meta": "openai:moerges@http://moe:2/v1"}, "openai:llama")
    assert str(parts.agents["asia"]) == "openai:asia@http://lora:1/v1"
    assert (str(parts.meta), str(parts.base)) == ("openai:moerges@http://moe:2/v1", "openai:llama")
    assert not parts.prompted
    assert str(resolve_parts(CONTINENTS, {"africa": "openai:a"}, None).agents["asia"]) == "embedded:nano/asia"


def test_palettes_of_ones_own(nano):
    assert str(resolve_parts(CONTINENTS, {}, "embedded:/my/palette").meta) == "embedded:/my/palette/meta"
    assert str(resolve_parts(CONTINENTS, {"meta": "embedded:nano/base"}, None).meta) == "embedded:nano/base"
    assert resolve_parts(CONTINENTS, {}, "embedded:nano/asia").prompted
    with pytest.raises(ModelError, match="No palette"):
        resolve_parts(CONTINENTS, {}, "embedded:other")


def test_a_map_the_palette_was_not_made_for(nano):
    other = load_map("inglehart_welzel")
    with pytest.raises(ModelError) as caught:
        resolve_parts(other, {}, None)
    assert all(c.key in str(caught.value) for c in other.communities if c.key not in ("africa",))
    assert "--model openai:NAME" in str(caught.value)
    assert resolve_parts(other, {}, "openai:gpt").prompted


def test_unknown_parts_and_taken_names(nano):
    with pytest.raises(SettingsError, match=r"Unknown part 'afrika' in `models`\. Did you mean 'africa'\?"):
        resolve_parts(CONTINENTS, {"afrika": "openai:x"}, None)
    for taken in ("meta", "base", "joint"):
        with pytest.raises(MapError, match=f"can not be called '{taken}'"):
            Community(taken, "Meta", "#000000", ("KEN",))


# -- asking a server


@pytest.fixture(params=["ChatOpenAI", "our client"])
def here(server, request, monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.02)
    server.vllm = request.param == "our client"
    settings = get_settings(base_url=server.url, api_key=KEY, request_timeout_s=20, retries=2)
    with use_settings(settings):
        yield server


async def said(ref, timeout_s=10.0):
    try:
        return await ask(ModelRef.parse(ref), Sampling(0.3, 40, 5), HELLO, timeout_s=timeout_s)
    finally:
        await close_clients()


async def test_a_reply_with_its_usage(here):
    reply = await said("openai:africa")
    assert reply.text == "africa speaks of many things."
    assert reply.usage == {"input_tokens": 5, "output_tokens": 5}
    (sent,) = here.requests
    most = sent.get("max_completion_tokens") or sent.get("max_tokens")
    assert (sent["temperature"], sent["seed"], most) == (0.3, 5, 40)
    assert sent["messages"] == [{"role": "user", "content": "Hello, what do people eat?"}]
    assert here.keys == [KEY]


FAULTS = {
    "html": r"sent what can not be read as a chat completion .* Is it an OpenAI-compatible API\?",
    "other json": r"can not be read as a chat completion|gave an empty reply|broke off",
    "401": r"refused the key \(HTTP 401\)\. Is the key in PALETTE_API_KEY \(or OPENAI_API_KEY\) right\?",
    "429": r"too busy or its quota is used up \(HTTP 429: .*rate limit.*\)",
    "500": r"answered HTTP 500: .*the engine died",
    "empty": r"gave an empty reply",
    "truncated": r"broke off",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_says_who_why_and_the_way_out(here, fault):
    here.faults["africa"] = fault
    with pytest.raises(ModelError, match=FAULTS[fault]) as caught:
        await said("openai:africa")
    message = str(caught.value)
    assert here.url in message and "africa" in message
    assert KEY not in message and "\n" not in message and len(message) < 500


async def test_an_unknown_model(here):
    with pytest.raises(
        ModelError, match=r"does not know the model 'afrika' \(HTTP 404: .*\)\. 'palette doctor'"
    ):
        await said("openai:afrika")


async def test_429_then_success_and_only_one_layer_retries(here):
    here.faults["africa"] = "429 once"
    assert (await said("openai:africa")).text.startswith("africa")
    assert len(here.requests) == 2
    here.faults["asia"] = "500"
    with pytest.raises(ModelError):
        await said("openai:asia")
    assert len(here.sent_to("asia")) == 3  # one try and two retries, not (1 + 2) squared


async def test_a_server_that_is_down():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with (
        use_settings(get_settings(retries=0)),
        pytest.raises(ModelError, match=rf"Can not reach {url} for model 'africa' \(.*\)\. Is it up\?"),
    ):
        await said(f"openai:africa@{url}")


async def test_a_slow_server_is_left_in_time_and_let_go(here):
    here.faults["africa"] = "slow"
    await ask(ModelRef.parse("openai:asia"), Sampling(), HELLO, timeout_s=60)  # what is opened once, is open
    start = time.perf_counter()
    with pytest.raises(ModelError, match=r"did not answer within 1 s"):
        await said("openai:africa", timeout_s=1)
    assert time.perf_counter() - start < 10
    for _ in range(50):
        if here.cancelled:
            break
        await asyncio.sleep(0.05)
    assert here.cancelled == 1


async def test_no_key_goes_to_a_server_the_settings_do_not_name(server):
    with use_settings(get_settings(api_key=KEY)):
        await said(f"openai:africa@{server.url}")
    assert server.keys == ["none"]


async def test_the_key_is_in_no_repr(here):
    ref = ModelRef.parse("openai:africa")
    for model in (chat_model(ref, Sampling()), (await open_model(ref)).chat):
        assert KEY not in repr(model) + str(model) + str(model.model_dump()) + dumps(model)
    await close_clients()


class Listener(AsyncCallbackHandler):
    """What a tracer is told of a call."""

    def __init__(self):
        self.told = []

    async def on_chat_model_start(self, serialized, messages, **more):
        self.told.append(f"{serialized} {more}")

    async def on_llm_error(self, error, **more):
        self.told.append(f"{error!r} {more}")

    async def on_llm_end(self, response, **more):
        self.told.append(f"{response} {more}")


@pytest.mark.parametrize("fault", ["", "401", "500"])
async def test_a_tracer_is_not_told_the_key(here, fault):
    here.faults["africa"] = fault
    listener = Listener()
    token = var_child_runnable_config.set({"callbacks": [listener]})
    try:
        await said("openai:africa")
    except ModelError as error:
        listener.told.append(str(error))
    finally:
        var_child_runnable_config.reset(token)
    assert len(listener.told) >= 2
    assert KEY in here.keys[0]
    # what openai's own errors say is the server's text, which the fake made to echo the key
    ours = [told for told in listener.told if fault != "401" or here.vllm]
    assert all(KEY not in told for told in ours)


def test_clients_belong_to_their_loop(here):
    for _ in range(3):  # a client of another loop fails with "Event loop is closed"
        assert asyncio.run(said("openai:africa")).text
    assert asyncio.run(_unclosed()).text
    assert asyncio.run(_unclosed()).text


async def _unclosed():
    return await ask(ModelRef.parse("openai:africa"), Sampling(), HELLO, timeout_s=10)


async def test_a_model_is_opened_once_a_loop(here):
    ref = ModelRef.parse("openai:africa")
    first, second = await asyncio.gather(open_model(ref), open_model(ref))
    assert first is second
    await close_clients()
    assert await open_model(ref) is not first
    await close_clients()


async def test_a_scripted_model_that_throws(script):
    script.replies["x"] = RuntimeError("boom")
    with pytest.raises(ModelError, match=r"scripted:x failed: RuntimeError: boom\."):
        await ask(ModelRef.parse("scripted:x"), Sampling(), HELLO, timeout_s=1)


async def test_a_cancelled_call_stays_cancelled(script):
    script.seconds["x"] = 5
    task = asyncio.create_task(ask(ModelRef.parse("scripted:x"), Sampling(), HELLO, timeout_s=10))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_provider_of_ones_own_is_a_row_more(monkeypatch, script):
    from dataclasses import replace

    row = replace(scripted_provider(script), name="mine", in_process=False, determinism="{name}: as it likes")
    monkeypatch.setitem(models.PROVIDERS, "mine", row)
    ref = ModelRef.parse("mine:tea@http://127.0.0.1:9/v1")
    assert (ref.address, ref.in_process) == ("http://127.0.0.1:9/v1", False)
    assert promise([ref], 5) == "Seed 5. Mine: as it likes."
    with pytest.raises(ModelError, match="broke off"):  # a server that does not say why a reply ended
        await ask(ref, Sampling(), HELLO, timeout_s=1)
    monkeypatch.setitem(models.PROVIDERS, "mine", replace(row, in_process=True))
    assert (await ask(ModelRef.parse("mine:tea"), Sampling(), HELLO, timeout_s=1)).text == "tea speaks."


def test_an_extra_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "cultural_palette.models.embedded", raising=False)
    monkeypatch.delitem(sys.modules, "cultural_palette.embedded.chat_model", raising=False)
    monkeypatch.delitem(sys.modules, "cultural_palette.embedded.engine", raising=False)
    with pytest.raises(ModelError, match=r"needs torch.* pip install 'cultural-palette\[embedded\]'"):
        asyncio.run(ask(ModelRef.parse("embedded:nano/meta"), Sampling(), HELLO, timeout_s=60))
