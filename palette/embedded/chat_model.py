"""The embedded engine behind LangChain's chat model interface."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from cultural_palette.embedded.engine import Engine, Generation, Piece, get_engine
from cultural_palette.embedded.parts import META, Part
from cultural_palette.embedded.sampling import Shape
from cultural_palette.errors import ModelError
from cultural_palette.messages import role_pairs

BLEND_LAYERS = "blend_layers"
"""In a reply's `response_metadata`: the communities' weights over the prompt, a list a layer."""


class EmbeddedChatModel(BaseChatModel):
    """A part ("africa", ..., "base", "meta") of an embedded palette. Same seed and prompt, same reply."""

    palette: str = "nano"
    part: str = META
    temperature: float = 0.0
    max_tokens: int = 160
    seed: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool = False
    """Return each token's log-probability in `response_metadata["logprobs"]["content"]`, as OpenAI's do."""

    @property
    def _llm_type(self) -> str:
        return "cultural-palette-embedded"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "palette": self.palette,
            "part": self.part,
            "temperature": self.temperature,
            "seed": self.seed,
            **self._shape(),
        }

    def _shape(self) -> dict[str, float]:
        values = {field.name: getattr(self, field.name) for field in fields(Shape)}
        return {name: value for name, value in values.items() if value is not None}

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        if stop:
            raise ModelError("The embedded palette takes no stop words.")
        engine = await engine_for(self.palette, self.part)
        prompt = await asyncio.to_thread(engine.encode, role_pairs(messages), self.max_tokens)
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece]()

        def deliver(piece: Piece) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        request = Generation(
            self.part,
            prompt,
            self.temperature,
            self.max_tokens,
            self.seed,
            deliver,
            kwargs.get("alone", False),
            Shape(**shape) if (shape := self._shape()) else None,
        )
        engine.generate(request)
        count = 0
        try:
            while True:
                piece = await pieces.get()
                if piece.error is not None:
                    raise piece.error
                count += piece.finish_reason != "stop"
                chunk = self._chunk(piece, len(prompt), count)
                if run_manager:
                    await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk
                if piece.finish_reason:
                    return
        finally:
            request.cancelled.set()

    def _chunk(self, piece: Piece, prompt_tokens: int, reply_tokens: int) -> ChatGenerationChunk:
        metadata: dict[str, Any] = {}
        message = AIMessageChunk(content=piece.text)
        if self.logprobs and piece.finish_reason != "stop":
            metadata["logprobs"] = {"content": [{"token": piece.text, "logprob": piece.logprob}]}
        if piece.finish_reason:
            metadata |= {"finish_reason": piece.finish_reason, "model_name": f"{self.palette}/{self.part}"}
            if piece.blend is not None:
                metadata[BLEND_LAYERS] = piece.blend
            message.usage_metadata = {
                "input_tokens": prompt_tokens,
                "output_tokens": reply_tokens,
                "total_tokens": prompt_tokens + reply_tokens,
            }
            message.chunk_position = "last"
        message.response_metadata = metadata
        return ChatGenerationChunk(message=message)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        whole: ChatGenerationChunk | None = None
        async for chunk in self._astream(messages, stop, None, **kwargs):
            whole = chunk if whole is None else whole + chunk
        assert whole is not None
        message = whole.message
        reply = AIMessage(
            content=message.content,
            response_metadata=message.response_metadata,
            usage_metadata=getattr(message, "usage_metadata", None),
        )
        return ChatResult(generations=[ChatGeneration(message=reply)])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return asyncio.run(self._agenerate(messages, stop, None, **kwargs))


async def engine_for(palette: str, part: str) -> Engine:
    """The engine of a palette that has this part; loaded in a thread when first asked for."""
    engine = await asyncio.to_thread(get_engine, palette)
    Part.parse(part, engine.manifest)
    return engine
