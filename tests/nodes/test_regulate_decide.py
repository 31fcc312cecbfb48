"""The meta agent: prompts sent, updates returned, and an unreadable decision said as such."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cultural_palette import models
from cultural_palette.calls import CallStore, use_calls
from cultural_palette.errors import ModelError
from cultural_palette.models import Blend, ModelRef, OptionLogprobs
from cultural_palette.models.determinism import promise
from cultural_palette.models.http import Refused, Server
from cultural_palette.models.vllm import VllmModel
from cultural_palette.nodes.decide import decide
from cultural_palette.nodes.regulate import regulate
from cultural_palette.nodes.turn import NO_ANSWER
from cultural_palette.settings import get_settings, use_settings
from tests.nodes.helpers import KEYS, runtime, state
from tests.scripted import ScriptedModel, scripted_provider

OPTIONS = ("Freedom", "Equality", "Don't know")
BLEND = Blend({"africa": 0.25, "asia": 0.75}, ({"africa": 0.25, "asia": 0.75},))


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
    assert (update["blend"], update["blend_layers"]) == (BLEND.communities, list(BLEND.layers))
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
    turn = {"query": "Tea?", "options": [], "in_chat": True}
    update = await decide(state(regulated="x", turn=turn), runtime())
    assert [m.type for m in update["messages"]] == ["ai"]


async def test_prompts_of_ones_own(script):
    mine = "[system]\nShort!\n[user]\n{account}|{country}|{question}"
    await decide(state(regulated="Loved."), runtime(prompt_decide=mine))
    assert script.prompts_of("meta") == ["Short!\nLoved.|the United States|Is tea good?"]


# -- orders of the options


class LikesPlaces(ScriptedModel):
    """Puts 0.6, 0.3, 0.1 on the first, second, third option, whatever they are."""

    async def option_logprobs(self, messages, labels):
        self.script.asked.append((self.ref.name, list(messages)))
        return OptionLogprobs(tuple(math.log(p) for p in (0.6, 0.3, 0.1)))


class LikesFreedom(LikesPlaces):
    """Puts 0.8 on Freedom, wherever it stands."""

    async def option_logprobs(self, messages, labels):
        await super().option_logprobs(messages, labels)
        shares = (0.8 if f"{label}. Freedom" in messages[1].text else 0.1 for label in labels)
        return OptionLogprobs(tuple(map(math.log, shares)))


def plays(monkeypatch, script, kind):
    monkeypatch.setitem(models.PROVIDERS, "scripted", scripted_provider(script, kind))


async def test_a_favourite_place_averages_to_uniform(script, monkeypatch):
    plays(monkeypatch, script, LikesPlaces)
    update = await decide(state(options=OPTIONS, regulated="x"), runtime(permutations=3))
    assert update["distribution"] == pytest.approx(dict.fromkeys(OPTIONS, 1 / 3))
    told = update["readout"]["permutations"]
    assert (told["orders"], told["unreadable"]) == (3, 0)
    # 0.6, 0.3, 0.1 around 1/3: sqrt((.0711 + .0011 + .0544) / 3) = 0.2055
    assert told["spread"] == pytest.approx(dict.fromkeys(OPTIONS, 0.2055), abs=1e-4)
    assert told["mode_agreement"] == pytest.approx(1 / 3)
    shown = [messages[1].text.partition("Options:\n")[2] for _, messages in script.asked]
    assert shown[0] == "A. Freedom\nB. Equality\nC. Don't know"
    assert {text.splitlines()[0] for text in shown} == {"A. Freedom", "A. Equality", "A. Don't know"}


async def test_an_opinion_survives_every_order(script, monkeypatch):
    plays(monkeypatch, script, LikesFreedom)
    update = await decide(state(options=OPTIONS, regulated="x"), runtime(permutations=6))
    assert len(script.asked) == 6
    assert update["answer"] == "Freedom"
    assert update["distribution"] == pytest.approx({"Freedom": 0.8, "Equality": 0.1, "Don't know": 0.1})
    assert update["readout"]["permutations"]["mode_agreement"] == 1
    assert max(update["readout"]["permutations"]["spread"].values()) == pytest.approx(0)


async def test_orders_are_kept_each_by_itself(script, monkeypatch, tmp_path):
    plays(monkeypatch, script, LikesPlaces)
    with CallStore(tmp_path) as store, use_calls(store):
        await decide(state(options=OPTIONS, regulated="x"), runtime(permutations=3))
        first = len(script.asked)
        again = await decide(state(options=OPTIONS, regulated="x"), runtime(permutations=3))
        await decide(state(options=OPTIONS, regulated="x"), runtime())
        assert (first, len(script.asked)) == (3, 3)  # one order is among the three
        await decide(state(options=OPTIONS, regulated="x"), runtime(permutations=6))
    assert len(script.asked) == 6
    assert again["distribution"] == pytest.approx(dict.fromkeys(OPTIONS, 1 / 3))


async def test_one_order_says_nothing_of_orders(script):
    script.option_logprobs = [math.log(p) for p in (0.2, 0.5, 0.1)]
    update = await decide(state(options=OPTIONS, regulated="x"), runtime(permutations=1))
    assert "permutations" not in update["readout"]


# -- the prompts' order, the blend of served models, what a seed promises


async def test_prefix_order_puts_first_what_questions_share(script):
    script.option_logprobs = [math.log(p) for p in (0.2, 0.5, 0.1)]
    await decide(state(options=OPTIONS, regulated="Loved."), runtime(prompt_order="prefix"))
    ((_, messages),) = script.asked
    assert "the United States" not in messages[0].text
    assert messages[1].text == (
        "Question: Is tea good?\nOptions:\nA. Freedom\nB. Equality\nC. Don't know\n\n"
        "Account: Loved.\n\nCountry: the United States"
    )
    mine = "[system]\nShort!\n[user]\n{options}|{account}|{country}|{question}"
    context = runtime(prompt_order="prefix", prompt_decide_option=mine)
    await decide(state(options=OPTIONS, regulated="Loved."), context)
    assert script.asked[1][1][0].text == "Short!"  # one's own text wins


def served(**parts):
    """The cast of a served palette, on servers that nobody asks: their models are stood in for."""
    refs = {key: f"openai:{key}@http://lora/v1" for key in KEYS}
    return {**refs, "meta": "openai:moerges@http://moe/v1", "base": "openai:base@http://lora/v1", **parts}


class WithoutPlugin(Server):
    """A vLLM that has no route of ours."""

    async def post(self, path, body, *, root=False):
        raise Refused(404, {"message": f"no {path}"})


@pytest.fixture
def moerges(script, monkeypatch):
    """Answers as a served model: no blend of its own."""
    script.option_logprobs = [math.log(p) for p in (0.2, 0.5, 0.1)]

    class Served(VllmModel):
        async def option_logprobs(self, messages, labels):
            return OptionLogprobs(tuple(script.option_logprobs))

    async def opened(ref):
        return Served(ref, WithoutPlugin(ref.base_url, None, None, 0))

    monkeypatch.setitem(models.PROVIDERS, "openai", replace(models.PROVIDERS["openai"], open=opened))


async def test_a_served_moerges_without_its_checkpoint_says_how_to_get_the_blend(moerges):
    update = await decide(state(options=OPTIONS, regulated="x", parts=served()), runtime())
    assert update["blend"] is None
    assert update["notes"][-1].startswith(
        "The blend is not available for a served model: set blend_checkpoint"
    )
    one = dict.fromkeys((*KEYS, "meta", "base"), "openai:gpt@http://x/v1")
    update = await decide(state(options=OPTIONS, regulated="x", parts=one), runtime())
    assert update["blend"] is None and update["notes"] == []  # a model that plays all has no router


async def test_the_blend_is_read_from_the_checkpoint(moerges, monkeypatch):
    async def read(checkpoint, messages, communities):
        assert (checkpoint, list(communities)) == ("/the/moerges", list(KEYS))
        return BLEND

    monkeypatch.setattr("cultural_palette.models.router_blend.served_blend", read)
    with use_settings(get_settings(blend_checkpoint="/the/moerges")):
        update = await decide(state(options=OPTIONS, regulated="x", parts=served()), runtime())
        assert (update["blend"], update["blend_layers"]) == (BLEND.communities, list(BLEND.layers))
        base = await decide(state(options=OPTIONS, regulated="x", parts=served()), runtime(), part="base")
    assert base["blend"] is None and base["notes"] == []  # the base has no router either


async def test_a_checkpoint_that_is_none_is_a_note_and_no_failure(moerges, tmp_path):
    with use_settings(get_settings(blend_checkpoint=str(tmp_path))):
        update = await decide(state(options=OPTIONS, regulated="x", parts=served()), runtime())
    assert update["blend"] is None and update["answer"] == "Equality"
    assert "which is no model folder: it has no config.json" in update["notes"][-1]


async def test_what_a_seed_promises(script):
    script.option_logprobs = [math.log(p) for p in (0.2, 0.5, 0.1)]
    parts = dict.fromkeys((*KEYS, "meta", "base"), "scripted:meta")
    update = await decide(state(options=OPTIONS, regulated="x", parts=parts), runtime(seed=7))
    assert update["determinism"].startswith("Seed 7. Scripted: ")
    assert promise([ModelRef("embedded", "nano/meta")], 0).startswith("Seed 0. Embedded: the same seed")
    both = promise([ModelRef("embedded", "nano/meta"), ModelRef("openai", "x")], 0)
    assert "Embedded: " in both and "Served: " in both
