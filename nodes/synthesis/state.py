"""What flows through the synthesis graph, and what a person may turn. Plain dicts and strings, as on the ask
path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from cultural_palette.errors import ModelError
from cultural_palette.models import ModelRef, Reply, Sampling

Ask = Callable[..., Awaitable[Reply]]
"""Asks a model as `palette.models.ask` does, with the same arguments; a run brings its own."""
STEPS = ("respond", "feedback", "aggregate")
KINDS = ("relevance", "foreign_marker", "contradiction", "stereotype", "safety", "format")
Validation = Literal["auto", "checks", "teacher"]


class TeacherRefused(ModelError):
    """A request that the teacher's server will never answer: asked again, it would refuse again."""


class Finding(TypedDict):
    """What is wrong with an answer. `kind`: one of KINDS; `quote`: the words it is about."""

    kind: str
    detail: str
    quote: str | None


class Tokens(TypedDict):
    """Tokens read and written, as far as the teacher told."""

    input_tokens: int
    output_tokens: int


class Answer(TypedDict):
    """One community's answer to a query.

    `status`: "ok"; "set_aside" with the findings of the last round, or with an `error` that would come
    again; "failed" when the teacher did not answer this time. `response` is the last round's text.
    """

    status: str
    response: str | None
    steps: dict[str, str | None]
    rounds: int
    validation: dict[str, Any]
    teacher: str
    usage: Tokens
    error: str | None


def add_tokens(old: Tokens | None, new: Tokens) -> Tokens:
    """Both, summed."""
    old = old or {"input_tokens": 0, "output_tokens": 0}
    return {
        "input_tokens": old["input_tokens"] + new["input_tokens"],
        "output_tokens": old["output_tokens"] + new["output_tokens"],
    }


def merge_answers(old: dict[str, Answer] | None, new: dict[str, Answer]) -> dict[str, Answer]:
    """Answers merge by community, not by arrival."""
    return {**(old or {}), **new}


class SynthesisInput(TypedDict, total=False):
    """A query; `communities`: keys of those to answer it, all of the map when left out."""

    query: str
    communities: list[str]


class SynthesisOutput(TypedDict, total=False):
    """Every community's answer, by its key."""

    query: str
    answers: dict[str, Answer]


class SynthesisState(TypedDict, total=False):
    """All of it."""

    query: str
    communities: list[str]
    answers: Annotated[dict[str, Answer], merge_answers]


class ChainState(TypedDict, total=False):
    """One community's way to an answer. `round` counts from 1; the three steps are those of this round;
    `cut`: the last text broke off at the most tokens; `passed` is None before the first validation.
    """

    query: str
    teacher: str
    round: int
    respond: str | None
    feedback: str | None
    aggregate: str | None
    cut: bool
    passed: bool | None
    findings: list[Finding]
    usage: Annotated[Tokens, add_tokens]


class SynthesisContext(BaseModel):
    """The knobs of one synthesis. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    teacher: str | None = Field(
        default=None,
        description="The teacher model, such as 'openai:gpt-4o-mini'; left out: the embedded nano palette.",
        json_schema_extra={"langgraph_type": "model"},
    )
    temperature: float = Field(
        default=0.7, ge=0, le=2, description="Temperature of the three steps; validation is at 0."
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=32_768,
        description="Longest reply in tokens (embedded palette 160, servers 1024).",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed; each round adds one.")
    max_rounds: int = Field(
        default=3,
        ge=1,
        le=10,
        description="Rounds before an answer is set aside with its findings.",
        json_schema_extra={"langgraph_nodes": ["validate"]},
    )
    validation: Validation = Field(
        default="auto",
        description="'teacher': checks, then the teacher judges; 'checks' only; 'auto': checks for the "
        "embedded palette, which can not judge, else teacher.",
        json_schema_extra={"langgraph_nodes": ["validate"]},
    )
    timeout_s: float = Field(default=120.0, gt=0, le=3600, description="Seconds a reply may take.")

    def validation_by(self, teacher: str) -> Literal["checks", "teacher"]:
        """How the answers of this teacher are validated."""
        if self.validation == "auto":
            return "teacher" if ModelRef.parse(teacher).runs_on.judges else "checks"
        return self.validation

    def sampling(self, teacher: str, round_number: int) -> Sampling:
        """How a step's reply is drawn. Every round has a seed of its own."""
        sampling = Sampling(self.temperature, self.max_tokens, self.seed + round_number - 1)
        return sampling.with_length(ModelRef.parse(teacher).runs_on.max_tokens)

    def judging(self, teacher: str, round_number: int) -> Sampling:
        """How a validation is drawn: the likeliest."""
        drawn = self.sampling(teacher, round_number)
        return Sampling(0.0, drawn.max_tokens, drawn.seed)


def context_of(runtime: Runtime[SynthesisContext]) -> SynthesisContext:
    """The knobs of this run. In process the context is None when it was not passed."""
    context: Any = runtime.context
    if isinstance(context, Mapping):
        return SynthesisContext(**context)
    return context or SynthesisContext()


def answer_of(state: ChainState, error: str | None = None) -> Answer:
    """What a community's chain came to."""
    passed = bool(state.get("passed"))
    return {
        "status": "ok" if passed and error is None else "set_aside",
        "response": state.get("aggregate"),
        "steps": {"respond": state.get("respond"), "feedback": state.get("feedback")}
        | {"aggregate": state.get("aggregate")},
        "rounds": state.get("round", 1),
        "validation": {"passed": passed, "findings": list(state.get("findings") or ())},
        "teacher": state["teacher"],
        "usage": state.get("usage") or {"input_tokens": 0, "output_tokens": 0},
        "error": error,
    }


def unanswered(teacher: str, status: str, error: str) -> Answer:
    """What is left when the teacher did not answer."""
    empty: ChainState = {"teacher": teacher, "query": ""}
    return {**answer_of(empty, error), "status": status}
