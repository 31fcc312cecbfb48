"""How a turn ends, and what it reads of itself: one place for all that every deciding node must return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from cultural_palette.distributions import Distribution
from cultural_palette.models import Blend, ModelRef, Reply
from cultural_palette.models.determinism import promise
from cultural_palette.nodes.knobs import Knobs
from cultural_palette.nodes.state import PaletteState, Usage, question_of

NO_ANSWER = "(no answer that could be read)"


@dataclass(frozen=True)
class Decision:
    """What a deciding node came to. `update`: answer, distribution, option_mass, readout, degraded, as far as
    there are any; `usage`: tokens by part; `streamed`: the id of the reply that was shown as it came.
    """

    update: Mapping[str, Any]
    usage: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    streamed: str | None = None
    notes: Sequence[str] = ()
    blend: Blend | None = None


def end_of_turn(state: PaletteState, knobs: Knobs, decision: Decision) -> dict[str, Any]:
    """All that a run ends with: the decision, its blend and notes, what the seed promises, the turn's
    messages, and question and options once more, which a checkpoint forgets.
    """
    question, blend = question_of(state), decision.blend
    answer = decision.update["answer"]
    messages: list[BaseMessage] = [AIMessage(NO_ANSWER if answer is None else answer, id=decision.streamed)]
    turn = state.get("turn")
    if not (turn and turn["in_chat"]):
        messages.insert(0, HumanMessage(question.text))
    return {
        **decision.update,
        "query": question.text,
        "options": list(question.options),
        "blend": dict(blend.communities) if blend else None,
        "blend_layers": [dict(layer) for layer in blend.layers] if blend else None,
        "notes": list(decision.notes),
        "determinism": promise(map(ModelRef.parse, state["parts"].values()), knobs.seed),
        "messages": messages,
        **spent(decision.usage),
    }


def spent(by_part: Mapping[str, Mapping[str, int] | None]) -> dict[str, Usage]:
    """Tokens by part as an update of the state; nothing where no model counted them."""
    counted = {part: dict(usage) for part, usage in by_part.items() if usage}
    return {"usage": {"by_part": counted}} if counted else {}


def summed(usages: Sequence[Mapping[str, int] | None]) -> dict[str, int]:
    """Tokens of several calls together; those that were not counted count as none."""
    total: dict[str, int] = {}
    for usage in usages:
        for key, count in (usage or {}).items():
            total[key] = total.get(key, 0) + count
    return total


def cut_note(what: str, reply: Reply) -> list[str]:
    """A note that a reply ends in the middle; none where it does not. `what`: its place in the turn."""
    return [f"{what} was cut at its longest length: raise max_tokens."] if reply.cut else []


def draft_texts(state: PaletteState) -> dict[str, str]:
    """The drafts that came, by community, in the map's order. A failed one is not there, an empty one is."""
    drafts = state.get("drafts") or {}
    return {key: draft["text"] for key, draft in drafts.items() if draft and draft["text"] is not None}


def lost_drafts(state: PaletteState) -> dict[str, str]:
    """The drafts that did not come, by community, with the reason."""
    drafts, texts = state.get("drafts") or {}, draft_texts(state)
    return {
        key: (draft["error"] if draft else None) or "no draft came"
        for key, draft in drafts.items()
        if key not in texts
    }


def as_shares(options: Sequence[str], distribution: Distribution) -> dict[str, float]:
    """Option -> probability, in the question's order; what `distribution` in the state holds."""
    return dict(zip(options, distribution.probabilities, strict=True))


def mean_mass(masses: Sequence[float | None]) -> float | None:
    """Mean of the option masses that were read; None without any."""
    read = [mass for mass in masses if mass is not None]
    return math.fsum(read) / len(read) if read else None
