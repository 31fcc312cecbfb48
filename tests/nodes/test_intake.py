"""Intake: the country, the question and the cast are settled, or the run ends before any model is asked."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cultural_palette.errors import QuestionError, SettingsError, UnknownCountry
from cultural_palette.nodes.intake import intake
from tests.nodes.helpers import CONTINENTS, KEYS, runtime

pytestmark = pytest.mark.usefixtures("script")
ALL = {"model": "scripted:x"}


async def settled(state, drafting=True, **context):
    return await intake(state, runtime(**(context or ALL)), cultural_map=CONTINENTS, drafting=drafting)


async def test_a_plain_question():
    update = await settled({"country": "Britain", "query": " Tea or coffee? ", "options": ["Tea", "Coffee "]})
    assert (update["country"], update["query"], update["options"]) == (
        "GBR",
        "Tea or coffee?",
        ["Tea", "Coffee"],
    )
    assert update["turn"] == {"query": "Tea or coffee?", "options": ["Tea", "Coffee"], "in_chat": False}
    assert tuple(update["communities"]) == KEYS
    assert update["drafts"].value == dict.fromkeys(KEYS)
    assert update["parts"] == {part: "scripted:x" for part in (*KEYS, "meta", "base")}


async def test_a_turn_starts_clean():
    update = await settled({"country": "KEN", "query": "?"})
    for key in (
        "memory",
        "regulated",
        "answer",
        "distribution",
        "option_mass",
        "readout",
        "blend",
        "blend_layers",
    ):
        assert update[key] is None
    assert update["degraded"].value == []
    assert update["usage"].value == {"input_tokens": 0, "output_tokens": 0, "by_part": {}}


async def test_without_draft_nodes_no_draft_is_awaited():
    update = await settled({"country": "KEN", "query": "?"}, drafting=False)
    assert update["drafts"].value == {} and update["notes"].value == []


async def test_in_a_chat_the_last_message_asks():
    update = await settled(
        {"country": "KEN", "messages": [HumanMessage("a"), AIMessage("b"), HumanMessage("c?")]}
    )
    assert update["turn"] == {"query": "c?", "options": [], "in_chat": True}


async def test_one_model_for_all_is_said():
    update = await settled({"country": "KEN", "query": "?"})
    assert update["notes"].value == [
        "scripted:x plays africa, america, asia, europe, oceania by prompt alone; "
        "it was not aligned to these communities."
    ]
    own = {key: f"scripted:{key}" for key in KEYS}
    assert (await settled({"country": "KEN", "query": "?"}, model="scripted:x", models=own))[
        "notes"
    ].value == []


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"query": "?"}, UnknownCountry, "No country was given"),
        ({"country": "UK", "query": "?"}, UnknownCountry, r"Unknown country 'UK'\. Did you mean GBR"),
        ({"country": "KEN"}, QuestionError, "Nothing was asked: give a `query`, or a message"),
        ({"country": "KEN", "messages": [HumanMessage("a"), AIMessage("b")]}, QuestionError, "turn before"),
        ({"country": "KEN", "query": "  "}, QuestionError, "empty"),
        ({"country": "KEN", "query": "?", "options": ["a"]}, QuestionError, "2 to 40"),
        ({"country": "KEN", "query": "?", "options": ["a", "A "]}, QuestionError, "stands there already"),
        ({"country": "KEN", "query": "x" * 100_000}, QuestionError, "100,000 characters"),
    ],
)
async def test_bad_input(state, error, message):
    with pytest.raises(error, match=message):
        await settled(state)


async def test_a_bad_cast_ends_the_run_here():
    with pytest.raises(SettingsError, match="Unknown part 'afrika'"):
        await settled({"country": "KEN", "query": "?"}, models={"afrika": "scripted:x"}, model="scripted:x")
