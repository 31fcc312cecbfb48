"""Memory: earlier turns and drafts in the map's order, or the reasons why there are too few."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cultural_palette.errors import TooFewDrafts
from cultural_palette.nodes.memory import memory
from tests.nodes.helpers import KEYS, drafted, runtime, state

ALL = {key: drafted(f"{key} says.") for key in KEYS}


async def test_drafts_in_the_maps_order():
    update = await memory(state(drafts=ALL), runtime())
    assert update["memory"] == (
        "Africa: africa says.\n\nAmerica: america says.\n\nAsia: asia says.\n\n"
        "Europe: europe says.\n\nOceania: oceania says."
    )
    assert update["degraded"] == []


async def test_a_lost_draft_is_said_and_the_rest_goes_on():
    update = await memory(state(drafts={**ALL, "asia": drafted(None, "too late")}), runtime())
    assert "Asia" not in update["memory"] and "Europe: europe says." in update["memory"]
    assert update["degraded"] == ["No draft for Asia: too late"]


async def test_too_few_drafts_end_the_run_with_every_reason():
    lost = {"africa": drafted(None, "down"), "asia": drafted(None, "late"), "europe": None}
    with pytest.raises(TooFewDrafts) as caught:
        await memory(state(drafts={**ALL, **lost}), runtime(min_drafts=3))
    assert str(caught.value) == (
        "Only 2 of 5 drafts came, and 3 are needed:\n  Africa: down\n  Asia: late\n  Europe: no draft came"
    )
    assert (await memory(state(drafts={**ALL, **lost}), runtime(min_drafts=2)))["memory"]


async def test_no_more_drafts_are_needed_than_there_are_agents():
    two = {"africa": drafted("a"), "asia": drafted("b")}
    assert (await memory(state(drafts=two), runtime(min_drafts=9)))["memory"] == "Africa: a\n\nAsia: b"


async def test_earlier_turns_stand_first():
    talk = [
        HumanMessage("q1"),
        AIMessage("a1"),
        HumanMessage("cancelled"),
        HumanMessage("q2"),
        AIMessage("a2"),
    ]
    update = await memory(state(drafts=ALL, messages=talk), runtime())
    assert update["memory"].startswith(
        "Earlier question: q1\nEarlier answer: a1\n\nEarlier question: q2\nEarlier answer: a2\n\n"
        "Africa: africa says."
    )


async def test_in_a_chat_the_question_itself_is_no_earlier_turn():
    asked = {"query": "q2", "options": [], "in_chat": True}
    talk = [HumanMessage("q1"), AIMessage("a1"), HumanMessage("q2")]
    update = await memory(state(drafts=ALL, messages=talk, asked=asked), runtime())
    assert update["memory"].count("Earlier question") == 1 and "q2" not in update["memory"]


async def test_only_the_last_three_turns():
    talk = [m for n in range(6) for m in (HumanMessage(f"q{n}"), AIMessage(f"a{n}"))]
    text = (await memory(state(drafts=ALL, messages=talk), runtime()))["memory"]
    assert [f"q{n}" in text for n in range(6)] == [False, False, False, True, True, True]


async def test_without_draft_nodes():
    assert await memory(state(drafts={}), runtime()) == {"memory": None, "degraded": []}


async def test_one_fault_of_several_communities_is_told_once():
    down = drafted(None, "the server is down")
    drafts = {
        "africa": down,
        "america": down,
        "asia": drafted("a"),
        "europe": drafted("e"),
        "oceania": drafted("o"),
    }
    update = await memory(state(drafts=drafts), runtime())
    assert update["degraded"] == ["No draft for Africa, America: the server is down"]
    with pytest.raises(TooFewDrafts) as caught:
        await memory(state(drafts=dict.fromkeys(drafts, down)), runtime())
    assert str(caught.value).count("the server is down") == 1
