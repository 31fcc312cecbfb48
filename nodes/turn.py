"""How a turn ends, and what it reads of itself: one place for all that every deciding node must return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.runtime import Runtime

from cultural_palette.distributions import Distribution
from cultural_palette.models import Blend, ModelRef, Reply
from cultural_palette.models.determinism import promise
from cultural_palette.nodes.events import Blended, DecisionMade, Degraded, Note, emit
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState, Usage, question_of

ASIDE = "palette_aside"
"""Marks a message of the chat that answers no question: it asks back, or says why there is no answer."""
QUESTION = "palette_question"
"""On an answer: the question as it was read, where the message before it has other words."""
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


def end_of_turn(state: PaletteState, runtime: Runtime[PaletteContext], decision: Decision) -> dict[str, Any]:
    """All that a run ends with: the decision, its blend and notes, what the seed promises, the turn's
    messages, and question and options once more, which a checkpoint forgets. Tells it as events, too.
    """
    question, blend = question_of(state), decision.blend
    answer = decision.update["answer"]
    reply = AIMessage(NO_ANSWER if answer is None else answer, id=decision.streamed)
    messages: list[BaseMessage] = [reply]
    turn = state.get("turn")
    if not (turn and turn["in_chat"]):
        messages.insert(0, HumanMessage(question.text))
    elif (written := state.get("messages")) and written[-1].text.strip() != question.text:
        reply.additional_kwargs[QUESTION] = question.text
    determinism = promise(map(ModelRef.parse, state["parts"].values()), knobs_of(runtime).seed)
    emit(runtime, *map(Degraded, decision.update.get("degraded") or ()), *map(Note, decision.notes))
    if blend:
        emit(runtime, Blended(dict(blend.communities)))
    emit(
        runtime,
        DecisionMade(
            answer, decision.update.get("distribution"), decision.update.get("option_mass"), determinism
        ),
    )
    return {
        **decision.update,
        "query": question.text,
        "options": list(question.options),
        "blend": dict(blend.communities) if blend else None,
        "blend_layers": [dict(layer) for layer in blend.layers] if blend else None,
        "notes": list(decision.notes),
        "determinism": determinism,
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
