"""Models of an embedded palette: weights in this process, exact in everything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from cultural_palette.embedded.chat_model import BLEND_LAYERS, EmbeddedChatModel, engine_for
from cultural_palette.embedded.manifest import read_manifest
from cultural_palette.embedded.parts import META, Part
from cultural_palette.embedded.scope import scope_notes
from cultural_palette.messages import role_pairs
from cultural_palette.models.protocol import BLEND, Blend, OptionLogprobs, Sampling, TopTokens
from cultural_palette.models.references import ModelRef


def chat_model(ref: ModelRef, sampling: Sampling) -> EmbeddedChatModel:
    """The LangChain chat model of a palette's part."""
    palette, _, part = ref.name.rpartition("/")
    manifest = read_manifest(palette)
    own = manifest.sampling_of("draft" if part in manifest.communities else "meta")
    unset = {name: value for name, value in own.items() if getattr(sampling, name) is None}
    sampling = replace(sampling, **unset).with_length(ref.runs_on.max_tokens)
    assert sampling.max_tokens is not None
    shape: dict[str, Any] = sampling.shape
    return EmbeddedChatModel(
        palette=palette,
        part=part,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        **shape,
    )


async def open_model(ref: ModelRef) -> EmbeddedModel:
    """The model of a palette's part; its weights are loaded when it is first asked."""
    return EmbeddedModel(ref)


async def palette_blend(palette: str, messages: Sequence[BaseMessage], part: str = META) -> Blend:
    """The blend of a palette's MoErges over a prompt: a pass of its own, where no reply brought it along."""
    engine = await engine_for(palette, part)
    prompt = await asyncio.to_thread(engine.encode, role_pairs(messages))
    weights = await asyncio.wrap_future(engine.blend(prompt, part))
    return Blend.over(engine.manifest.communities, weights)


class EmbeddedModel:
    """A part ("africa", ..., "base", "meta") of an embedded palette."""

    def __init__(self, ref: ModelRef) -> None:
        self.ref = ref
        self.palette, _, self.part = ref.name.rpartition("/")

    async def reply(
        self,
        messages: Sequence[BaseMessage],
        sampling: Sampling,
        *,
        tags: Sequence[str] = (),
        alone: bool = False,
    ) -> AIMessage:
        """One reply; `alone`: in no batch, so that nothing else moves its last bits."""
        chat = await asyncio.to_thread(chat_model, self.ref, sampling)  # reads the palette's manifest
        message = await chat.ainvoke(list(messages), {"tags": list(tags)} if tags else None, alone=alone)
        if (layers := message.response_metadata.get(BLEND_LAYERS)) is not None:
            communities = (await asyncio.to_thread(read_manifest, self.palette)).communities
            message.response_metadata[BLEND] = Blend.over(communities, layers).as_row()
        return message

    async def option_logprobs(self, messages: Sequence[BaseMessage], labels: Sequence[str]) -> OptionLogprobs:
        """The exact log-probability of each label."""
        engine = await engine_for(self.palette, self.part)
        prompt = await asyncio.to_thread(engine.encode, role_pairs(messages))
        reading = await asyncio.wrap_future(engine.option_logprobs(self.part, prompt, labels))
        blend = None if reading.blend is None else Blend.over(engine.manifest.communities, reading.blend)
        return OptionLogprobs(tuple(reading.logprobs), blend=blend)

    async def top_tokens(self, messages: Sequence[BaseMessage], count: int) -> TopTokens | None:
        """None: the exact probabilities are to be had."""
        return None

    async def blend(self, messages: Sequence[BaseMessage], communities: Sequence[str]) -> Blend | None:
        """The router's weights over the prompt; None off the MoErges."""
        manifest = await asyncio.to_thread(read_manifest, self.palette)
        if not Part.parse(self.part, manifest).blends:
            return None
        return await palette_blend(self.palette, messages, self.part)

    async def scope_notes(self, question: str, country: str, options: Sequence[str]) -> list[str]:
        """What to say when country (ISO code), question or options lie outside what this palette knows."""
        manifest = await asyncio.to_thread(read_manifest, self.palette)
        return scope_notes(manifest, question, country, options)
