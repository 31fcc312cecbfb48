"""The one seam to a model: what nodes, readout and training ask of whoever runs it.

A provider gives a `Model`; nothing above this line knows which provider it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage

from cultural_palette.errors import UsageError

SHAPE = ("top_p", "min_p", "repetition_penalty", "frequency_penalty")


BLEND = "blend"
"""In a reply's `response_metadata`, and in rows that are kept: a blend as `Blend.as_row` gives it."""


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. None: the provider's or the palette's own, else off. `top_p` and `min_p` in 0..1;
    `repetition_penalty` above 1 makes what prompt and reply said already less likely; `frequency_penalty`, in
    -2..2, takes that much off a token's logit each time the reply has said it, and leaves the prompt's words
    alone.
    """

    temperature: float = 0.0
    max_tokens: int | None = None
    seed: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None

    def __post_init__(self) -> None:
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} = {value!r}: expected a number from 0 to 1")
        if self.top_p == 0:
            raise UsageError("top_p = 0 leaves no token: expected a number above 0, at most 1")
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise UsageError(f"repetition_penalty = {self.repetition_penalty!r}: expected a number above 0")
        penalty = self.frequency_penalty
        if penalty is not None and not -2 <= penalty <= 2:
            raise UsageError(f"frequency_penalty = {penalty!r}: expected a number from -2 to 2")

    def with_length(self, default: int) -> Sampling:
        """The same with a length of its own: `default` tokens where none was chosen."""
        return self if self.max_tokens else replace(self, max_tokens=default)

    @property
    def shape(self) -> dict[str, float]:
        """What is set of `SHAPE`, by name."""
        values = {name: getattr(self, name) for name in SHAPE}
        return {name: value for name, value in values.items() if value is not None}

    def as_request(self) -> dict[str, Any]:
        """All that shapes a reply, for a call's key; what is not set of `SHAPE` is left out."""
        plain = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}
        return plain | self.shape


@dataclass(frozen=True)
class Reply:
    """What a model said. `usage`: {"input_tokens", "output_tokens"}, `None` when it was not counted.
    `finish_reason`: "stop", or "length" for a reply that was cut; None when the provider does not tell.
    `blend`: of the pass that wrote it, where the model has one.
    """

    text: str
    seconds: float
    message: AIMessage
    usage: dict[str, int] | None
    finish_reason: str | None = None
    blend: Blend | None = None

    @property
    def cut(self) -> bool:
        """Whether the reply ended at its longest length and not by itself."""
        return self.finish_reason == "length"

    def as_row(self) -> dict[str, Any]:
        """In JSON values, as `from_row` reads it again."""
        return {
            "text": self.text,
            "seconds": self.seconds,
            "usage": self.usage,
            "finish_reason": self.finish_reason,
            **({BLEND: self.blend.as_row()} if self.blend else {}),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Reply:
        """A reply as a call store keeps it; `seconds` as it took when the model was called."""
        finish_reason = row.get("finish_reason")
        metadata = {"finish_reason": finish_reason} if finish_reason else {}
        message = AIMessage(row["text"], response_metadata=metadata)
        blend = Blend.from_row(row[BLEND]) if row.get(BLEND) else None
        return cls(row["text"], row["seconds"], message, row["usage"], finish_reason, blend)


@dataclass(frozen=True)
class OptionLogprobs:
    """Natural log-probability of each label as the reply's beginning, over all its tokenisations ("A", " A",
    ..), and the tokens that reading them took; `usage` is empty where they are not counted. `blend`: of the
    very pass that read them, where the model has one.
    """

    values: tuple[float, ...]
    usage: Mapping[str, int] = field(default_factory=dict)
    blend: Blend | None = None


@dataclass(frozen=True)
class TopTokens:
    """The likeliest first tokens of a reply with their natural log-probabilities, the likeliest first."""

    tokens: tuple[tuple[str, float], ...]
    message: AIMessage


@dataclass(frozen=True)
class Blend:
    """How much each community weighed in a reply: the router's weights, mean over the prompt's tokens.

    `communities`: mean over the layers; `layers`: each layer's. Weights are in 0..1 and sum to 1.
    """

    communities: Mapping[str, float]
    layers: tuple[Mapping[str, float], ...]

    @classmethod
    def over(cls, keys: Sequence[str], weights: Sequence[list[float]]) -> Blend:
        """From the router's weights, one row a layer, one column a community. (layers, communities)"""
        mean = [sum(column) / len(weights) for column in zip(*weights, strict=True)]
        return cls(
            dict(zip(keys, mean, strict=True)),
            tuple(dict(zip(keys, layer, strict=True)) for layer in weights),
        )

    def as_row(self) -> list[dict[str, float]]:
        """In JSON values: the layers."""
        return [dict(layer) for layer in self.layers]

    @classmethod
    def from_row(cls, row: Sequence[Mapping[str, float]]) -> Blend:
        """A blend as `as_row` wrote it."""
        return cls.over(list(row[0]), [list(layer.values()) for layer in row])


class Model(Protocol):
    """A model, ready for the running event loop."""

    async def reply(
        self,
        messages: Sequence[BaseMessage],
        sampling: Sampling,
        *,
        tags: Sequence[str] = (),
        alone: bool = False,
    ) -> AIMessage:
        """One reply; its tokens go to LangChain's callbacks as they come, under these tags. `alone`: the same
        request gives the same bits whatever else is asked at the time, where the provider can promise that.
        """

    async def option_logprobs(
        self, messages: Sequence[BaseMessage], labels: Sequence[str]
    ) -> OptionLogprobs | None:
        """The exact log-probability of each label; None when this model can not tell."""

    async def top_tokens(self, messages: Sequence[BaseMessage], count: int) -> TopTokens | None:
        """The `count` likeliest first tokens; None when this model does not tell."""

    async def blend(self, messages: Sequence[BaseMessage], communities: Sequence[str]) -> Blend | None:
        """How the communities were mixed over this prompt; None for a model without a router. Raises
        ModelError when there is one whose weights can not be had, with the way out.
        """

    async def scope_notes(self, question: str, country: str, options: Sequence[str]) -> list[str]:
        """What a reader should know when this question lies outside what the model was made for."""
