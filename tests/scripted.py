"""A chat model that says what it is told and remembers what it was asked. No network, no weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from cultural_palette.models import Blend, Model, ModelRef, OptionLogprobs, Provider, Sampling, TopTokens

Reply = str | Exception | Callable[[Sequence[BaseMessage]], str]


@dataclass
class Script:
    """What each part says ("*": all others), how long it takes, and what it was asked (part, messages).

    With `option_logprobs` a part offers what the embedded palette's meta agent offers, `blend` among it;
    without, it is a plain chat model.
    """

    replies: dict[str, Reply] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    option_logprobs: Sequence[float] | None = None
    blend: Blend | None = None
    notes: list[str] = field(default_factory=list)
    asked: list[tuple[str, list[BaseMessage]]] = field(default_factory=list)

    def prompts_of(self, part: str) -> list[str]:
        """Every prompt that a part was sent, system and human text in one."""
        return ["\n".join(m.text for m in messages) for who, messages in self.asked if who == part]


class ScriptedChatModel(BaseChatModel):
    """One part of a Script. Streams word by word; counts words as tokens."""

    part: str
    script: Any

    @property
    def _llm_type(self) -> str:
        return "scripted"

    async def _reply(self, messages: list[BaseMessage]) -> str:
        self.script.asked.append((self.part, list(messages)))
        reply = self.script.replies.get(self.part, self.script.replies.get("*", f"{self.part} speaks."))
        await asyncio.sleep(self.script.seconds.get(self.part, self.script.seconds.get("*", 0)))
        if isinstance(reply, Exception):
            raise reply
        return reply(messages) if callable(reply) else reply

    def _usage(self, messages: list[BaseMessage], reply: str) -> dict[str, int]:
        read, written = sum(len(m.text.split()) for m in messages), len(reply.split())
        return {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = await self._reply(messages)
        words = reply.split(" ")
        for index, word in enumerate(words):
            last = index == len(words) - 1
            message = AIMessageChunk(content=word if last else word + " ")
            if last:
                message.usage_metadata = self._usage(messages, reply)  # type: ignore[assignment]
                message.chunk_position = "last"
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                await run_manager.on_llm_new_token(message.content, chunk=chunk)
            yield chunk

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        reply = await self._reply(messages)
        message = AIMessage(content=reply, usage_metadata=self._usage(messages, reply))  # type: ignore[arg-type]
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        raise AssertionError("the graph is asynchronous: nothing may call a model synchronously")


class ScriptedModel:
    """A part of a Script behind the seam. With `option_logprobs` it offers what the embedded palette does."""

    def __init__(self, ref: ModelRef, script: Script) -> None:
        self.ref = ref
        self.script = script
        self.chat = ScriptedChatModel(part=ref.name, script=script)

    async def reply(
        self,
        messages: Sequence[BaseMessage],
        sampling: Sampling,
        *,
        tags: Sequence[str] = (),
        alone: bool = False,
    ) -> AIMessage:
        return await self.chat.ainvoke(list(messages), {"tags": list(tags)} if tags else None)

    async def option_logprobs(
        self, messages: Sequence[BaseMessage], labels: Sequence[str]
    ) -> OptionLogprobs | None:
        if self.script.option_logprobs is None:
            return None
        self.script.asked.append((self.ref.name, list(messages)))
        assert len(labels) == len(self.script.option_logprobs)
        return OptionLogprobs(tuple(self.script.option_logprobs))

    async def top_tokens(self, messages: Sequence[BaseMessage], count: int) -> TopTokens | None:
        return None

    async def blend(self, messages: Sequence[BaseMessage], communities: Sequence[str]) -> Blend | None:
        readable = self.script.option_logprobs is not None and self.ref.name == "meta"
        return self.script.blend if readable else None

    async def scope_notes(self, question: str, country: str, options: Sequence[str]) -> list[str]:
        return list(self.script.notes) if self.script.option_logprobs is not None else []


def scripted_provider(script: Script, kind: type[ScriptedModel] = ScriptedModel) -> Provider:
    """The provider behind which a script answers: the model "scripted:africa" plays its part "africa"."""

    async def open_model(ref: ModelRef) -> Model:
        return kind(ref, script)

    return Provider(
        "scripted",
        open=open_model,
        chat=lambda ref, sampling: ScriptedChatModel(part=ref.name, script=script),
    )
