"""A model on a vLLM server behind LangChain's chat model interface, over our own client."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from cultural_palette.client import BrokenOff, Refused, Server, Unreadable
from cultural_palette.errors import ModelError

ROLES = {"system": "system", "human": "user", "ai": "assistant"}
CHAT, COMPLETIONS, TOKENIZE = "/chat/completions", "/completions", "/tokenize"
MOST_IDS = 128
"""Token ids that vLLM takes in one `logprob_token_ids`."""
NEGLIGIBLE = math.log(1e-6)
"""A beginning of a label that is less likely is not followed: at most this much is missed."""
LOWEST = -9998.0  # vLLM writes minus infinity as -9999
TOKEN_ID = re.compile(r"token_id:(\d+)")


@dataclass(frozen=True)
class LabelLogprobs:
    """Natural log-probability of each label as the reply's beginning, and the tokens it took to ask."""

    values: tuple[float, ...]
    usage: Mapping[str, int]


class ServedChatModel(BaseChatModel):
    """A model that a vLLM server has under `model`. Holds its address and no key: the key stays in the
    client.
    """

    model: str
    base_url: str
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int | None = None
    _server: Server = PrivateAttr()

    @classmethod
    def on(cls, server: Server, **values: Any) -> Self:
        """The model on this server, through this loop's connections to it."""
        model = cls(base_url=server.url, **values)
        model._server = server
        return model

    @property
    def _llm_type(self) -> str:
        return "cultural-palette-served"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        names = ("model", "base_url", "temperature", "max_tokens", "seed")
        return {name: getattr(self, name) for name in names}

    def _body(self, messages: Sequence[BaseMessage], more: Mapping[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": _plain(messages),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if self.seed is not None:
            body["seed"] = self.seed
        return {**body, **more}

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        body = self._body(messages, kwargs | ({"stop": stop} if stop else {}))
        sent = await self._server.post(CHAT, body)
        try:
            choice = sent["choices"][0]
            message = AIMessage(
                content=choice["message"]["content"] or "",
                response_metadata={
                    "finish_reason": choice["finish_reason"],
                    "model_name": self.model,
                    "logprobs": choice.get("logprobs"),
                },
                usage_metadata=_usage(sent.get("usage")),
            )
        except (KeyError, IndexError, TypeError) as error:
            raise Unreadable(f"no {error} in what came") from error
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked = kwargs | ({"stop": stop} if stop else {})
        body = self._body(messages, asked) | {"stream": True, "stream_options": {"include_usage": True}}
        finished = False
        async for event in self._server.stream(CHAT, body):
            try:
                chunk = self._chunk(event)
            except (KeyError, IndexError, TypeError) as error:
                raise Unreadable(f"no {error} in what came") from error
            finished = finished or bool(chunk.message.response_metadata.get("finish_reason"))
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
        if not finished:
            raise BrokenOff("the stream ended before the reply did")

    def _chunk(self, event: Mapping[str, Any]) -> ChatGenerationChunk:
        if not event["choices"]:  # the last one only counts tokens
            message = AIMessageChunk(content="", usage_metadata=_usage(event.get("usage")))
            message.chunk_position = "last"
            return ChatGenerationChunk(message=message)
        choice = event["choices"][0]
        metadata: dict[str, Any] = {}
        if choice.get("logprobs"):
            metadata["logprobs"] = choice["logprobs"]
        if choice.get("finish_reason"):
            metadata |= {"finish_reason": choice["finish_reason"], "model_name": self.model}
        message = AIMessageChunk(content=choice["delta"].get("content") or "", response_metadata=metadata)
        return ChatGenerationChunk(message=message)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise ModelError("A served model is asked from async code: use ainvoke or astream.")

    # -- exact probabilities ---

    async def aoption_logprobs(
        self, messages: Sequence[BaseMessage], labels: Sequence[str]
    ) -> LabelLogprobs | None:
        """The log-probability of each label, over all its tokenisations ("A", " A", ..), out of the whole
        vocabulary. One request of one token for labels of a letter; for longer ones another for each token
        that they have. None when this server can not tell.
        """
        from cultural_palette.embedded.engine import tokenisations

        lacks = ("lacks exact", self.model)
        if self._server.learned.get(lacks):
            return None
        try:
            vocabulary = await self._vocabulary(labels)
        except Refused as refused:
            if refused.status_code in (404, 405):  # a proxy that passes on /v1 only
                self._server.learned[lacks] = True
                return None
            raise
        ways = {label: tokenisations(vocabulary, label) for label in labels}
        if not all(ways.values()):
            return None
        usage = {"input_tokens": 0, "output_tokens": 0}
        begun: dict[tuple[int, ...], float] = {(): 0.0}  # log-probability of each beginning
        prompt: list[int] | None = None
        for depth in range(max(len(ids) for spelt in ways.values() for ids in spelt)):
            longer = {ids[: depth + 1] for spelt in ways.values() for ids in spelt if len(ids) > depth}
            heads = sorted({ids[:depth] for ids in longer if begun[ids[:depth]] > NEGLIGIBLE})
            if not heads:
                break
            wanted = sorted({ids[depth] for ids in longer if ids[:depth] in heads})
            if depth == 0:
                rows = [await self._next_of_chat(messages, wanted, usage)]
            else:
                prompt = prompt or await self._prompt(messages)
                rows = await self._next_of_ids([[*prompt, *head] for head in heads], wanted, usage)
            if any(row is None for row in rows):
                self._server.learned[lacks] = True
                return None
            told = dict(zip(heads, rows, strict=True))
            for ids in longer:
                row = told.get(ids[:depth])
                begun[ids] = begun[ids[:depth]] + row[ids[depth]] if row else -math.inf
        return LabelLogprobs(
            tuple(_log_sum_exp([begun.get(ids, -math.inf) for ids in ways[label]]) for label in labels),
            usage,
        )

    async def _vocabulary(self, labels: Sequence[str]) -> dict[str, int]:
        """The tokens that labels are spelt with -> id. Each is asked for once a server and model."""
        known: dict[str, int | None] = self._server.learned.setdefault(("tokens", self.model), {})
        wanted = {piece for label in labels for piece in _pieces(" " + label)}
        if not wanted <= known.keys():
            async with self._server.learning:
                new = sorted(wanted - known.keys())
                known.update(zip(new, await asyncio.gather(*map(self._token, new)), strict=True))
        return {piece: index for piece in wanted if (index := known[piece]) is not None}

    async def _token(self, text: str) -> int | None:
        """The id of the one token that is this text; None when it takes several."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        ids = (await self._server.post(TOKENIZE, body, root=True))["tokens"]
        return int(ids[0]) if len(ids) == 1 else None

    async def _prompt(self, messages: Sequence[BaseMessage]) -> list[int]:
        """The token ids of a chat, up to where the reply begins."""
        body = {"model": self.model, "messages": _plain(messages)}
        return list((await self._server.post(TOKENIZE, body, root=True))["tokens"])

    async def _next_of_chat(
        self, messages: Sequence[BaseMessage], wanted: Sequence[int], usage: dict[str, int]
    ) -> dict[int, float] | None:
        """Log-probability of each wanted id as the reply's first token."""
        row: dict[int, float] = {}
        for ids in _chunks(wanted):
            body = self._body(messages, _one_token(ids) | {"logprobs": True})
            sent = await self._server.post(CHAT, body)
            _add(usage, sent.get("usage"))
            content = (sent["choices"][0].get("logprobs") or {}).get("content") or [{}]
            row |= _by_id({each["token"]: each["logprob"] for each in content[0].get("top_logprobs") or ()})
        return row if row.keys() >= set(wanted) else None

    async def _next_of_ids(
        self, prompts: Sequence[list[int]], wanted: Sequence[int], usage: dict[str, int]
    ) -> list[dict[int, float] | None]:
        """The same after prompts of token ids, all in one request."""
        rows: list[dict[int, float]] = [{} for _ in prompts]
        for ids in _chunks(wanted):
            body = {"model": self.model, "prompt": list(prompts)} | _one_token(ids) | {"logprobs": 1}
            sent = await self._server.post(COMPLETIONS, body)
            _add(usage, sent.get("usage"))
            for choice in sent["choices"]:
                rows[choice["index"]] |= _by_id(((choice["logprobs"] or {}).get("top_logprobs") or [{}])[0])
        return [row if row.keys() >= set(wanted) else None for row in rows]


def _one_token(ids: Sequence[int]) -> dict[str, Any]:
    return {
        "max_tokens": 1,
        "temperature": 0,
        "logprob_token_ids": list(ids),
        "return_tokens_as_token_ids": True,
    }


def _by_id(told: Mapping[str, float]) -> dict[int, float]:
    found = {}
    for token, logprob in told.items():
        if match := TOKEN_ID.fullmatch(token):
            found[int(match[1])] = logprob if logprob > LOWEST else -math.inf
    return found


def _pieces(text: str) -> Iterator[str]:
    """Every part of a text that may be a token of it. Of " AB": " ", " A", " AB", "A", "AB", "B"."""
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            yield text[start:end]


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), MOST_IDS):
        yield ids[start : start + MOST_IDS]


def _plain(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    return [{"role": ROLES[message.type], "content": message.text} for message in messages]


def _usage(told: Mapping[str, int] | None) -> UsageMetadata | None:
    if not told:
        return None
    read, written = told["prompt_tokens"], told["completion_tokens"]
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)


def _add(usage: dict[str, int], told: Mapping[str, int] | None) -> None:
    usage["input_tokens"] += told["prompt_tokens"] if told else 0
    usage["output_tokens"] += told["completion_tokens"] if told else 0


def _log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top if top == -math.inf else top + math.log(sum(math.exp(value - top) for value in values))
