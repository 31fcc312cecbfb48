"""Modular pluralism, steerable mode: the main model picks the comment that fits the country best (Feng et
al. 2024).
"""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.models import BASE
from cultural_palette.nodes.events import AccountDone, emit
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.route import choose_community
from cultural_palette.nodes.state import PaletteState, model_of
from cultural_palette.nodes.turn import draft_texts, spent


async def select(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = BASE
) -> dict[str, Any]:
    """The chosen comment becomes the account, as memory shows a single one. The attribute to steer by is the
    country. A single comment needs no choice; raises ModelError when none could be read.
    """
    texts = draft_texts(state)
    usage: dict[str, int] = {}
    key = next(iter(texts))
    if len(texts) > 1:
        names = {key: state["communities"].get(key, key) for key in texts}
        fields = {"memory": state.get("memory") or ""}
        key, usage = await choose_community(
            model_of(state, part), "select", fields, names, state, knobs_of(runtime)
        )
    account = f"{state['communities'].get(key, key)}: {texts[key]}"
    emit(runtime, AccountDone(account))
    return {"chosen": key, "regulated": account, **spent({part: usage})}
