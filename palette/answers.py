"""What an application gets: an answer with everything it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DraftText:
    """One community's draft. `text` is None when it failed, and `error` then says why. `model` as in
    ModelRef.
    """

    community: str
    text: str | None
    error: str | None
    seconds: float
    model: str


@dataclass(frozen=True)
class Answer:
    """A country's answer.

    `country`: ISO 3166-1 alpha-3. `answer`: an option, or a free text; None when no answer could be read, and
    `degraded` then says why. `distribution`: option -> probability (they sum to 1), None for a free answer.
    `option_mass`: probability (0..1) that the reply was one of the options at all. `blend`: community ->
    weight of the router (0..1, they sum to 1), None for a model without one. `drafts` by community, in the
    map's order. `account`: what the drafts were distilled into. `degraded`: what went wrong and was worked
    around; `notes`: what a reader should know. `usage`: tokens read and written, by part as well. `state`:
    all that the graph returned.
    """

    country: str
    question: str
    options: tuple[str, ...]
    answer: str | None
    distribution: Mapping[str, float] | None
    option_mass: float | None
    blend: Mapping[str, float] | None
    drafts: Mapping[str, DraftText]
    account: str | None
    notes: tuple[str, ...]
    degraded: tuple[str, ...]
    determinism: str | None
    usage: Mapping[str, Any]
    state: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Answer:
        """From the state that a run of the graph ends with."""
        return cls(
            country=state["country"],
            question=state["query"],
            options=tuple(state.get("options") or ()),
            answer=state.get("answer"),
            distribution=_copied(state.get("distribution")),
            option_mass=state.get("option_mass"),
            blend=_copied(state.get("blend")),
            drafts={
                key: draft_text(key, draft)
                for key, draft in (state.get("drafts") or {}).items()
                if draft is not None
            },
            account=state.get("regulated"),
            notes=tuple(state.get("notes") or ()),
            degraded=tuple(state.get("degraded") or ()),
            determinism=state.get("determinism"),
            usage=dict(state.get("usage") or {}),
            state=dict(state),
        )


def draft_text(community: str, draft: Mapping[str, Any]) -> DraftText:
    """A draft as the graph keeps it."""
    return DraftText(community, draft["text"], draft["error"], draft["seconds"], draft["model"])


def _copied(values: Mapping[str, float] | None) -> Mapping[str, float] | None:
    return None if values is None else dict(values)


@dataclass(frozen=True)
class Decided:
    """The last event of a stream: the whole answer."""

    answer: Answer


@dataclass(frozen=True)
class CountryQuestion:
    """A question for one country, as `batch` takes them. `seed` wins over the batch's own."""

    country: str
    question: str
    options: Sequence[str] = ()
    seed: int | None = None
