"""A model on a vLLM server behind LangChain's chat model interface, over our own client."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from cultural_palette.errors import ModelError
from cultural_palette.messages import role_dicts
from cultural_palette.models.http import BrokenOff, Refused, Server, Unreadable
from cultural_palette.models.protocol import Blend, OptionLogprobs, Sampling, TopTokens
from cultural_palette.models.references import ModelRef
from cultural_palette.models.router_blend import NOT_AVAILABLE, checkpoint_blend
from cultural_palette.models.thoughts import THINKING_OFF
from cultural_palette.models.tokens import HIDDEN, counts_in, log_sum_exp, tokenisations, top_tokens_of

CHAT, COMPLETIONS, TOKENIZE, BLEND = "/chat/completions", "/completions", "/tokenize", "/palette/blend"
MOST_IDS = 128
"""Token ids that vLLM takes in one `logprob_token_ids`."""
NEGLIGIBLE = math.log(1e-6)
"""A beginning of a label that is less likely is not followed: at most this much is missed."""
LOWEST = -9998.0  # vLLM writes minus infinity as -9999
SWITCHES = "takes switches"
TOKEN_ID = re.compile(r"token_id:(\d+)")


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
            "messages": role_dicts(messages),
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
        sent = await _post(self._server, CHAT, body)
        try:
            choice = sent["choices"][0]
            message = AIMessage(
                content=_text(choice["message"]["content"]),
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
        request = kwargs | ({"stop": stop} if stop else {})
        body = self._body(messages, request) | {"stream": True, "stream_options": {"include_usage": True}}
        finished = False
        async for event in _stream(self._server, body):
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
        message = AIMessageChunk(content=_text(choice["delta"].get("content")), response_metadata=metadata)
        return ChatGenerationChunk(message=message)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise ModelError("A served model is asked from async code: use ainvoke or astream.")


class VllmModel:
    """A model on a vLLM server: exact log-probabilities of any token, by our own client."""

    def __init__(self, ref: ModelRef, server: Server) -> None:
        self.ref = ref
        self.server = server
        self.chat = ServedChatModel.on(server, model=ref.name)

    async def reply(
        self,
        messages: Sequence[BaseMessage],
        sampling: Sampling,
        *,
        tags: Sequence[str] = (),
        alone: bool = False,
    ) -> AIMessage:
        """One reply; `alone` changes nothing: a server batches as it likes."""
        sampling = sampling.with_length(self.ref.runs_on.max_tokens)
        request: dict[str, Any] = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
        if sampling.seed is not None:
            request["seed"] = sampling.seed
        request |= sampling.shape
        return await self.chat.ainvoke(list(messages), {"tags": list(tags)} if tags else None, **request)

    async def top_tokens(self, messages: Sequence[BaseMessage], count: int) -> TopTokens | None:
        """The likeliest first tokens; None when the server sent no log-probabilities."""
        message = await self.chat.ainvoke(
            list(messages), {"tags": [HIDDEN]}, max_tokens=1, logprobs=True, top_logprobs=count
        )
        return top_tokens_of(message)

    async def blend(self, messages: Sequence[BaseMessage], communities: Sequence[str]) -> Blend | None:
        """From the server, where it plays MoErges by our plug-in; else from a folder on this machine. Raises
        ModelError with the way out without either.
        """
        blend = await self._served_blend(messages) or await checkpoint_blend(messages, communities)
        if blend is None:
            raise ModelError(NOT_AVAILABLE)
        return blend

    async def _served_blend(self, messages: Sequence[BaseMessage]) -> Blend | None:
        """The router's weights over this prompt, from the server; None from one that does not tell them."""
        lacks = ("lacks a blend", self.ref.name)
        if self.server.learned.get(lacks):
            return None
        try:
            body = {"model": self.ref.name, "prompt": await self._prompt(messages)}
            sent = await self.server.post(BLEND, body)
        except Refused as refused:
            if refused.status_code not in (404, 405):
                raise
            self.server.learned[lacks] = True
            return None
        try:
            return Blend.over(sent["communities"], sent["layers"])
        except (KeyError, TypeError, ValueError) as error:
            raise Unreadable(f"no blend in what came: {error!r}") from error

    async def scope_notes(self, question: str, country: str, options: Sequence[str]) -> list[str]:
        """None: a server says of nothing that it lies outside."""
        return []

    async def option_logprobs(
        self, messages: Sequence[BaseMessage], labels: Sequence[str]
    ) -> OptionLogprobs | None:
        """The log-probability of each label, over all its tokenisations ("A", " A", ..), out of the whole
        vocabulary. One request of one token for labels of a letter; for longer ones another for each token
        that they have. None when this server can not tell.
        """
        lacks = ("lacks exact", self.ref.name)
        if self.server.learned.get(lacks):
            return None
        try:
            vocabulary = await self._vocabulary(labels)
        except Refused as refused:
            if refused.status_code in (404, 405):  # a proxy that passes on /v1 only
                self.server.learned[lacks] = True
                return None
            raise
        spellings = {label: tokenisations(vocabulary, label) for label in labels}
        if not all(spellings.values()):
            return None
        usage = {"input_tokens": 0, "output_tokens": 0}
        begun: dict[tuple[int, ...], float] = {(): 0.0}  # log-probability of each beginning
        prompt: list[int] | None = None
        for depth in range(max(len(ids) for spelt in spellings.values() for ids in spelt)):
            longer = {ids[: depth + 1] for spelt in spellings.values() for ids in spelt if len(ids) > depth}
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
                self.server.learned[lacks] = True
                return None
            row_after = dict(zip(heads, rows, strict=True))
            for ids in longer:
                row = row_after.get(ids[:depth])
                begun[ids] = begun[ids[:depth]] + row[ids[depth]] if row else -math.inf
        return OptionLogprobs(
            tuple(log_sum_exp([begun.get(ids, -math.inf) for ids in spellings[label]]) for label in labels),
            usage,
        )

    async def _vocabulary(self, labels: Sequence[str]) -> dict[str, int]:
        """The tokens that labels are spelt with -> id. Each is asked for once a server and model."""
        known: dict[str, int | None] = self.server.learned.setdefault(("tokens", self.ref.name), {})
        wanted = {piece for label in labels for piece in _pieces(" " + label)}
        if not wanted <= known.keys():
            async with self.server.learning:
                new = sorted(wanted - known.keys())
                known.update(zip(new, await asyncio.gather(*map(self._token, new)), strict=True))
        return {piece: index for piece in wanted if (index := known[piece]) is not None}

    async def _token(self, text: str) -> int | None:
        """The id of the one token that is this text; None when it takes several."""
        body = {"model": self.ref.name, "prompt": text, "add_special_tokens": False}
        ids = (await self.server.post(TOKENIZE, body, root=True))["tokens"]
        return int(ids[0]) if len(ids) == 1 else None

    async def _prompt(self, messages: Sequence[BaseMessage]) -> list[int]:
        """The token ids of a chat, up to where the reply begins."""
        body = {"model": self.ref.name, "messages": role_dicts(messages)}
        return list((await _post(self.server, TOKENIZE, body, root=True))["tokens"])

    async def _next_of_chat(
        self, messages: Sequence[BaseMessage], wanted: Sequence[int], usage: dict[str, int]
    ) -> dict[int, float] | None:
        """Log-probability of each wanted id as the reply's first token."""
        row: dict[int, float] = {}
        for ids in _chunks(wanted):
            body = {"model": self.ref.name, "messages": role_dicts(messages), "logprobs": True} | _one_token(
                ids
            )
            sent = await _post(self.server, CHAT, body)
            _add(usage, sent.get("usage"))
            content = (sent["choices"][0].get("logprobs") or {}).get("content") or [{}]
            row |= _by_id(
                {entry["token"]: entry["logprob"] for entry in content[0].get("top_logprobs") or ()}
            )
        return row if row.keys() >= set(wanted) else None

    async def _next_of_ids(
        self, prompts: Sequence[list[int]], wanted: Sequence[int], usage: dict[str, int]
    ) -> list[dict[int, float] | None]:
        """The same after prompts of token ids, all in one request."""
        rows: list[dict[int, float]] = [{} for _ in prompts]
        for ids in _chunks(wanted):
            body = {"model": self.ref.name, "prompt": list(prompts)} | _one_token(ids) | {"logprobs": 1}
            sent = await self.server.post(COMPLETIONS, body)
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


def _by_id(logprobs: Mapping[str, float]) -> dict[int, float]:
    by_id = {}
    for token, logprob in logprobs.items():
        if match := TOKEN_ID.fullmatch(token):
            by_id[int(match[1])] = logprob if logprob > LOWEST else -math.inf
    return by_id


def _pieces(text: str) -> Iterator[str]:
    """Every part of a text that may be a token of it. Of " AB": " ", " A", " AB", "A", "AB", "B"."""
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            yield text[start:end]


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), MOST_IDS):
        yield ids[start : start + MOST_IDS]


def _text(content: Any) -> str:
    if content is not None and not isinstance(content, str):
        raise Unreadable(f"a reply that is no text ({type(content).__name__})")
    return content or ""


def _usage(usage: Any) -> UsageMetadata | None:
    counts = counts_in(usage)
    return UsageMetadata(**counts, total_tokens=sum(counts.values())) if counts else None  # type: ignore[typeddict-item]


def _add(total: dict[str, int], usage: Any) -> None:
    for key, count in (counts_in(usage) or {}).items():
        total[key] += count


async def _post(server: Server, path: str, body: Mapping[str, Any], *, root: bool = False) -> Any:
    """With the model's thinking switched off; as it is where its template takes no switches."""
    if _takes_switches(server, body):
        try:
            return await server.post(path, {**body, **THINKING_OFF}, root=root)
        except Refused as refused:
            _learn_from(refused, server, body)
    return await server.post(path, dict(body), root=root)


async def _stream(server: Server, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The same, its events as they come."""
    if _takes_switches(server, body):
        try:
            async for event in server.stream(CHAT, {**body, **THINKING_OFF}):
                yield event
            return
        except Refused as refused:
            _learn_from(refused, server, body)
    async for event in server.stream(CHAT, dict(body)):
        yield event


def _takes_switches(server: Server, body: Mapping[str, Any]) -> bool:
    return bool(server.learned.get((SWITCHES, body["model"]), True))


def _learn_from(refused: Refused, server: Server, body: Mapping[str, Any]) -> None:
    """vLLM refuses them for Mistral's own tokenizers: "chat_template is not supported ..."."""
    if refused.status_code not in (400, 422) or "chat_template" not in str(refused):
        raise refused
    server.learned[SWITCHES, body["model"]] = False
