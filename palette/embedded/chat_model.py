"""The embedded engine behind LangChain's chat model interface."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from cultural_palette.calls import keeping
from cultural_palette.embedded.engine import META, Engine, Generation, Piece, get_engine
from cultural_palette.embedded.manifest import read_manifest
from cultural_palette.errors import ModelError

ROLES = {"system": "system", "human": "user", "ai": "assistant"}
SHORT_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "how",
        "i",
        "if",
        "in",
        "is",
        "it",
        "its",
        "may",
        "me",
        "more",
        "most",
        "much",
        "my",
        "no",
        "not",
        "of",
        "on",
        "one",
        "or",
        "our",
        "should",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "there",
        "these",
        "they",
        "this",
        "to",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)


class EmbeddedChatModel(BaseChatModel):
    """A part ("africa", ..., "base", "meta") of an embedded palette. Same seed and prompt, same reply."""

    palette: str = "nano"
    part: str = META
    temperature: float = 0.0
    max_tokens: int = 160
    seed: int | None = None
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
        }

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        if stop:
            raise ModelError("The embedded palette takes no stop words.")
        engine = await self._engine()
        prompt = await asyncio.to_thread(engine.encode, _pairs(messages), self.max_tokens)
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece]()

        def deliver(piece: Piece) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        # a reply that is kept must be the one that any other run would have got
        request = Generation(
            self.part, prompt, self.temperature, self.max_tokens, self.seed, deliver, alone=keeping()
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

    async def aoption_logprobs(self, messages: Sequence[BaseMessage], labels: Sequence[str]) -> list[float]:
        """Natural log-probability of each label as the reply's beginning, over all its tokenisations
        ("A", " A", ..).
        """
        engine = await self._engine()
        prompt = await asyncio.to_thread(engine.encode, _pairs(messages))
        return await asyncio.wrap_future(engine.option_logprobs(self.part, prompt, labels))

    async def ablend(self, messages: Sequence[BaseMessage]) -> dict[str, Any] | None:
        """Router weights over the prompt: {"communities": {key: mean}, "layers": [{key: weight}]}; None
        off the MoErges.
        """
        if self.part != META:
            return None
        engine = await self._engine()
        prompt = await asyncio.to_thread(engine.encode, _pairs(messages))
        layers = await asyncio.wrap_future(engine.blend(prompt))
        keys = engine.manifest.communities
        mean = [sum(layer[i] for layer in layers) / len(layers) for i in range(len(keys))]
        return {
            "communities": dict(zip(keys, mean, strict=True)),
            "layers": [dict(zip(keys, layer, strict=True)) for layer in layers],
        }

    async def scope_notes(self, question: str, country: str, options: Sequence[str] = ()) -> list[str]:
        """What to say when country (ISO code), question or options lie outside what this palette knows."""
        manifest = await asyncio.to_thread(read_manifest, self.palette)
        scope = manifest.scope
        if scope is None:
            return []
        notes = []
        if country not in scope["countries"]:
            notes.append(
                f"The {manifest.name} palette's atlas has no entry for {country}: "
                "it answers from what it knows of the continent."
            )
        words = {w for w in re.findall(r"[a-z]+", question.lower()) if w not in SHORT_WORDS}
        known = words & set(scope["words"])
        if len(known) * 2 <= len(words) or not words:
            strange = ", ".join(sorted(words - known)[:5]) or "no word of its own"
            notes.append(
                f"The question lies outside the {manifest.name} palette's small atlas of daily life "
                f"({strange}): do not rely on this answer."
            )
        elif options and list(options) not in scope["options"]:
            notes.append(
                f"The {manifest.name} palette has learned to choose among the options of its atlas' own "
                "questions, in their own order; with these it guesses."
            )
        return notes

    async def _engine(self) -> Engine:
        engine = await asyncio.to_thread(get_engine, self.palette)
        if self.part not in (*engine.manifest.communities, "base", META):
            raise ModelError(
                f"The palette {self.palette!r} has no part {self.part!r}; it has "
                f"{', '.join(engine.manifest.communities)}, base and meta."
            )
        return engine


def _pairs(messages: Sequence[BaseMessage]) -> list[tuple[str, str]]:
    return [(ROLES[m.type], m.text) for m in messages]
