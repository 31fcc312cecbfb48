"""What a run tells while it goes on, on LangGraph's `custom` stream: typed here, plain JSON on the way.

Every event is frozen and says in `type` what it is; `as_dict` is the JSON that a client reads (docs/events.md
has the shapes, and a test holds the page to this module). A node of one's own takes part with
`emit(runtime, ...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import FunctionType
from typing import Any, ClassVar, TypeAlias

from langgraph.runtime import Runtime

from cultural_palette.answers import Decided, DraftText


@dataclass(frozen=True)
class RunEvent:
    """An event of a run. A subclass names its `type`; its fields are JSON values."""

    type: ClassVar[str]

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON: `type`, then the fields."""
        return {"type": self.type, **asdict(self)}


@dataclass(frozen=True)
class TurnStarted(RunEvent):
    """Country and question are settled. `country`: ISO 3166-1 alpha-3; `communities`: key -> name, in the
    map's order; `models`: part -> model, as in ModelRef.
    """

    type = "turn_started"
    country: str
    country_name: str
    query: str
    options: Sequence[str]
    communities: Mapping[str, str]
    models: Mapping[str, str]


@dataclass(frozen=True)
class ModelsLoading(RunEvent):
    """Weights are read into this process before the first token comes: seconds for the nano palette, minutes
    for a large one. The first token or finished draft ends it.
    """

    type = "models_loading"
    models: Sequence[str]


@dataclass(frozen=True)
class DraftStarted(RunEvent):
    """A community's model was sent its prompt."""

    type = "draft_started"
    community: str
    name: str
    model: str


@dataclass(frozen=True)
class DraftToken(RunEvent):
    """A piece of a community's draft, as it is written."""

    type = "draft_token"
    community: str
    text: str


@dataclass(frozen=True)
class DraftDone(RunEvent):
    """A community's whole draft."""

    type = "draft_done"
    draft: DraftText

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON: the draft's own fields."""
        return {"type": self.type, **asdict(self.draft)}


@dataclass(frozen=True)
class DraftFailed(RunEvent):
    """A draft that did not come; `draft.error` says why. The others go on."""

    type = "draft_failed"
    draft: DraftText

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON: the draft's own fields."""
        return {"type": self.type, **asdict(self.draft)}


@dataclass(frozen=True)
class AccountStarted(RunEvent):
    """The meta agent was sent the drafts to distil."""

    type = "account_started"
    model: str


@dataclass(frozen=True)
class AccountToken(RunEvent):
    """A piece of the account, as it is written."""

    type = "account_token"
    text: str


@dataclass(frozen=True)
class AccountDone(RunEvent):
    """The whole account that the drafts were distilled into."""

    type = "account_done"
    text: str


@dataclass(frozen=True)
class AnswerToken(RunEvent):
    """A piece of a free answer, as it is written."""

    type = "answer_token"
    text: str


@dataclass(frozen=True)
class Blended(RunEvent):
    """How much each community weighed in the decision: community -> weight (0..1, they sum to 1)."""

    type = "blend"
    communities: Mapping[str, float]


@dataclass(frozen=True)
class DecisionMade(RunEvent):
    """The answer: an option or a free text, None when none could be read. `distribution`: option ->
    probability (they sum to 1), None for a free answer; `option_mass`: probability (0..1) that the reply was
    one of the options at all; `determinism`: what the seed promises.
    """

    type = "decision"
    answer: str | None
    distribution: Mapping[str, float] | None
    option_mass: float | None
    determinism: str | None


@dataclass(frozen=True)
class Degraded(RunEvent):
    """Something went wrong and was worked around."""

    type = "degraded"
    text: str


@dataclass(frozen=True)
class Note(RunEvent):
    """Something a reader of the answer should know."""

    type = "note"
    text: str


@dataclass(frozen=True)
class Clarification(RunEvent):
    """The chat needs to know more before it can answer: its question to the person."""

    type = "clarification"
    text: str


EVENT_TYPES: tuple[type[RunEvent], ...] = (
    TurnStarted, ModelsLoading, DraftStarted, DraftToken, DraftDone, DraftFailed, AccountStarted,
    AccountToken, AccountDone, AnswerToken, Blended, DecisionMade, Degraded, Note, Clarification,
)  # fmt: skip
Event: TypeAlias = (
    TurnStarted
    | ModelsLoading
    | DraftStarted
    | DraftToken
    | DraftDone
    | DraftFailed
    | AccountStarted
    | AccountToken
    | AccountDone
    | AnswerToken
    | Blended
    | Degraded
    | Note
    | Decided
)
"""What `stream` yields."""


def emit(runtime: Runtime[Any], *events: RunEvent) -> None:
    """Send events to whoever reads the run's `custom` stream; to nobody, it costs next to nothing."""
    for event in events:
        runtime.stream_writer(event.as_dict())


def is_heard(runtime: Runtime[Any]) -> bool:
    """Whether anybody reads the `custom` stream: a model writes its reply token by token only then.

    LangGraph does not say so itself: its writer to nobody is a plain function that holds nothing.
    """
    writer = runtime.stream_writer
    return not (isinstance(writer, FunctionType) and writer.__closure__ is None)


def token_writer(runtime: Runtime[Any], event_of: Callable[[str], RunEvent]) -> Callable[[str], None] | None:
    """What a model calls with each piece of its reply; None where nobody hears it."""
    if not is_heard(runtime):
        return None
    return lambda text: emit(runtime, event_of(text))


def event_from(data: Mapping[str, Any]) -> RunEvent:
    """The event behind the JSON of `as_dict`. Raises ValueError for an unknown `type`."""
    by_type = {kind.type: kind for kind in EVENT_TYPES}
    values = dict(data)
    kind = by_type.get(values.pop("type", ""))
    if kind is None:
        raise ValueError(f"unknown event {data.get('type')!r}; there are {', '.join(by_type)}")
    if kind in (DraftDone, DraftFailed):
        return kind(DraftText(**values))
    return kind(**values)
