"""A reply that was cut at its longest length is used, and said to be cut: whichever node asked for it."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage

from cultural_palette import models
from cultural_palette.nodes.answer import answer
from cultural_palette.nodes.decide import decide
from cultural_palette.nodes.draft import draft
from cultural_palette.nodes.regulate import regulate
from cultural_palette.nodes.resample import resample
from cultural_palette.nodes.summarise import summarise
from tests.nodes.helpers import CONTINENTS, drafted, runtime, state
from tests.scripted import ScriptedModel, scripted_provider


class CutModel(ScriptedModel):
    """Every reply of it ends at its longest length."""

    async def reply(self, messages, sampling, *, tags=(), alone=False):
        return AIMessage("Tea is for", response_metadata={"finish_reason": self.script.finish})


def said(update):
    """What the update has of the reply: in the answer, the account or the drafts."""
    return update.get("answer") or update.get("regulated") or update["drafts"]


NODES = {
    "draft": (lambda s, r: draft(s, r, community=CONTINENTS.community("africa")), "The draft of Africa"),
    "resample": (resample, "Sample 1"),
    "regulate": (regulate, "The account"),
    "summarise": (summarise, "The summary"),
    "decide": (decide, "The answer"),
    "answer": (answer, "The answer"),
}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("finish", ["length", "stop"])
async def test_a_cut_reply_is_noted(script, monkeypatch, name, finish):
    monkeypatch.setitem(models.PROVIDERS, "scripted", scripted_provider(script, CutModel))
    script.finish = finish
    node, what = NODES[name]
    update = await node(state(drafts={"africa": drafted("x")}, memory="Africa: x"), runtime())
    assert "Tea is for" in str(said(update))
    notes = [note for note in update["notes"] if "cut at its longest length: raise max_tokens" in note]
    assert bool(notes) == (finish == "length")
    assert not notes or notes[0].startswith(what)
    assert not update.get("degraded")
