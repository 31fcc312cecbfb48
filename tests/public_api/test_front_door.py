"""The front door on a scripted model: every way in, from every kind of caller."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

import cultural_palette as cp
from tests.fake_server import serve

KEYS = ("africa", "america", "asia", "europe", "oceania")
QUESTION = "Which matters more?"
OPTIONS = ["Freedom", "Equality"]
PARTS = {part: f"scripted:{part}" for part in (*KEYS, "meta", "base")}


@pytest.fixture
def script(script):
    from cultural_palette.models import Blend

    script.option_logprobs = [math.log(0.6), math.log(0.2)]
    script.blend = Blend(dict.fromkeys(KEYS, 0.2), (dict.fromkeys(KEYS, 0.2),))
    return script


def ask(**more: Any) -> cp.Answer:
    return cp.ask("Kenya", QUESTION, options=OPTIONS, models=PARTS, **more)


def test_an_answer_and_all_it_was_made_from(script):
    answer = ask(seed=3)
    assert (answer.country, answer.question, answer.options) == ("KEN", QUESTION, tuple(OPTIONS))
    assert answer.answer == "Freedom"
    assert answer.distribution == pytest.approx({"Freedom": 0.75, "Equality": 0.25})  # 0.6 and 0.2 of 0.8
    assert answer.option_mass == pytest.approx(0.8)
    assert list(answer.drafts) == list(KEYS) and answer.drafts["asia"].text == "asia speaks."
    assert answer.drafts["asia"].model == "scripted:asia"
    assert answer.account == "meta speaks." and answer.blend == dict.fromkeys(KEYS, 0.2)
    assert answer.determinism is not None and answer.determinism.startswith("Seed 3.")
    assert answer.state["regulated"] == "meta speaks."
    with pytest.raises(FrozenInstanceError):
        answer.answer = "Equality"  # type: ignore[misc]


def test_a_failed_draft_has_its_reason(script):
    script.replies["asia"] = RuntimeError("down")
    answer = ask()
    assert answer.drafts["asia"].text is None and "down" in (answer.drafts["asia"].error or "")
    assert answer.degraded


async def test_inside_a_running_loop_as_a_notebook_has(script):
    assert ask().answer == "Freedom"
    assert (await cp.aask("KEN", QUESTION, options=OPTIONS, models=PARTS)).answer == "Freedom"


def test_from_several_threads_at_once(script):
    script.seconds["*"] = 0.05
    answers: list[str | None] = []
    threads = [threading.Thread(target=lambda: answers.append(ask().answer)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["Freedom"] * 8


async def test_the_sync_door_from_within_a_node(script):
    async def regulate(state, runtime):
        return {"regulated": cp.ask("KEN", "Tea?", models=PARTS).answer}

    graph = cp.build(regulate=regulate)
    result = await graph.ainvoke({"country": "KEN", "query": "Tea?"}, context=cp.PaletteContext(models=PARTS))
    assert result["regulated"] == "meta speaks."
    again = graph.invoke({"country": "KEN", "query": "Tea?"}, context=cp.PaletteContext(models=PARTS))
    assert again["regulated"] == "meta speaks."


def test_settings_by_argument_reach_the_server_and_do_not_stay():
    with serve() as server:
        settings = cp.get_settings(base_url=server.url, api_key="sk-mine", retries=0)
        answer = cp.ask("KEN", "Tea?", settings=settings, model="openai:africa")
        assert answer.answer == "africa speaks of many things."
        assert set(server.keys) == {"sk-mine"}
    from cultural_palette.settings import current_settings

    assert current_settings().base_url is None


@pytest.mark.parametrize("vllm", [False, True])
def test_how_replies_are_drawn_reaches_the_server_role_by_role(vllm):
    """The run's own over the settings', value by value; `max_tokens` of all replies over a role's."""
    with serve() as server:
        server.vllm = vllm
        settings = cp.get_settings(
            base_url=server.url, retries=0,
            sampling={"draft": {"top_p": 0.9, "min_p": 0.1, "max_tokens": 50}, "meta": {"max_tokens": 40}},
        )  # fmt: skip
        models = {part: f"openai:{part}" for part in (*KEYS, "meta", "base")}
        run = {"draft": {"top_p": 0.8, "repetition_penalty": 1.1}, "meta": {"frequency_penalty": 0.4}}
        cp.ask("KEN", "Tea?", settings=settings, models=models, sampling=run)
        length = "max_tokens" if vllm else "max_completion_tokens"
        names = (length, "top_p", "min_p", "repetition_penalty", "frequency_penalty")
        drawn = [{name: body[name] for name in names if name in body} for body in server.sent_to("africa")]
        assert drawn == [{length: 50, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.1}]
        others = server.sent_to("meta")
        assert len(others) == 2
        for body in others:
            assert {name: body[name] for name in names if name in body} == {
                length: 40, "frequency_penalty": 0.4,
            }  # fmt: skip
        server.requests.clear()
        cp.ask("KEN", "Tea?", settings=settings, models=models, max_tokens=30)
        assert {body[length] for body in server.requests} == {30}


async def test_events_come_in_their_order_and_the_answer_last(script):
    script.replies["europe"] = RuntimeError("down")
    events = [event async for event in cp.stream("KEN", QUESTION, options=OPTIONS, models=PARTS)]
    kinds = [type(event).__name__ for event in events]
    assert kinds[-1] == "Decided" and kinds.count("Decided") == 1
    assert kinds.count("DraftDone") == 4 and kinds.count("DraftFailed") == 1
    drafted = [kind in ("DraftDone", "DraftFailed") for kind in kinds]
    assert max(i for i, is_draft in enumerate(drafted) if is_draft) < kinds.index("AccountDone")
    words = [event.text for event in events if isinstance(event, cp.DraftToken) and event.community == "asia"]
    assert "".join(words) == "asia speaks."
    (failed,) = [event.draft for event in events if isinstance(event, cp.DraftFailed)]
    assert failed.community == "europe" and "down" in (failed.error or "")
    last = events[-1]
    assert isinstance(last, cp.Decided) and last.answer.answer == "Freedom"


async def test_a_free_answer_streams_too(script):
    events = [event async for event in cp.stream("KEN", "Tea?", models=PARTS)]
    assert "".join(e.text for e in events if isinstance(e, cp.AnswerToken)) == "meta speaks."


async def test_a_batch_keeps_its_order_and_its_failures(script):
    script.replies["*"] = "Yes."
    script.seconds["*"] = 0.01
    questions = [("KEN", f"Question {n}?") for n in range(6)] + [("Atlantis", "Where?")]
    answers = await cp.batch(questions, at_once=3, errors="keep", models=PARTS)
    assert [a.question for a in answers[:6] if isinstance(a, cp.Answer)] == [q for _, q in questions[:6]]
    assert isinstance(answers[6], cp.PaletteError)
    with pytest.raises(cp.PaletteError, match="Atlantis"):
        await cp.batch(questions, models=PARTS)


async def test_a_batch_has_no_more_under_way_than_it_was_told(script):
    running, most = 0, 0

    async def regulate(state, runtime):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return {"regulated": "x"}

    from cultural_palette.graph import front_door

    graph = cp.build(regulate=regulate)
    front_door._graph.cache_clear()
    original = front_door.build_variant
    front_door.build_variant = lambda name, map: graph  # type: ignore[assignment]
    try:
        await cp.batch([("KEN", f"{n}?") for n in range(9)], at_once=3, models=PARTS)
    finally:
        front_door.build_variant = original
        front_door._graph.cache_clear()
    assert most == 3


async def test_each_question_of_a_batch_may_have_its_seed(script):
    questions = [cp.CountryQuestion("KEN", "Tea?", seed=seed) for seed in (1, 2)]
    first, second = await cp.batch(questions, models=PARTS)
    assert (first.determinism or "").startswith("Seed 1.") and (second.determinism or "").startswith(
        "Seed 2."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": "Yes"}, "options = 'Yes' is one text"),
        ({"country": "Kenia"}, "Kenia"),
        ({"question": " "}, "question"),
        ({"options": ["One"]}, "option"),
        ({"map": "nowhere"}, "nowhere"),
        ({"variant": "without-everything"}, "without-everything"),
        ({"models": {"afrika": "openai:x"}}, "Did you mean 'africa'"),
        ({"model": "opnai:x"}, "Did you mean 'openai'"),
    ],
)
def test_bad_input_is_one_clear_error(script, arguments, message):
    given = {"country": "KEN", "question": "Tea?", "models": PARTS, **arguments}
    with pytest.raises(cp.PaletteError, match=message):
        cp.ask(given.pop("country"), given.pop("question"), **given)


@pytest.mark.parametrize("at_once", [0, -1])
async def test_a_batch_of_nothing_under_way_is_refused(at_once):
    with pytest.raises(cp.UsageError, match="at least 1"):
        await cp.batch([("KEN", "?")], at_once=at_once)


def test_connections_are_closed_when_the_program_ends():
    code = (
        "import warnings; warnings.simplefilter('error', ResourceWarning)\n"
        "import sys, cultural_palette as cp\n"
        "settings = cp.get_settings(base_url=sys.argv[1], retries=0)\n"
        "print(cp.ask('KEN', 'Tea?', settings=settings, model='openai:africa').answer)\n"
    )
    for vllm in (False, True):
        with serve() as server:
            server.vllm = vllm
            done = subprocess.run(
                [sys.executable, "-X", "dev", "-c", code, server.url],
                capture_output=True,
                text=True,
                timeout=120,
            )
        assert done.returncode == 0, done.stderr
        assert "africa speaks" in done.stdout
        assert "Unclosed" not in done.stderr and "was destroyed" not in done.stderr
