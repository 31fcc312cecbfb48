"""A chat model that says what it is told and remembers what it was asked. No network, no weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

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
    blend: dict[str, Any] | None = None
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


class ReadableScriptedChatModel(ScriptedChatModel):
    """A part that also offers what the embedded palette does: log-probabilities, blend, scope notes."""

    async def aoption_logprobs(self, messages: Sequence[BaseMessage], labels: Sequence[str]) -> list[float]:
        self.script.asked.append((self.part, list(messages)))
        assert len(labels) == len(self.script.option_logprobs)
        return list(self.script.option_logprobs)

    async def ablend(self, messages: Sequence[BaseMessage]) -> dict[str, Any] | None:
        return self.script.blend if self.part == "meta" else None

    async def scope_notes(self, question: str, country: str, options: Sequence[str] = ()) -> list[str]:
        return list(self.script.notes)


def scripted_model(script: Script, part: str) -> BaseChatModel:
    """The chat model that plays one part of a script."""
    kind = ScriptedChatModel if script.option_logprobs is None else ReadableScriptedChatModel
    return kind(part=part, script=script)
