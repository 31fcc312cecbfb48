"""The distribution over options: exact, from a server's top tokens, or counted; never guessed."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from cultural_palette.errors import ModelError
from cultural_palette.models import ModelRef, close_clients, open_model
from cultural_palette.models.readout import option_in, read_options
from cultural_palette.questions import Question
from cultural_palette.settings import get_settings, use_settings
from tests.fake_server import VOCABULARY, serve
from tests.scripted import Script, ScriptedModel

META = ModelRef("scripted", "meta")
ASKED = [HumanMessage("Which?")]
TWO = Question("Which?", ("Freedom", "Equality"))
THREE = Question("Which?", ("Freedom", "Equality", "Don't know"))
MANY = Question("Which?", tuple(f"Option {n}" for n in range(30)))


@pytest.fixture
def server():
    with serve() as fake, use_settings(get_settings(base_url=fake.url, retries=0)):
        yield fake


async def read(question, **options):
    try:
        model = await open_model(ModelRef.parse("openai:meta"))
        return await read_options(model, ASKED, question, **options)
    finally:
        await close_clients()


async def test_exact_wins_where_the_model_offers_it():
    model = ScriptedModel(META, Script(option_logprobs=[math.log(0.3), math.log(0.1)]))
    reading = await read_options(model, ASKED, TWO)
    # 0.3 and 0.1 of the probability: 0.75 and 0.25 of the options, which have 0.4 of it all
    assert reading.distribution is not None
    assert reading.distribution.probabilities == pytest.approx((0.75, 0.25))
    assert (reading.method, reading.unreadable, reading.samples) == ("exact", 0, None)
    assert reading.option_mass == pytest.approx(0.4)


async def test_nothing_on_any_option_is_unreadable():
    model = ScriptedModel(META, Script(option_logprobs=[-math.inf, -math.inf]))
    reading = await read_options(model, ASKED, TWO)
    assert (reading.distribution, reading.option_mass, reading.unreadable) == (None, 0.0, 1)


async def test_top_logprobs_add_every_token_of_a_letter(server):
    server.letters = {"A": 0.5, " A": 0.1, "B": 0.2, "The": 0.1}
    reading = await read(TWO)
    # A: 0.5 + 0.1 = 0.6; B: 0.2; together 0.8; A 0.6/0.8 = 0.75
    assert reading.distribution is not None
    assert reading.distribution.probabilities == pytest.approx((0.75, 0.25))
    assert reading.option_mass == pytest.approx(0.8)
    assert (reading.method, reading.censored, reading.censored_below) == ("top_logprobs", (), None)
    (sent,) = server.requests
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 20)
    assert 1 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))


async def test_letters_outside_the_top_are_said(server):
    server.letters = {"A": 0.6, "B": 0.2, "a": 0.1, "An": 0.05}
    reading = await read(THREE)
    assert reading.distribution is not None
    assert reading.distribution.probabilities == pytest.approx((0.75, 0.25, 0))
    assert reading.censored == ("C",)
    assert reading.censored_below == pytest.approx(0.05)  # the least token that was told


async def test_no_letter_in_the_top_is_unreadable(server):
    server.letters = {"The": 0.5, "I": 0.3}
    server.replies["meta"] = "The answer"
    reading = await read(TWO)
    assert (reading.distribution, reading.option_mass, reading.unreadable) == (None, 0.0, 1)
    assert reading.replies == ("The answer",)


@pytest.mark.parametrize("fault", ["no logprobs", "silent logprobs"])
async def test_a_server_without_logprobs_is_sampled(server, fault):
    server.faults["meta"] = fault
    server.replies["meta"] = lambda body: ["A", "B. Equality", "(A)", "Well, it depends."][
        body.get("seed", 0) % 4
    ]
    reading = await read(TWO, samples=8, seed=100)
    # seeds 100 to 107: A, B, A, unreadable, twice
    assert reading.distribution is not None
    assert reading.distribution.probabilities == pytest.approx((2 / 3, 1 / 3))
    assert (reading.method, reading.samples, reading.unreadable) == ("sampling", 8, 2)
    assert reading.option_mass == pytest.approx(6 / 8)
    assert reading.replies == ("Well, it depends.",) * 2
    drawn = [body for body in server.requests if not body.get("logprobs")]
    assert sorted(body["seed"] for body in drawn) == list(range(100, 108))
    assert {body["temperature"] for body in drawn} == {1.0}
    assert {body["max_completion_tokens"] for body in drawn} == {24}
    with pytest.raises(Exception, match=r"log-?prob"):
        await read(TWO, method="top_logprobs")


async def test_a_failure_while_sampling_is_a_failure(server):
    server.faults["meta"] = "500"
    with pytest.raises(Exception, match="the engine died"):
        await read(TWO, method="sampling", samples=3)


async def test_two_letter_labels_are_sampled(server):
    server.replies["meta"] = "AC"
    reading = await read(MANY, samples=2)
    assert reading.distribution is not None
    assert (reading.method, reading.distribution.mode_index) == ("sampling", 2)
    with pytest.raises(ModelError, match="30 options have labels of two letters"):
        await read(MANY, method="top_logprobs")


async def test_exact_by_name_needs_a_model_that_offers_it(server):
    with pytest.raises(ModelError, match="gives no exact log-probabilities"):
        await read(TWO, method="exact")


# -- vLLM: exact probabilities in one token


@pytest.fixture
def vllm(server):
    server.vllm = True
    return server


async def test_vllm_is_asked_for_the_labels_tokens_themselves(vllm):
    vllm.letters = {"A": 0.05, " A": 0.01, "B": 0.02, "The": 0.8}
    reading = await read(THREE)
    # A: 0.05 + 0.01 = 0.06; B: 0.02; C: nothing; together 0.08, however rare: A 0.75, B 0.25
    assert reading.distribution is not None
    assert reading.distribution.probabilities == pytest.approx((0.75, 0.25, 0))
    assert (reading.method, reading.censored) == ("exact", ())
    assert reading.option_mass == pytest.approx(0.08)
    (sent,) = vllm.requests
    texts = [VOCABULARY[index] for index in sent["logprob_token_ids"]]
    assert sorted(texts) == sorted([" ", "A", " A", "B", " B", "C", " C"])
    assert (sent["max_tokens"], sent["temperature"], sent["logprobs"]) == (1, 0, True)
    assert reading.usage == {"input_tokens": 1, "output_tokens": 5}  # as the server tells


async def test_token_ids_are_asked_for_once(vllm):
    try:
        model = await open_model(ModelRef.parse("openai:meta"))
        await asyncio.gather(*(read_options(model, ASKED, THREE) for _ in range(5)))
        await read_options(model, ASKED, TWO)
    finally:
        await close_clients()
    assert sorted(vllm.tokenized) == sorted({" ", "A", " A", "B", " B", "C", " C"})


async def test_a_likely_space_is_followed_to_the_letter_behind_it(vllm):
    vllm.letters = {"A": 0.2, "B": 0.1, " ": 0.5}
    vllm.after = {" ": {"A": 0.2, "B": 0.8}}
    reading = await read(TWO)
    # A: 0.2 + 0.5 * 0.2 = 0.3; B: 0.1 + 0.5 * 0.8 = 0.5
    assert reading.option_mass == pytest.approx(0.8)
    assert reading.distribution is not None
    assert reading.distribution.probabilities == pytest.approx((0.375, 0.625))


async def test_two_letter_labels_are_scored_letter_by_letter(vllm):
    # AA to AZ, BA to BD. "AB" and " AC" are also tokens of their own.
    vllm.letters = {"A": 0.4, " A": 0.1, "B": 0.2, "AB": 0.05, " AC": 0.1}
    vllm.after = {"A": {"A": 0.5, "B": 0.25}, " A": {"C": 1.0}, "B": {"D": 0.5}}
    reading = await read(MANY)
    assert reading.distribution is not None and reading.method == "exact"
    # AA .4*.5 = .2; AB .4*.25 + .05 = .15; AC .1*1 + .1 = .2; BD .2*.5 = .1; together .65
    told = {label: p for label, p in zip(MANY.labels, reading.distribution.probabilities, strict=True) if p}
    assert told == pytest.approx({"AA": 0.2 / 0.65, "AB": 0.15 / 0.65, "AC": 0.2 / 0.65, "BD": 0.1 / 0.65})
    assert reading.option_mass == pytest.approx(0.65)


@pytest.mark.parametrize("lacks", ["tokenize", "ids"])
async def test_without_exact_numbers_the_top_ones_serve(vllm, lacks):
    vllm.faults[lacks] = "ignored"
    vllm.letters = {"A": 0.5, " A": 0.1, "B": 0.2, "The": 0.1}
    try:
        model = await open_model(ModelRef.parse("openai:meta"))
        first, second = [await read_options(model, ASKED, TWO) for _ in range(2)]
        with pytest.raises(ModelError, match="gives no exact log-probabilities"):
            await read_options(model, ASKED, TWO, method="exact")
    finally:
        await close_clients()
    assert first == second and first.method == "top_logprobs"
    assert first.option_mass == pytest.approx(0.8)
    asked_exactly = [body for body in vllm.requests if body.get("logprob_token_ids")]
    assert len(asked_exactly) == (1 if lacks == "ids" else 0)  # tried once, remembered


async def test_a_failure_of_the_server_is_not_taken_for_a_lack(vllm):
    vllm.faults["meta"] = "500"
    with pytest.raises(Exception, match="the engine died"):
        await read(TWO)


async def test_all_replies_unreadable():
    model = ScriptedModel(META, Script(replies={"meta": "I would rather not say."}))
    reading = await read_options(model, ASKED, TWO, samples=3)
    assert (reading.distribution, reading.option_mass, reading.unreadable) == (None, 0.0, 3)


@pytest.mark.parametrize(
    "reply",
    [
        "B",
        " b. equality".upper(),
        "(B)",
        "B.",
        "**B**",
        "B) Equality",
        "B: Equality.",
        "equality",
        '"B"',
        "B\n",
    ],
)
def test_readable(reply):
    assert option_in(reply, TWO) == 1


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "b",
        "A or B",
        "A B",
        "Both",
        "B. Freedom",
        "A good question",
        "C",
        "Equality, or freedom",
        "AB",
        "I say B",
        "B!?",
    ],
)
def test_unreadable(reply):
    assert option_in(reply, TWO) is None


def test_options_that_look_like_letters():
    question = Question("Grade?", ("B", "A"))
    assert option_in("A", question) == 0  # letters stand for options, whatever the options are called
    assert option_in("A. B", question) == 0
    assert option_in("A. A", question) is None


@given(reply=st.text())
def test_any_reply_is_an_option_or_nothing(reply):
    assert option_in(reply, THREE) in (None, 0, 1, 2)
