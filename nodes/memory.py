"""Memory: what the meta agent has before it, the earlier turns and every draft (method, section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.runtime import Runtime

from cultural_palette.errors import TooFewDrafts
from cultural_palette.nodes.events import Degraded, emit
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState
from cultural_palette.nodes.turn import ASIDE, QUESTION, draft_texts, lost_drafts

EARLIER_TURNS = 3
"""Older turns are left out: five drafts fill a small model's window as it is."""


async def memory(state: PaletteState, runtime: Runtime[PaletteContext]) -> dict[str, Any]:
    """Join the drafts in the map's order below the earlier turns. Raises TooFewDrafts with every reason.

    Without draft nodes the memory is the earlier turns alone, None when there are none.
    """
    names, drafts = state["communities"], state.get("drafts") or {}
    texts, lost = draft_texts(state), lost_drafts(state)
    needed = min(knobs_of(runtime).min_drafts, len(drafts))
    if len(texts) < needed:
        reasons = "\n".join(f"  {who}: {reason}" for reason, who in by_reason(lost, names).items())
        raise TooFewDrafts(
            f"Only {len(texts)} of {len(drafts)} drafts came, and {needed} are needed:\n{reasons}"
        )
    comments = [f"{names.get(key, key)}: {text}" for key, text in texts.items()]
    turn = state.get("turn")
    earlier = earlier_turns(state.get("messages") or [], bool(turn and turn["in_chat"]))
    whole = "\n\n".join([*earlier, *comments])
    degraded = [f"No draft for {who}: {reason}" for reason, who in by_reason(lost, names).items()]
    emit(runtime, *map(Degraded, degraded))
    return {"memory": whole or None, "degraded": degraded}


def by_reason(lost: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Reason -> whose drafts did not come for it: one server that is down is one fault, not five."""
    whose: dict[str, list[str]] = {}
    for key, reason in lost.items():
        whose.setdefault(reason, []).append(names.get(key, key))
    return {reason: ", ".join(communities) for reason, communities in whose.items()}


def earlier_turns(messages: Sequence[BaseMessage], in_chat: bool) -> list[str]:
    """The last answered questions of the thread. A question whose run was cancelled has no answer, and is
    left out.
    """
    past = messages[:-1] if in_chat else messages
    turns = [
        f"Earlier question: {answer.additional_kwargs.get(QUESTION, question.text)}\n"
        f"Earlier answer: {answer.text}"
        for question, answer in pairwise(past)
        if isinstance(question, HumanMessage)
        and isinstance(answer, AIMessage)
        and ASIDE not in answer.additional_kwargs
    ]
    return turns[-EARLIER_TURNS:]
