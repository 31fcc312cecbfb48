"""The meta agent: prompts sent, updates returned, and an unreadable decision said as such."""

from __future__ import annotations

import math

import pytest

from nodes.decide import NO_ANSWER, decide
from nodes.regulate import regulate
from palette.errors import ModelError
from tests.nodes.helpers import runtime, state

OPTIONS = ("Freedom", "Equality", "Don't know")
BLEND = {"communities": {"africa": 0.25, "asia": 0.75}, "layers": [{"africa": 0.25, "asia": 0.75}]}


async def test_regulate_distils_the_memory(script):
    script.replies["meta"] = "Tea is loved."
    update = await regulate(state(memory="Africa: yes."), runtime())
    ((part, messages),) = script.asked
    assert part == "meta"
    assert messages[0].text.startswith("You weigh what several communities say about the United States.")
    assert messages[1].text == "Africa: yes.\n\nCountry: the United States\nQuestion: Is tea good?"
    assert update["regulated"] == "Tea is loved."
    assert set(update["usage"]["by_part"]) == {"meta"}


async def test_regulate_without_memory_writes_an_account(script):
    await regulate(state(memory=None), runtime(), part="base")
    ((part, messages),) = script.asked
    assert part == "base"
    assert messages[0].text.startswith("You know the United States well. Write one short account")


async def test_regulate_that_fails_ends_the_run(script):
    script.replies["meta"] = RuntimeError("boom")
    with pytest.raises(ModelError, match="scripted:meta failed: RuntimeError: boom"):
        await regulate(state(memory="x"), runtime())


async def test_decide_among_options(script):
    script.option_logprobs = [math.log(p) for p in (0.2, 0.5, 0.1)]
    script.blend = BLEND
    script.notes = ["Far outside the atlas."]
    update = await decide(state(options=OPTIONS, regulated="Tea is loved.", memory="Africa: yes."), runtime())
    ((part, messages),) = script.asked
    assert part == "meta"
    assert messages[1].text == (
        "Account: Tea is loved.\n\nCountry: the United States\nQuestion: Is tea good?\n"
        "Options:\nA. Freedom\nB. Equality\nC. Don't know"
    )
    assert update["answer"] == "Equality"
    # 0.2, 0.5, 0.1 of 0.8
    assert update["distribution"] == pytest.approx({"Freedom": 0.25, "Equality": 0.625, "Don't know": 0.125})
    assert update["option_mass"] == pytest.approx(0.8)
    assert update["readout"]["method"] == "exact"
    assert (update["blend"], update["blend_layers"]) == (BLEND["communities"], BLEND["layers"])
    assert update["notes"] == ["Far outside the atlas."]
    assert [m.text for m in update["messages"]] == ["Is tea good?", "Equality"]
    assert "degraded" not in update


@pytest.mark.parametrize(("masses", "told"), [((0.004, 0.003, 0.002), "0.90%"), ((0.0, 0.0, 0.0), "0.00%")])
async def test_an_unreadable_decision_is_no_answer(script, masses, told):
    script.option_logprobs = [math.log(p) if p else -math.inf for p in masses]
    update = await decide(state(options=OPTIONS, regulated="x"), runtime())
    assert update["answer"] is None and update["distribution"] is None
    (said,) = update["degraded"]
    assert said.startswith("The decision of scripted:meta could not be read (exact)") and told in said
    assert update["messages"][-1].text == NO_ANSWER


async def test_sampled_replies_that_name_no_option_are_counted(script):
    replies = iter(["A", "A", "B", "Who knows"])
    script.replies["meta"] = lambda messages: next(replies)
    update = await decide(
        state(options=OPTIONS, regulated="x"), runtime(readout="sampling", readout_samples=4)
    )
    assert update["distribution"] == pytest.approx({"Freedom": 2 / 3, "Equality": 1 / 3, "Don't know": 0})
    assert update["degraded"] == [
        "1 of 4 sampled replies of scripted:meta named no option and were left out."
    ]


async def test_a_free_answer(script):
    script.replies["meta"] = "They drink coffee."
    update = await decide(state(regulated="Tea is loved."), runtime())
    ((_, messages),) = script.asked
    assert messages[1].text == "Account: Tea is loved.\n\nCountry: the United States\nQuestion: Is tea good?"
    assert update["answer"] == "They drink coffee." and "distribution" not in update
    assert update["blend"] is None


async def test_without_self_regulation_the_drafts_are_the_account(script):
    await decide(state(memory="Africa: yes."), runtime(), part="base")
    ((part, messages),) = script.asked
    assert part == "base" and messages[1].text.startswith("Account: Africa: yes.")


async def test_in_a_chat_only_the_answer_is_added(script):
    asked = {"query": "Tea?", "options": [], "in_chat": True}
    update = await decide(state(regulated="x", asked=asked), runtime())
    assert [m.type for m in update["messages"]] == ["ai"]


async def test_prompts_of_ones_own(script):
    mine = "[system]\nShort!\n[user]\n{account}|{country}|{question}"
    await decide(state(regulated="Loved."), runtime(prompt_decide=mine))
    assert script.prompts_of("meta") == ["Short!\nLoved.|the United States|Is tea good?"]
