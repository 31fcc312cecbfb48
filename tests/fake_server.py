"""A small OpenAI-compatible server on a free localhost port, in a thread of its own, with every fault a real
one has.

A model's behaviour goes by name: `server.faults["africa"] = "slow"`. Everything it was sent is in
`server.requests`. With `vllm` it says that it is vLLM, and offers what that has beyond OpenAI's API.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SLOW_S = 30.0
VOCABULARY = (
    " ",
    *"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    *(f" {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "AB",
    " AC",
)


@dataclass
class FakeServer:
    """`latency_s`: time that a reply takes.
    `letters`: probability of each first token that log-probabilities tell of; `after`: of each next one.
    `answer`: what is sent in the place of a completion, whatever was asked. `owner`: who the list of models
    says owns them. `refuse`: HTTP statuses of the next requests, whatever they ask; with `retry_after` as
    their header.
    """

    url: str = ""
    models: Sequence[str] = ("africa", "america", "asia", "europe", "oceania", "meta", "base")
    faults: dict[str, str] = field(default_factory=dict)
    replies: dict[str, Any] = field(default_factory=dict)
    letters: Mapping[str, float] = field(default_factory=lambda: {"A": 0.5, " A": 0.1, "B": 0.2, "The": 0.1})
    after: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    vllm: bool = False
    latency_s: float = 0.0
    refuse: list[int] = field(default_factory=list)
    retry_after: str | None = None
    at: list[float] = field(default_factory=list)
    tokenized: list[Any] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    cancelled: int = 0
    answer: Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]] | None = None
    owner: str | None = None

    def sent_to(self, model: str) -> list[dict[str, Any]]:
        return [body for body in self.requests if body["model"] == model]

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": m, "object": "model", **self._owner()} for m in self.models]}
        )

    def _owner(self) -> dict[str, str]:
        owner = self.owner or ("vllm" if self.vllm else None)
        return {"owned_by": owner} if owner else {}

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self.vllm or self.faults.get("tokenize"):
            return _error(404, "Not Found")
        self.tokenized.append(body.get("prompt", "chat"))
        if "messages" in body:
            return web.json_response({"tokens": [1000, 1001]})
        text = body["prompt"]
        ids = [VOCABULARY.index(text)] if text in VOCABULARY else [900] * len(text)
        return web.json_response({"tokens": ids})

    async def continue_ids(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        choices = []
        for index, ids in enumerate(body["prompt"]):
            table = self.after.get("".join(VOCABULARY[i] for i in ids if i < 1000), {})
            told = {f"token_id:{i}": _log(table.get(VOCABULARY[i], 0)) for i in body["logprob_token_ids"]}
            choices.append({"index": index, "text": "x", "logprobs": {"top_logprobs": [told]}})
        return web.json_response({"choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 1}})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
        self.at.append(time.monotonic())
        if self.answer:
            return await self.answer(request, body)
        if self.refuse:
            headers = {"Retry-After": self.retry_after} if self.retry_after else None
            return _error(self.refuse.pop(0), "come back later", headers)
        model = body["model"]
        fault = self.faults.get(model, self.faults.get("*", ""))
        await asyncio.sleep(self.latency_s)
        if fault == "slow":
            try:
                await asyncio.sleep(SLOW_S)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if fault == "short body":  # fewer bytes than it said
            response = web.StreamResponse(
                headers={"Content-Type": "application/json", "Content-Length": "500"}
            )
            await response.prepare(request)
            await response.write(b'{"choices": [')
            assert request.transport is not None
            request.transport.close()
            return response
        if fault == "html":
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        if fault == "other json":
            return web.json_response({"hello": "world"})
        if fault == "401":  # real servers echo the key
            return _error(401, f"Incorrect API key provided: {self.keys[-1]}")
        if fault == "500":
            return _error(500, "the engine died")
        if fault == "429":
            return _error(429, "rate limit", {"retry-after-ms": "10"})
        if fault == "429 once" and len(self.sent_to(model)) == 1:
            return _error(429, "rate limit", {"retry-after-ms": "10"})
        if fault == "no logprobs" and body.get("logprobs"):
            return _error(400, "logprobs are not supported with this model")
        if model not in self.models:
            return _error(404, f"The model `{model}` does not exist.")
        said = self.replies.get(model, self.replies.get("*", f"{model} speaks of many things."))
        text = said(body) if callable(said) else said
        if fault == "empty":
            text = ""
        if body.get("stream"):
            return await self._stream(request, body, text, fault)
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": None if fault == "truncated" else "stop",
        }
        if body.get("logprobs") and fault != "silent logprobs":
            choice["logprobs"] = {"content": [self._logprobs(body)]}
        return web.json_response(
            _completion(body, "chat.completion", [choice]) | {"usage": _usage(body, text)}
        )

    async def _stream(
        self, request: web.Request, body: dict[str, Any], text: str, fault: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(choices: list[dict[str, Any]], **more: Any) -> None:
            chunk = _completion(body, "chat.completion.chunk", choices) | more
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

        words = text.split(" ")
        for index, word in enumerate(words):
            if fault in ("truncated", "cut") and index == 2:
                if fault == "cut" and request.transport:
                    request.transport.abort()
                return response
            delta = {"role": "assistant", "content": word + (" " if index < len(words) - 1 else "")}
            choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
            if body.get("logprobs") and index == 0 and fault != "silent logprobs":
                choice["logprobs"] = {"content": [self._logprobs(body)]}
            await send([choice])
        await send([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if (body.get("stream_options") or {}).get("include_usage"):
            await send([], usage=_usage(body, text))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _logprobs(self, body: dict[str, Any]) -> dict[str, Any]:
        if (ids := body.get("logprob_token_ids")) and self.vllm and self.faults.get("ids") != "ignored":
            told = [
                {"token": f"token_id:{i}", "logprob": _log(self.letters.get(VOCABULARY[i], 0)), "bytes": None}
                for i in ids
            ]
            return {**told[0], "top_logprobs": told}
        top = sorted(self.letters.items(), key=lambda item: -item[1])[: body.get("top_logprobs", 0)]
        entries = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top]
        return {**(entries or [{"token": "x", "logprob": 0.0}])[0], "top_logprobs": entries}


def _log(p: float) -> float:
    """As vLLM writes it: minus infinity is -9999."""
    return math.log(p) if p else -9999.0


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "x"}}, status=status, headers=headers)


def _completion(body: dict[str, Any], kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"], "choices": choices}


def _usage(body: dict[str, Any], text: str) -> dict[str, int]:
    read, written = sum(len(m["content"].split()) for m in body["messages"]), len(text.split())
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


@contextmanager
def serve() -> Iterator[FakeServer]:
    """Run the server until the block ends."""
    fake, ready, loop = FakeServer(), threading.Event(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=10_000_000)
        app.router.add_get("/v1/models", fake.list_models)
        app.router.add_post("/v1/chat/completions", fake.complete)
        app.router.add_post("/v1/completions", fake.continue_ids)
        app.router.add_post("/tokenize", fake.tokenize)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    def work() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work, name="fake-openai", daemon=True)
    thread.start()
    assert ready.wait(10), "the fake server did not start"
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
