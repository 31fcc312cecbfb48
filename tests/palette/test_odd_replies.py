"""What servers send that is no plain answer: thoughts, cut replies, bodies without end, odd JSON, redirects.

On both ways to a server, whole and streamed. The server is real, on localhost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import resource
import time
import zlib
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from cultural_palette.calls import CallStore, use_calls
from cultural_palette.cli.local_servers import Search
from cultural_palette.cli.server import served_models
from cultural_palette.errors import ModelError
from cultural_palette.models import ModelRef, Sampling, ask, chat_model, close_clients, read
from cultural_palette.models import http as client
from cultural_palette.models.thoughts import THINKING_OFF, AnswerPieces, without_thoughts
from cultural_palette.models.tokens import counts_in, usage_of
from cultural_palette.questions import Question
from cultural_palette.serving.probe import listed_models
from cultural_palette.settings import get_settings, use_settings
from cultural_palette.training.synthesis.batch import read_completion
from tests.fake_server import serve

AFRICA = ModelRef.parse("openai:africa")
HELLO = [HumanMessage("Is tea good?")]
MIB = 2**20


@pytest.fixture(params=["ChatOpenAI", "our client"])
def server(request, monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.01)
    with serve() as fake:
        fake.vllm = request.param == "our client"
        with use_settings(get_settings(base_url=fake.url, api_key="sk-secret", retries=0)):
            yield fake


class Listener(AsyncCallbackHandler, _StreamingCallbackHandler):
    """What makes LangChain stream where `ainvoke` was called, as LangGraph does."""

    def tap_output_aiter(self, run_id, output):
        return output

    def tap_output_iter(self, run_id, output):
        return output


@pytest.fixture(params=["whole", "streamed"])
def streamed(request):
    """Whether somebody listens to the tokens, so that the reply is streamed."""
    if request.param == "whole":
        yield False
        return

    token = var_child_runnable_config.set({"callbacks": [Listener()]})
    yield True
    var_child_runnable_config.reset(token)


async def reply(timeout_s=10.0, **sampling):
    try:
        return await ask(AFRICA, Sampling(**sampling), HELLO, timeout_s=timeout_s)
    finally:
        await close_clients()


def completion(text, **more):
    """A server's answer with this text, whole or in two events; `finish`, `usage`, `message` as given."""
    finish = more.pop("finish", "stop")

    async def answer(request, body):
        usage = more.get("usage", {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12})
        head = {"id": "1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": text, **more.get("message", {})},
                "finish_reason": finish,
            }
            return web.Response(
                text=json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}),
                content_type="application/json",
            )
        events = [
            {"index": 0, "delta": {"role": "assistant", "content": text, **more.get("message", {})}},
            {"index": 0, "delta": {}, "finish_reason": finish},
        ]
        chunk = {**head, "object": "chat.completion.chunk"}
        lines = [{**chunk, "choices": [{"finish_reason": None, **event}]} for event in events]
        lines.append({**chunk, "choices": [], "usage": usage})
        text_of = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
        return web.Response(text=text_of, content_type="text/event-stream")

    return answer


# -- thoughts and cut replies

THOUGHTS = {
    "Tea.": "Tea.",
    "<think>Hm.</think>\n\nTea.": "Tea.",
    "<think>\n\n</think>\n\nTea.": "Tea.",
    "<THINK>Hm.</THINK>Tea.": "Tea.",
    "<thinking>Hm.</thinking>Tea.": "Tea.",
    "<thought>Hm.</thought>Tea.": "Tea.",
    "<reasoning>Hm.</reasoning>Tea.": "Tea.",
    "<seed:think>Hm.</seed:think>Tea.": "Tea.",
    "[THINK]Hm.[/THINK]Tea.": "Tea.",
    "Hm.</think>Tea.": "Tea.",  # the prompt began the thought, as DeepSeek-R1's template does
    "<think>a <think> b</think> c</think>Tea.": "Tea.",
    "<think>What is a <think> tag?</think>Tea.": "Tea.",
    "Tea <think>Which?</think>with milk.": "Tea with milk.",
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Tea.": "Tea.",
    "<|channel>thought\nHm.<channel|>Tea.": "Tea.",
    "<think >Hm.</think >Tea.": "Tea.",
    "<think\n>Hm.</ think>Tea.": "Tea.",
    '<reasoning effort="low">Hm.</reasoning>Tea.': "Tea.",
    "<think/>Tea.": "Tea.",
    "<thinking>a<thinking>b</thinking>c</thinking>Tea.": "Tea.",
    "<think>a<think/>b</think>Tea.": "Tea.",
    "<think_fast>Hm.</think_fast>Tea.": "Tea.",
    "<thinking_process>Hm.</thinking_process>Tea.": "Tea.",
    "<mm:think>Hm.</mm:think>Tea.": "Tea.",
    "<inner_monologue>Hm.</inner_monologue>Tea.": "Tea.",
    "<scratchpad>Hm.</scratchpad>Tea.": "Tea.",
    "<reflection>Hm.</reflection>Tea.": "Tea.",
    "<antThinking>Hm.</antThinking>Tea.": "Tea.",
    "<analysis>Hm.</analysis><answer>Tea.</answer>": "Tea.",  # as Hunyuan frames an answer
    "◁think▷Hm.◁/think▷Tea.": "Tea.",  # Kimi
    "<|think|>Hm.<|/think|>Tea.": "Tea.",
    "<|inner_prefix|>Hm.<|inner_suffix|>Tea.": "Tea.",  # Apertus
    "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Tea.<|END_RESPONSE|>": "Tea.",  # Command A
    "<|begin_of_thought|>Hm.<|end_of_thought|><|begin_of_solution|>Tea.<|end_of_solution|>": "Tea.",
    "<think>Hm.</think><|begin_of_box|>Tea.<|end_of_box|>": "Tea.",  # GLM-V
    "<think>It never ends": "",
    "Tea.<think>It never ends": "Tea.",
    "◁think▷It never ends": "",
    "<think>Hm.</think>": "",
    "Think <b>first</b>, then <analyse> it": "Think <b>first</b>, then <analyse> it",
    "<answer>Tea.</answer>": "<answer>Tea.</answer>",
    "a < b, <b>bold</b> and [THIN]": "a < b, <b>bold</b> and [THIN]",
}


@pytest.mark.parametrize("text", THOUGHTS)
def test_thoughts_are_no_part_of_an_answer(text):
    assert without_thoughts(text) == THOUGHTS[text]


@given(st.text(), st.text())
def test_what_comes_after_a_thought_stays(thought, answer):
    plain = [part for part in (thought, answer) if without_thoughts(part) != part.strip()]
    if not plain:
        assert without_thoughts(f"<think>{thought}</think>{answer}") == answer.strip()
        assert without_thoughts(answer) == answer.strip()


def pieces_of(text, size):
    shown = []
    take = AnswerPieces(shown.append)
    for start in range(0, len(text), size):
        take(text[start : start + size])
    return "".join(shown)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        *("<think>Hm. < </think>\n\nTea <b>.", "  Tea.", "[THINK]a[/THINK]<think>b</think>Tea."),
        *("◁think▷Hm.◁/think▷Tea.", "<think >Hm.</think >Tea.", "<|START_THINKING|>Hm.<|END_THINKING|>Tea."),
    ],
)
def test_pieces_come_without_the_thoughts_before_them(text, size):
    assert pieces_of(text, size) == without_thoughts(text)


def test_a_short_answer_that_begins_like_a_tag_is_not_lost():
    assert pieces_of("<3", 1) == "<3"
    assert pieces_of("<b>", 1) in ("", "<b>")  # held back at most: the whole reply has it
    assert pieces_of("<think>It never ends", 2) == ""
    assert pieces_of("<3 is how young people write love, here and in other places", 4).startswith("<3 is how")


async def test_a_reply_comes_without_its_thoughts(server, streamed):
    server.answer = completion("<think>Africa? Tea, I guess.</think> Tea for guests.")
    assert (await reply()).text == "Tea for guests."


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])  # vLLM's name since 0.11, and before
async def test_thoughts_in_a_field_of_their_own_are_no_answer(server, streamed, field):
    server.answer = completion("Tea.", message={field: "Africa? Tea, I guess."})
    assert (await reply()).text == "Tea."
    server.answer = completion(None, message={field: "Africa? Tea, I guess."}, finish="length")
    with pytest.raises(ModelError, match=r"empty reply\. It used up its tokens"):
        await reply()


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("<think>Hm, tea", "length", "thought and gave no answer. It used up its tokens"),
        ("<think>Hm.</think>", "stop", "thought and gave no answer."),
        ("", "length", "gave an empty reply. It used up its tokens"),
        ("Tea is", "content_filter", "filter of its server stopped the reply"),
        ("Tea is", "abort", "broke off after 6 characters"),
        ("Tea is", "error", "broke off after 6 characters"),
    ],
)
async def test_a_reply_without_an_answer_is_a_failure(server, streamed, text, finish, reason):
    server.answer = completion(text, finish=finish, message={"reasoning_content": "Hm, tea"})
    with pytest.raises(ModelError, match=reason) as caught:
        await reply()
    assert "africa" in str(caught.value)


async def test_a_cut_reply_says_so(server, streamed):
    server.answer = completion("Tea is for", finish="length")
    came = await reply()
    assert came.cut and came.text == "Tea is for"


async def test_a_sampled_letter_may_come_after_a_thought(server):
    server.faults["africa"] = "no logprobs"
    server.replies["africa"] = "<think>Hm.</think>B"
    question = Question("Is tea good?", ("Yes", "No"))
    reading = await read(AFRICA, Sampling(), HELLO, question, timeout_s=10, method="sampling", samples=3)
    await close_clients()
    assert reading.distribution.probabilities == (0.0, 1.0) and reading.unreadable == 0


@pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp", "organization-owner"])
async def test_thinking_is_switched_off_where_the_server_can(owner, streamed):
    with serve() as fake, use_settings(get_settings(base_url=fake.url, retries=0)):
        fake.owner, fake.vllm = owner, owner == "vllm"
        await ask(AFRICA, Sampling(), HELLO, timeout_s=10)
        await ask(
            AFRICA, Sampling(min_p=0.05), HELLO, timeout_s=10
        )  # a shape of one's own is no way around it
        question = Question("Is tea good?", ("Yes", "No"))
        await read(AFRICA, Sampling(), HELLO, question, timeout_s=10)
        await close_clients()
    switched = [body.get("chat_template_kwargs") for body in fake.requests if "messages" in body]
    off = THINKING_OFF["chat_template_kwargs"] if owner != "organization-owner" else None
    assert len(switched) >= 3 and set(map(str, switched)) == {str(off)}


async def test_a_template_without_switches_is_asked_without(streamed):
    """As vLLM does with Mistral's own tokenizers; learnt once."""
    with serve() as fake, use_settings(get_settings(base_url=fake.url, retries=0)):
        fake.vllm = True

        async def answer(request, body):
            if "chat_template_kwargs" in body:
                error = {"message": "chat_template is not supported for Mistral tokenizers."}
                return web.json_response({"error": error}, status=400)
            return await completion("Tea.")(request, body)

        fake.answer = answer
        replies = [await ask(AFRICA, Sampling(), HELLO, timeout_s=10) for _ in range(2)]
        await close_clients()
    assert [came.text for came in replies] == ["Tea.", "Tea."] and len(fake.requests) == 3


# -- bodies without end


@functools.cache
def bomb(mebibytes):
    """That many of spaces as gzip; never whole in memory, for the test measures its own process."""
    squeeze, piece = zlib.compressobj(wbits=31), b" " * MIB
    return b"".join(
        [
            squeeze.compress(b'{"choices": ["'),
            *(squeeze.compress(piece) for _ in range(mebibytes)),
            squeeze.flush(),
        ]
    )


def packed(mebibytes):
    async def answer(request, body):
        data = bomb(mebibytes)
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=data, headers=headers)

    return answer


def endless(kind, piece, pause_s=0.0, status=200):
    async def answer(request, body):
        response = web.StreamResponse(status=status, headers={"Content-Type": kind})
        await response.prepare(request)
        while True:
            await response.write(piece)
            await asyncio.sleep(pause_s)

    return answer


CHUNK = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"a","choices":'
    b'[{"index":0,"delta":{"content":"tea "},"finish_reason":null}]}\n\n'
)
LEFT = r"more than [0-9,]+ KiB|instead|not JSON"
WITHOUT_END = {
    "a gzip bomb": (packed(300), "packed as gzip"),
    "endless spaces": (endless("application/json", b" " * 65536), LEFT),
    "an endless error": (
        endless("application/json", b" " * 65536, status=500),
        r"more than [0-9,]+ KiB|HTTP 500",
    ),
    "an endless line": (endless("text/event-stream", b"x" * 65536), LEFT),
    "endless events": (endless("text/event-stream", CHUNK * 500), LEFT),
    "endless comments": (endless("text/event-stream", b": hm\n" * 9999), LEFT),
    "endless HTML": (endless("text/html", b"<p>" * 9999), LEFT),
}


@pytest.mark.parametrize("kind", WITHOUT_END)
async def test_a_body_without_end_is_left(server, streamed, kind, tmp_path):
    server.answer, reason = WITHOUT_END[kind]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with CallStore(tmp_path) as store, use_calls(store), pytest.raises(ModelError, match=reason):
        await reply(timeout_s=30, max_tokens=16)
    assert time.perf_counter() - start < 25
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 200, f"{grown_mib:.0f} MiB"
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < MIB


TRICKLES = {
    "spaces": endless("application/json", b" ", 0.02),
    "events": endless("text/event-stream", CHUNK, 0.02),
    "comments": endless("text/event-stream", b": hm\n", 0.02),
    "events at full speed": endless("text/event-stream", CHUNK),
}


@pytest.mark.parametrize("kind", TRICKLES)
async def test_a_budget_ends_a_body_that_trickles(server, streamed, kind, monkeypatch):
    monkeypatch.setattr(client, "LEAST_ROOM", 2**40)
    server.answer = TRICKLES[kind]
    start = time.perf_counter()
    with pytest.raises(ModelError, match=r"did not answer within 0\.5 s|time was up|instead of|not JSON"):
        await reply(timeout_s=0.5)
    assert time.perf_counter() - start < 4


JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
RAW = {
    "headers without end": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 8192),
    "one header without end": (b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * 65536),
    "a status line without end": (b"HTTP/1.1 200 ", b"b" * 65536),
    "go on, for ever": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2048),
    "hints for ever": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" * 2048),
    "a chunk's extension without end": (CHUNKED + b"1;", b"b" * 65536),
    "chunks of one byte": (CHUNKED, b"1\r\n \r\n" * 8192),
    "trailers without end": (CHUNKED + b"1\r\n \r\n0\r\n", b"X-A: b\r\n" * 8192),
    "a length that is none": (JSON_HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", b" " * 65536),
    "cookies": (
        JSON_HEAD + b"".join(b"Set-Cookie: a%d=%s\r\n" % (n, b"x" * 4000) for n in range(50)) + b"\r\n",
        b" " * 65536,
    ),
    "a drip of headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "a drip of JSON": (JSON_HEAD + b"\r\n", b" "),
    "silence": (b"", b""),
}


@asynccontextmanager
async def raw_server(kind, owner="other", models=True):
    """Lists one model, and answers everything else with the bytes of that kind; `models`: or that too."""
    head, piece = RAW[kind]

    async def serve_one(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            asked = await reader.readuntil(b"\r\n\r\n")
            if asked.startswith(b"GET") and models:
                listed = json.dumps({"data": [{"id": "africa", "owned_by": owner}]}).encode()
                length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(listed)
                writer.write(JSON_HEAD + length + listed)
                await writer.drain()
            else:
                writer.write(head)
                while not writer.is_closing():
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.02 if len(piece) < 100 else 0)
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


@pytest.mark.parametrize("owner", ["vllm", "other"])
@pytest.mark.parametrize("kind", RAW)
async def test_a_reply_below_http_ends_within_time_and_memory(kind, owner):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    async with raw_server(kind, owner) as url:
        with use_settings(get_settings(base_url=url, retries=0)), pytest.raises(ModelError) as caught:
            await reply(timeout_s=0.5, max_tokens=16)
    assert time.perf_counter() - start < 10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 100
    assert "africa" in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("kind", RAW)
async def test_lists_of_models_end_within_time(kind):
    """`palette ask --base-url`, `palette serve status`, and the search for servers on this machine."""
    start = time.perf_counter()
    async with raw_server(kind, models=False) as url:
        with pytest.raises(ModelError):
            await asyncio.to_thread(served_models, url, get_settings(base_url=url), 0.4)
        listed = await asyncio.to_thread(listed_models, url.removesuffix("/v1"), None, 0.4)
        assert listed is None or isinstance(listed, str)
        found = Search({"vLLM": int(url.rpartition(":")[2].removesuffix("/v1"))})
        assert await asyncio.to_thread(found.servers) == []
    assert time.perf_counter() - start < 10


async def test_a_list_of_models_is_had_from_nowhere_else():
    with serve() as fake, serve() as other:
        moved = web.Application()

        async def elsewhere(request):
            raise web.HTTPTemporaryRedirect(f"{other.url}/models")

        moved.router.add_get("/v1/models", elsewhere)
        runner = web.AppRunner(moved)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
        with pytest.raises(ModelError, match="answered HTTP 307"):
            await asyncio.to_thread(served_models, url, get_settings(base_url=url))
        assert "HTTP 307" in await asyncio.to_thread(listed_models, url.removesuffix("/v1"))
        names = await asyncio.to_thread(served_models, fake.url, get_settings(base_url=fake.url))
        assert names == list(fake.models)
        await runner.cleanup()


@pytest.mark.parametrize("kind", ["a gzip bomb", "endless spaces"])
async def test_a_chat_model_of_ones_own_is_bounded_too(kind):
    with serve() as fake, use_settings(get_settings(base_url=fake.url, retries=0)):
        fake.answer, _ = WITHOUT_END[kind]
        model = chat_model(AFRICA, Sampling(max_tokens=16))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for ask_it in (model.ainvoke, functools.partial(asyncio.to_thread, model.invoke)):
            with pytest.raises(Exception) as caught:
                await ask_it("Is tea good?")
            told = [str(error) for error in (caught.value, caught.value.__cause__)]
            assert re.search(r"packed as gzip|more than [0-9,]+ KiB", " ".join(told)), told
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200


async def test_a_long_reply_has_room(server, streamed):
    server.answer = completion("tea " * 2_000_000)  # 8 MB, of 4,096 tokens at most
    assert len((await reply(max_tokens=4096)).text) == 7_999_999


# -- odd JSON

USAGES = [
    ({"prompt_tokens": 5, "completion_tokens": 7}, {"input_tokens": 5, "output_tokens": 7}),
    ({"prompt_tokens": -5, "completion_tokens": 7}, None),
    ({"prompt_tokens": 5, "completion_tokens": -90_000_000_000}, None),
    ({"total_tokens": 12}, None),
    ({"prompt_tokens": 5}, None),
    ({"prompt_tokens": None, "completion_tokens": None}, None),
    ({"prompt_tokens": "5", "completion_tokens": "7"}, None),
    ({"prompt_tokens": True, "completion_tokens": 7}, None),
    ({"prompt_tokens": float("inf"), "completion_tokens": 7}, None),
    ({"prompt_tokens": 0.5, "completion_tokens": 7}, None),
    ({}, None),
    ([], None),
    ("many", None),
    (None, None),
]


@pytest.mark.parametrize(("usage", "counts"), USAGES)
def test_tokens_that_can_not_be_are_not_counted(usage, counts):
    assert counts_in(usage) == counts
    body = {"choices": [{"message": {"content": "Tea."}, "finish_reason": "stop"}], "usage": usage}
    assert read_completion(body, "a file").usage == counts


def test_a_total_alone_says_nothing_of_either():
    """As LangChain reads {"total_tokens": 12}."""
    message = AIMessage("x", usage_metadata={"input_tokens": 0, "output_tokens": 0, "total_tokens": 12})
    assert usage_of(message) is None


@pytest.mark.parametrize(
    "usage", [{"total_tokens": 12}, {"prompt_tokens": -5, "completion_tokens": 7}, None], ids=str
)
async def test_a_good_reply_with_odd_usage_is_a_good_reply(server, streamed, usage):
    server.answer = completion("Tea.", usage=usage)
    came = await reply()
    assert came.text == "Tea." and came.usage is None


async def test_half_a_surrogate_pair_is_shown_as_one_sign(server, streamed):
    server.answer = completion("Tea \ud83d for guests")
    came = await reply()
    assert came.text == "Tea \ufffd for guests"
    came.text.encode()


def plain(text, kind="application/json", status=200, **headers):
    async def answer(request, body):
        return web.Response(text=text, content_type=kind, status=status, headers=headers)

    return answer


DEEP = "[" * 100_000 + "]" * 100_000
ODD = {
    "choices of null": '{"choices":[null]}',
    "choices of lists": '{"choices":[[]]}',
    "choices as an object": '{"choices":{}}',
    "choices as a number": '{"choices":1}',
    "no choices": '{"choices":[]}',
    "null": "null",
    "a list": "[1]",
    "a text": '"tea"',
    "deep": '{"choices":' + DEEP + "}",
    "infinite tokens": '{"choices":[{"message":{"content":"Tea."},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":Infinity,"completion_tokens":1}}',
    "message of null": '{"choices":[{"message":null,"finish_reason":"stop"}]}',
    "content as a number": '{"choices":[{"message":{"content":1},"finish_reason":"stop"}]}',
    "content as an object": '{"choices":[{"message":{"content":{}},"finish_reason":"stop"}]}',
    "finish as a list": '{"choices":[{"message":{"content":"Tea."},"finish_reason":[]}]}',
}


@pytest.mark.parametrize("kind", ODD)
async def test_odd_json_is_a_failure_in_one_line(server, streamed, kind, tmp_path):
    body = ODD[kind]

    async def answer(request, sent):
        if not sent.get("stream"):
            return await plain(body)(request, sent)
        return await plain(f"data: {body}\n\ndata: [DONE]\n\n", "text/event-stream")(request, sent)

    server.answer = answer
    with CallStore(tmp_path) as store, use_calls(store), pytest.raises(ModelError) as caught:
        await reply()
    assert "africa" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no credits left"}},
        {"error": {"message": "no credits left", "code": 402}},
        {"error": {"message": "no credits left", "code": "quota"}},
        {"error": "no credits left"},
        {"error": [{"message": "no credits left"}]},
        {"error": {"message": "no credits left"}, "choices": []},
        {"error": {"message": "no credits left"}, "choices": None},
        {"detail": "no credits left"},
        {"detail": [{"msg": "no credits left"}]},
        {"object": "error", "message": "no credits left", "code": 404},
        {"message": "no credits left", "status": "failed"},
    ],
    ids=str,
)
@pytest.mark.parametrize("as_event", [False, True], ids=["whole", "as an event"])
async def test_an_error_that_comes_as_a_success_keeps_its_reason(server, streamed, body, as_event):
    text = json.dumps(body)
    if as_event and streamed:
        server.answer = plain(f"data: {text}\n\ndata: [DONE]\n\n", "text/event-stream")
    else:
        server.answer = plain(text)
    with pytest.raises(ModelError, match="no credits left"):
        await reply()


@pytest.mark.parametrize(
    "body", [{"error": "no credits left"}, {"detail": [{"msg": "no credits left"}]}], ids=str
)
@pytest.mark.parametrize(
    ("before", "after"),
    [(CHUNK.decode(), "\r\n\r\n"), ("event: error\n", "")],
    ids=["after the first words", "as a last line without an end"],
)
async def test_an_error_anywhere_in_a_stream_keeps_its_reason(server, body, before, after):
    server.answer = plain(f"{before}data: {json.dumps(body)}{after}", "text/event-stream")
    shown = var_child_runnable_config.set({"callbacks": [Listener()]})
    with pytest.raises(ModelError, match="no credits left"):
        await reply()
    var_child_runnable_config.reset(shown)


ODD_PARTS = {
    "a refusal": ({"content": None, "refusal": "I can not"}, None),
    "content in parts": ({"content": [{"type": "text", "text": "Tea."}]}, None),
    "calls of tools": ({"content": "Tea.", "tool_calls": [{"function": {"arguments": "{"}}]}, None),
    "a tool that is none": ({"content": "Tea.", "tool_calls": [None]}, None),
    "tools as text": ({"content": "Tea.", "tool_calls": "x"}, None),
    "a role that is none": ({"content": "Tea.", "role": 7}, None),
    "log-probabilities as text": ({"content": "A"}, "x"),
    "log-probabilities of no number": (
        {"content": "A"},
        {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": "x"}, None]}]},
    ),
    "log-probabilities above 0": (
        {"content": "A"},
        {"content": [{"token": "A", "logprob": 0, "top_logprobs": [{"token": "A", "logprob": 5000.0}]}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD_PARTS)
@pytest.mark.parametrize("method", ["auto", "top_logprobs"])
async def test_odd_parts_of_a_reply_are_a_reply_or_a_failure(server, kind, method):
    message, logprobs = ODD_PARTS[kind]
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
    server.answer = plain(json.dumps({"choices": [choice]}))
    question = Question("Is tea good?", ("Yes", "No"))
    try:
        came = await reply()
        assert came.text
        await read(AFRICA, Sampling(), HELLO, question, timeout_s=10, method=method, samples=2)
    except ModelError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
    finally:
        await close_clients()


# -- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_prompt_goes_where_a_server_points(server, streamed, status):
    with serve() as other:
        server.answer = plain("", status=status, Location=f"{other.url}/chat/completions")
        with pytest.raises(ModelError, match=rf"points elsewhere \(HTTP {status} to {other.url}"):
            await reply()
    assert other.requests == [] and other.keys == []


async def test_a_chat_model_of_ones_own_follows_no_redirect_either(server):
    with serve() as other:
        server.answer = plain("", status=307, Location=f"{other.url}/chat/completions")
        model = chat_model(AFRICA, Sampling())
        with pytest.raises(Exception, match="307"):
            await model.ainvoke("Is tea good?")
        with pytest.raises(Exception, match="307"):
            await asyncio.to_thread(model.invoke, "Is tea good?")
    assert other.requests == []
