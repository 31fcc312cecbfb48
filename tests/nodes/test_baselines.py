"""The nodes of the baselines and controls: prompts sent, updates returned, and what can not be read."""

from __future__ import annotations

import math

import pytest

from cultural_palette import models
from cultural_palette.errors import MapError, ModelError, QuestionError
from cultural_palette.models import OptionLogprobs
from cultural_palette.nodes.answer import CHOSEN, answer
from cultural_palette.nodes.mix import mix
from cultural_palette.nodes.resample import STEP, resample
from cultural_palette.nodes.route import home, route, settled
from cultural_palette.nodes.select import select
from cultural_palette.nodes.summarise import summarise
from tests.nodes.helpers import CONTINENTS, KEYS, drafted, runtime, state
from tests.scripted import ScriptedModel, scripted_provider

OPTIONS = ("Yes", "No")
LETTERED = "Options:\nA. Yes\nB. No"
COMMUNITIES = "Options:\nA. Africa\nB. America\nC. Asia\nD. Europe\nE. Oceania"


def logs(*shares: float) -> list[float]:
    return [math.log(share) if share else -math.inf for share in shares]


def drafts() -> dict:
    return {key: drafted(f"{key} says yes.") for key in KEYS}


# -- one model by itself


async def test_vanilla_is_the_bare_question_without_the_country(script):
    script.option_logprobs = logs(0.2, 0.6)
    update = await answer(state(options=OPTIONS), runtime(), prompt="vanilla")
    ((part, (system, human)),) = script.asked
    assert part == "base"
    assert "United States" not in system.text + human.text
    assert human.text == f"Question: Is tea good?\n{LETTERED}"
    assert update["answer"] == "No"
    assert update["distribution"] == pytest.approx({"Yes": 0.25, "No": 0.75})  # 0.2 and 0.6 of 0.8
    assert [m.text for m in update["messages"]] == ["Is tea good?", "No"]


async def test_prompting_names_country_culture_and_history(script):
    script.option_logprobs = logs(0.5, 0.5)
    await answer(state(options=OPTIONS), runtime(), prompt="prompting")
    ((_, (system, human)),) = script.asked
    assert "culture" in system.text and "history" in system.text and "the United States" in system.text
    assert human.text == f"Country: the United States\nQuestion: Is tea good?\n{LETTERED}"


async def test_a_free_answer_of_one_model(script):
    script.replies["base"] = "They like it iced."
    update = await answer(state(), runtime(), prompt="prompting")
    assert update["answer"] == "They like it iced." and "distribution" not in update
    assert set(update["usage"]["by_part"]) == {"base"}


async def test_the_chosen_community_answers(script):
    script.option_logprobs = logs(0.5, 0.25)
    await answer(state(options=OPTIONS, chosen="asia"), runtime(), part=CHOSEN)
    assert [part for part, _ in script.asked] == ["asia"]


async def test_without_a_choice_nobody_is_chosen():
    with pytest.raises(ValueError, match="needs a `route` or `select` before it"):
        await answer(state(options=OPTIONS), runtime(), part=CHOSEN)


# -- routing


async def test_a_model_routes_by_its_likeliest_community(script):
    script.option_logprobs = logs(0.1, 0.1, 0.2, 0.4, 0.1)
    update = await route(state(options=OPTIONS), runtime(), cultural_map=CONTINENTS)
    ((part, (_, human)),) = script.asked
    assert part == "base"
    assert human.text == f"Country: the United States\nQuestion: Is tea good?\n{COMMUNITIES}"
    assert update["chosen"] == "europe"


async def test_a_route_that_can_not_be_read_is_no_route(script):
    script.option_logprobs = logs(0.001, 0.0, 0.0, 0.0, 0.0)
    with pytest.raises(ModelError, match=r"No community could be chosen: .* only 0\.10% of the reply"):
        await route(state(options=OPTIONS), runtime(), cultural_map=CONTINENTS)


async def test_home_is_the_maps_community(script):
    assert await home(state(), runtime(), cultural_map=CONTINENTS) == {"chosen": "america"}
    with pytest.raises(MapError, match="has no community for XXX"):
        await home(state(country="XXX"), runtime(), cultural_map=CONTINENTS)
    assert script.asked == []


async def test_a_settled_route_must_be_of_the_map():
    chosen = await settled(state(), runtime(), cultural_map=CONTINENTS, community="asia")
    assert chosen == {"chosen": "asia"}
    with pytest.raises(MapError, match="no community 'mars'"):
        await settled(state(), runtime(), cultural_map=CONTINENTS, community="mars")


# -- modular pluralism


async def test_overton_sums_up_all_comments_without_the_country(script):
    script.replies["base"] = "All like tea."
    update = await summarise(state(memory="Africa: yes.\n\nAsia: no."), runtime())
    ((part, (system, human)),) = script.asked
    assert part == "base" and "United States" not in system.text + human.text
    assert human.text == "Africa: yes.\n\nAsia: no.\n\nQuestion: Is tea good?"
    assert update["regulated"] == "All like tea."


async def test_steerable_takes_the_comment_that_fits_the_country(script):
    script.option_logprobs = logs(0.1, 0.5, 0.1, 0.1)
    given = {**drafts(), "asia": drafted(None, "lost")}
    update = await select(state(memory="Africa: ...", drafts=given), runtime())
    ((part, (system, human)),) = script.asked
    assert part == "base" and "fits the people of the United States best" in system.text
    assert human.text.startswith("Africa: ...\n\nCountry: the United States")
    assert human.text.endswith("A. Africa\nB. America\nC. Europe\nD. Oceania")  # the lost one is no choice
    assert update == {"chosen": "america", "regulated": "America: america says yes."}


async def test_a_single_comment_needs_no_choice(script):
    update = await select(state(memory="x", drafts={"asia": drafted("Yes.")}), runtime())
    assert update == {"chosen": "asia", "regulated": "Asia: Yes."} and script.asked == []


async def test_distributional_is_the_mean_given_each_comment(script, monkeypatch):
    shares = iter([(0.8, 0.2), (0.6, 0.4), (0.4, 0.6), (0.2, 0.8), (0.1, 0.9)])

    script.option_logprobs = ()
    monkeypatch.setattr(ScriptedModel, "option_logprobs", _readings(shares, script))
    update = await mix(state(options=OPTIONS, drafts=drafts()), runtime())
    assert [human.text.split("\n\n")[0] for _, (_, human) in script.asked] == [
        f"Account: {key.title()}: {key} says yes." for key in KEYS
    ]
    # yes: (0.8 + 0.6 + 0.4 + 0.2 + 0.1) / 5 = 0.42
    assert update["distribution"] == pytest.approx({"Yes": 0.42, "No": 0.58})
    assert update["answer"] == "No" and update["degraded"] == []
    assert update["readout"]["by_community"]["africa"] == pytest.approx({"Yes": 0.8, "No": 0.2})


async def test_distributional_says_over_how_many_orders_each_decision_is_the_mean(script):
    script.option_logprobs = logs(0.8, 0.2)  # whatever stands first: all place, no opinion
    update = await mix(state(options=OPTIONS, drafts=drafts()), runtime(permutations=2))
    assert update["distribution"] == pytest.approx({"Yes": 0.5, "No": 0.5})
    assert update["readout"]["permutations"] == {
        "orders": 2,
        "spread": pytest.approx({"Yes": 0.3, "No": 0.3}),  # 0.8 and 0.2 around 0.5
    }
    one = await mix(state(options=OPTIONS, drafts=drafts()), runtime())
    assert "permutations" not in one["readout"]


async def test_distributional_leaves_out_what_can_not_be_read_and_says_so(script, monkeypatch):
    shares = iter([(0.8, 0.2), (0.0, 0.0), (0.4, 0.6), (0.0, 0.0), (0.3, 0.7)])
    script.option_logprobs = ()
    monkeypatch.setattr(ScriptedModel, "option_logprobs", _readings(shares, script))
    update = await mix(state(options=OPTIONS, drafts=drafts()), runtime())
    assert update["distribution"] == pytest.approx({"Yes": 0.5, "No": 0.5})  # (0.8 + 0.4 + 0.3) / 3
    assert [said.split(":")[0] for said in update["degraded"]] == ["America", "Europe"]
    assert update["readout"]["unreadable"] == 2


async def test_distributional_with_too_few_readings_has_no_answer(script, monkeypatch):
    shares = iter([(0.8, 0.2), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.3, 0.7)])
    script.option_logprobs = ()
    monkeypatch.setattr(ScriptedModel, "option_logprobs", _readings(shares, script))
    update = await mix(state(options=OPTIONS, drafts=drafts()), runtime())
    assert update["distribution"] is None and update["answer"] is None


async def test_distributional_needs_options(script):
    with pytest.raises(QuestionError, match="needs options"):
        await mix(state(drafts=drafts()), runtime())


def _readings(shares, script):
    async def option_logprobs(self, messages, labels):
        script.asked.append((self.ref.name, list(messages)))
        return OptionLogprobs(tuple(logs(*next(shares))))

    return option_logprobs


# -- five samples of one model


async def test_self_blend_draws_as_many_samples_as_communities_each_with_its_seed(script, monkeypatch):
    seeds = []

    class Counted(ScriptedModel):
        async def reply(self, messages, sampling, **more):
            seeds.append(sampling.seed)
            return await super().reply(messages, sampling, **more)

    monkeypatch.setitem(models.PROVIDERS, "scripted", scripted_provider(script, Counted))
    update = await resample(state(options=OPTIONS), runtime(seed=7))
    assert [part for part, _ in script.asked] == ["base"] * 5
    assert len({human.text for _, (_, human) in script.asked}) == 1
    assert "Africa" not in script.asked[0][1][0].text
    assert sorted(seeds) == [7 + STEP * number for number in range(1, 6)]
    assert list(update["drafts"]) == [f"sample {number}" for number in range(1, 6)]
    assert update["usage"]["by_part"]["base"]["output_tokens"] == 10  # "base speaks." five times


async def test_a_lost_sample_is_recorded(script):
    script.replies["base"] = RuntimeError("down")
    update = await resample(state(options=OPTIONS), runtime())
    assert update["drafts"]["sample 1"]["text"] is None
    assert "RuntimeError: down" in update["drafts"]["sample 1"]["error"]
    assert "usage" not in update
