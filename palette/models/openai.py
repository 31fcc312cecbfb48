"""Any OpenAI-compatible server, through LangChain's ChatOpenAI."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import openai
from langchain_core.messages import AIMessage, BaseMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from cultural_palette.models.protocol import Blend, OptionLogprobs, Sampling, TopTokens
from cultural_palette.models.references import ModelRef
from cultural_palette.models.router_blend import checkpoint_blend
from cultural_palette.models.thoughts import THINKING_OFF
from cultural_palette.models.tokens import HIDDEN, top_tokens_of
from cultural_palette.settings import current_settings


def chat_model(ref: ModelRef, sampling: Sampling, client: Any = None) -> ChatOpenAI:
    """A ChatOpenAI for this server, with these settings' key and patience. `client`: the running loop's."""
    settings = current_settings()
    sampling = sampling.with_length(ref.runs_on.max_tokens)
    options: dict[str, Any] = clients_of_ones_own() if client is None else {"http_async_client": client}
    return ChatOpenAI(
        model=ref.name,
        base_url=ref.address,
        api_key=settings.key_for(ref.base_url) or SecretStr("none"),
        temperature=sampling.temperature,
        max_completion_tokens=sampling.max_tokens,
        seed=sampling.seed,
        timeout=settings.request_timeout_s,
        max_retries=settings.retries,
        top_p=sampling.top_p,
        frequency_penalty=sampling.frequency_penalty,
        extra_body=_beyond_openai(sampling),
        stream_usage=True,
        use_responses_api=False,
        **options,
    )


def clients_of_ones_own() -> dict[str, Any]:
    """openai's HTTP clients, as ChatOpenAI takes them, for code of any loop or none; redirects are not
    followed, and answers are bounded.
    """
    from cultural_palette.models.bounds import hooks, plain_hooks

    return {
        "http_client": openai.DefaultHttpxClient(follow_redirects=False, event_hooks=plain_hooks()),
        "http_async_client": openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks=hooks()),
    }


def _beyond_openai(sampling: Sampling) -> dict[str, float] | None:
    """What vLLM, llama.cpp and SGLang know and OpenAI's own server refuses."""
    openais = ("top_p", "frequency_penalty")
    return {name: value for name, value in sampling.shape.items() if name not in openais} or None


class OpenAIModel:
    """A model of such a server."""

    def __init__(self, ref: ModelRef, chat: ChatOpenAI, switched: bool = False) -> None:
        """`switched`: its server passes switches on to the chat template."""
        self.ref = ref
        self.chat = chat
        self.switches: dict[str, Any] = {"extra_body": THINKING_OFF} if switched else {}

    @classmethod
    async def open(cls, ref: ModelRef, client: Any, switched: bool = False) -> OpenAIModel:
        """Over the running loop's client. Reads certificates, in a thread."""
        return cls(ref, await asyncio.to_thread(chat_model, ref, Sampling(), client), switched)

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
        request: dict[str, Any] = {
            "temperature": sampling.temperature,
            "max_completion_tokens": sampling.max_tokens,
            **self.switches,
        }
        if sampling.seed is not None:
            request["seed"] = sampling.seed
        if sampling.top_p is not None:
            request["top_p"] = sampling.top_p
        if sampling.frequency_penalty is not None:
            request["frequency_penalty"] = sampling.frequency_penalty
        if more := _beyond_openai(sampling):
            request["extra_body"] = {**self.switches.get("extra_body", {}), **more}
        return await self.chat.ainvoke(list(messages), {"tags": list(tags)} if tags else None, **request)

    async def option_logprobs(
        self, messages: Sequence[BaseMessage], labels: Sequence[str]
    ) -> OptionLogprobs | None:
        """None: such a server shows its top tokens only."""
        return None

    async def top_tokens(self, messages: Sequence[BaseMessage], count: int) -> TopTokens | None:
        """The likeliest first tokens; None when the server sent no log-probabilities."""
        config: Any = {"tags": [HIDDEN]}
        message = await self.chat.ainvoke(
            list(messages),
            config,
            max_completion_tokens=1,
            logprobs=True,
            top_logprobs=count,
            **self.switches,
        )
        return top_tokens_of(message)

    async def blend(self, messages: Sequence[BaseMessage], communities: Sequence[str]) -> Blend | None:
        """From the MoErges' folder on this machine, where the settings name one."""
        return await checkpoint_blend(messages, communities)

    async def scope_notes(self, question: str, country: str, options: Sequence[str]) -> list[str]:
        """None: such a model says of nothing that it lies outside."""
        return []
