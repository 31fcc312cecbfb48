"""The distribution over options: exact, from a server's top tokens, or counted; never guessed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from palette.errors import ModelError
from palette.models import ModelRef, Sampling, close_clients, open_model
from palette.questions import Question
from palette.readout import option_in, read_options
from palette.settings import get_settings, use_settings
from tests.fake_server import serve
from tests.scripted import Script, scripted_model

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
        model = await open_model(ModelRef.parse("openai:meta"), Sampling())
        return await read_options(model, ASKED, question, **options)
    finally:
        await close_clients()


async def test_exact_wins_where_the_model_offers_it():
    model = scripted_model(Script(option_logprobs=[math.log(0.3), math.log(0.1)]), "meta")
    reading = await read_options(model, ASKED, TWO)
    # 0.3 and 0.1 of the probability: 0.75 and 0.25 of the options, which have 0.4 of it all
    assert reading.distribution is not None
    assert reading.distribution.probabilities == pytest.approx((0.75, 0.25))
    assert (reading.method, reading.unreadable, reading.samples) == ("exact", 0, None)
    assert reading.option_mass == pytest.approx(0.4)


async def test_nothing_on_any_option_is_unreadable():
    model = scripted_model(Script(option_logprobs=[-math.inf, -math.inf]), "meta")
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


async def test_all_replies_unreadable():
    model = scripted_model(Script(replies={"meta": "I would rather not say."}), "meta")
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
