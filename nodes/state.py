"""What flows through the graph. Plain dicts, strings, numbers and messages: it must survive a checkpoint."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Annotated, Any

from langchain_core.messages import AnyMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.config import get_config
from langgraph.graph.message import add_messages
from pydantic import Field
from typing_extensions import TypedDict

from cultural_palette.models import ModelRef
from cultural_palette.models.allowed import refuse_places
from cultural_palette.questions import Question


class Draft(TypedDict):
    """One community's draft. `text` is None when it failed, and `error` then says why. `model` as in
    ModelRef.
    """

    text: str | None
    seconds: float
    error: str | None
    model: str


class Usage(TypedDict, total=False):
    """Tokens in and out, as far as the models told; by part they are the same two numbers."""

    input_tokens: int
    output_tokens: int
    by_part: dict[str, dict[str, int]]


def merge_drafts(
    old: dict[str, Draft | None] | None, new: dict[str, Draft | None]
) -> dict[str, Draft | None]:
    """Drafts merge by community, not by arrival: a key keeps the place in which intake laid it out."""
    return {**(old or {}), **new}


def add_usage(old: Usage | None, new: Usage) -> Usage:
    """Add tokens by part, and sum them again."""
    by_part = {part: dict(tokens) for part, tokens in (old or {}).get("by_part", {}).items()}
    for part, tokens in new.get("by_part", {}).items():
        known = by_part.setdefault(part, {"input_tokens": 0, "output_tokens": 0})
        for key in ("input_tokens", "output_tokens"):
            known[key] += tokens.get(key, 0)
    total = {
        key: sum(tokens[key] for tokens in by_part.values()) for key in ("input_tokens", "output_tokens")
    }
    return {
        "input_tokens": total["input_tokens"],
        "output_tokens": total["output_tokens"],
        "by_part": by_part,
    }


class PaletteInput(TypedDict, total=False):
    """A country and a question. In a chat the question is the last message, and the country stays from
    turn to turn.
    """

    country: Annotated[
        str,
        Field(
            description="Whose answer: an ISO code or a name, in any survey's spelling.",
            examples=["KEN", "New Zealand", "S. Korea"],
        ),
    ]
    query: Annotated[str, Field(description="The question.", examples=["What is a good life?"])]
    options: Annotated[
        list[str],
        Field(description="2 to 40 answers to choose from; none asks freely.", examples=[["Yes", "No"]]),
    ]
    messages: Annotated[list[AnyMessage], add_messages]


class PaletteOutput(TypedDict, total=False):
    """The answer and everything it was made from.

    `country` is an ISO 3166-1 alpha-3 code. `communities`: key -> name, in the map's order; `drafts` keep
    that order. `distribution`: option -> probability, None when there were no options or the reply was
    unreadable; `option_mass`: probability (0..1) that the reply was one of the options. `blend`: community ->
    weight, None for a model without router. `degraded`: what went wrong and was worked around; `notes`: what
    a reader should know. `determinism`: what the seed promises. `chosen`: the one community that a method
    of one picked, by key.
    """

    country: str
    query: Annotated[str, UntrackedValue]
    options: Annotated[list[str], UntrackedValue]
    communities: dict[str, str]
    chosen: str | None
    drafts: Annotated[dict[str, Draft | None], merge_drafts]
    memory: str | None
    regulated: str | None
    answer: str | None
    distribution: dict[str, float] | None
    option_mass: float | None
    readout: dict[str, Any] | None
    blend: dict[str, float] | None
    blend_layers: list[dict[str, float]] | None
    determinism: str | None
    degraded: Annotated[list[str], operator.add]
    notes: Annotated[list[str], operator.add]
    usage: Annotated[Usage, add_usage]
    messages: Annotated[list[AnyMessage], add_messages]


class Turn(TypedDict):
    """The question of this turn as intake settled it. `in_chat`: it stands in `messages` already."""

    query: str
    options: list[str]
    in_chat: bool


class PaletteState(PaletteOutput, total=False):
    """The output and what only nodes need. `query` and `options` are forgotten between turns, so that old
    options never answer a new question; nodes read the turn's question through `question_of`. `parts`: the
    model of each part, as in ModelRef.
    """

    turn: Turn
    parts: dict[str, str]


def model_of(state: Mapping[str, Any], part: str) -> ModelRef:
    """The model that plays a part in this turn, as intake settled it. On a server a caller may have written
    the thread's state: the model must be one that callers may name. Raises SettingsError.
    """
    text = state["parts"][part]
    if _on_a_server():
        refuse_places({"model": text})
    return ModelRef.parse(text)


def _on_a_server() -> bool:
    """Whether a LangGraph server runs this: it puts the graph's id into every run's configuration."""
    try:
        return "graph_id" in get_config().get("configurable", {})
    except RuntimeError:  # a node that is called as a function
        return False


def question_of(state: Mapping[str, Any]) -> Question:
    """The question of this turn."""
    turn = state.get("turn") or state
    return Question(turn["query"], tuple(turn.get("options") or ()))
