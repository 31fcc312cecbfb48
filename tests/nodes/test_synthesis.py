"""The synthesis nodes: prompts sent, updates returned, and replies that can not be used."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest
from langchain_core.messages import AIMessage

from cultural_palette.cultural_map import load_map
from cultural_palette.models import Reply
from cultural_palette.nodes.synthesis.aggregate import aggregate
from cultural_palette.nodes.synthesis.checks import check_text
from cultural_palette.nodes.synthesis.feedback import feedback
from cultural_palette.nodes.synthesis.respond import respond
from cultural_palette.nodes.synthesis.state import KINDS, SynthesisContext
from cultural_palette.nodes.synthesis.validate import READINGS, Verdict, read_verdict, validate
from cultural_palette.nodes.synthesis.voice import Voice
from cultural_palette.prompts import fields_of, names, render, template_of

CONTINENTS = load_map("continents")
ASIA = CONTINENTS.community("asia")
PASSED = '{"passed": true, "findings": []}'
GOOD = "People often bow, or put their hands together, and the young begin."


class Ask:
    """Says each reply in turn, and remembers prompts and samplings."""

    def __init__(self, *replies: str, finish: str = "stop") -> None:
        self.replies, self.finish = list(replies), finish
        self.prompts, self.samplings = [], []

    async def __call__(self, ref, sampling, messages, *, timeout_s, tags=()):
        self.prompts.append("\n".join(message.text for message in messages))
        self.samplings.append(sampling)
        text = self.replies.pop(0)
        message = AIMessage(text, response_metadata={"finish_reason": self.finish})
        return Reply(text, 0.1, message, {"input_tokens": 10, "output_tokens": 2})


def runtime(**context):
    return SimpleNamespace(context=SynthesisContext(**context))


def state(**more):
    return {"query": "How do people greet?", "teacher": "openai:t", "round": 1, **more}


def steps(answer=GOOD):
    return {"respond": "Base.", "feedback": "More.", "aggregate": answer}


HASHES = {
    "respond": "278ccc031b10ceca",
    "feedback": "71d402a7ba3f8822",
    "aggregate": "cedf0513cb1d5ccf",
    "validate": "ceff965a3a653325",
}
FIELDS = dict(
    community="Asia", question="Is tea good?", response="Yes.", feedback="Say why.", others="Africa, Europe"
)


@pytest.mark.parametrize("name", ["respond", "feedback", "aggregate", "validate"])
def test_prompts_are_filled_and_say_whose_view_it_is(name):
    assert f"synthesis/{name}" in names("synthesis")
    used = fields_of(f"synthesis/{name}")
    fields = {field: FIELDS.get(field, "") for field in used}
    system, user = render(f"synthesis/{name}", **fields)
    assert "Asia" in system.text and user.text.startswith("Question: Is tea good?")
    assert "{" not in system.text.replace('{"', "").replace("[{", "")
    assert not user.text.endswith("\n")


def test_prompts_are_held_word_for_word():
    """A dataset's manifest names its prompts by these: change one, and the dataset is another."""
    texts = {name: template_of(f"synthesis/{name}").encode() for name in HASHES}
    assert {name: hashlib.sha256(text).hexdigest()[:16] for name, text in texts.items()} == HASHES
    assert set(names("synthesis")) == {f"synthesis/{name}" for name in HASHES}


def test_the_feedback_prompt_speaks_of_this_community_in_all_six_dimensions():
    dimensions = ("PDI", "IDV", "MAS", "UAI", "LTO", "IVR")
    lines = {
        d: line for line in template_of("synthesis/feedback").splitlines() for d in dimensions if d in line
    }
    assert set(lines) == set(dimensions)
    assert all("{community}" in line or d in ("LTO", "IVR") for d, line in lines.items())
    assert not any(c.name in template_of("synthesis/feedback") for c in CONTINENTS.communities)


async def test_respond_begins_a_round_and_hears_what_was_wrong():
    ask = Ask("Bow.", "Bow deep.")
    voice = Voice(ASIA, CONTINENTS, ask)
    first = await respond({"query": "How?", "teacher": "openai:t"}, runtime(seed=5), voice=voice)
    assert (first["round"], first["respond"], first["aggregate"]) == (1, "Bow.", None)
    findings = [{"kind": "stereotype", "detail": "All of them.", "quote": "they all"}]
    again = await respond(state(findings=findings), runtime(seed=5), voice=voice)
    assert again["round"] == 2
    assert "turned down" not in ask.prompts[0]
    assert '- stereotype: All of them. ("they all")' in ask.prompts[1]
    assert [sampling.seed for sampling in ask.samplings] == [5, 6]  # a round never repeats a call


async def test_feedback_and_aggregate_pass_on_what_came_before():
    ask = Ask("More of Asia.", GOOD)
    voice = Voice(ASIA, CONTINENTS, ask)
    reviewed = await feedback(state(respond="Bow."), runtime(), voice=voice)
    assert reviewed["feedback"] == "More of Asia."
    assert "Answer: Bow." in ask.prompts[0] and "Africa, America, Europe, Oceania" in ask.prompts[0]
    done = await aggregate(state(respond="Bow.", **reviewed), runtime(), voice=voice)
    assert (done["aggregate"], done["cut"]) == (GOOD, False)
    assert "Review: More of Asia." in ask.prompts[1]
    assert done["usage"] == {"input_tokens": 10, "output_tokens": 2}


async def test_nothing_is_asked_on_an_empty_step():
    voice = Voice(ASIA, CONTINENTS, Ask())
    assert await feedback(state(respond=None), runtime(), voice=voice) == {}
    assert await aggregate(state(respond="Bow.", feedback=None), runtime(), voice=voice) == {}
    done = await validate(state(respond="Bow.", feedback=None, aggregate=None), runtime(), voice=voice)
    assert done["findings"][0]["kind"] == "format" and "'feedback' was empty" in done["findings"][0]["detail"]
    assert done["passed"] is False


async def test_a_cut_answer_is_a_finding():
    ask = Ask(GOOD, finish="length")
    voice = Voice(ASIA, CONTINENTS, ask)
    done = await aggregate(state(respond="Bow.", feedback="More."), runtime(), voice=voice)
    checked = await validate(state(**steps()) | done, runtime(), voice=voice)
    assert "broke off" in checked["findings"][0]["detail"]


async def test_the_teacher_judges_and_its_findings_come_back():
    fault = {"kind": "stereotype", "detail": "As if all did.", "quote": "People"}
    said = json.dumps({"passed": False, "findings": [fault]})
    ask = Ask(said)
    done = await validate(state(**steps()), runtime(), voice=Voice(ASIA, CONTINENTS, ask))
    assert done["findings"] == [fault]
    assert done["passed"] is False and ask.samplings[0].temperature == 0


async def test_a_verdict_that_can_not_be_read_is_asked_again_and_never_passes():
    ask = Ask('{"passed": tru', PASSED)
    voice = Voice(ASIA, CONTINENTS, ask)
    done = await validate(state(**steps()), runtime(), voice=voice)
    assert done["passed"] is True and done["usage"]["input_tokens"] == 20
    assert "could not be read (attempt 1: " in ask.prompts[1]

    ask = Ask(*["I think it is fine."] * READINGS)
    done = await validate(state(**steps()), runtime(), voice=Voice(ASIA, CONTINENTS, ask))
    assert done["passed"] is False and done["findings"][0]["kind"] == "format"
    assert len(set(ask.prompts)) == READINGS  # each a call of its own, or the kept one would come back


async def test_checks_alone_ask_nobody():
    voice = Voice(ASIA, CONTINENTS, Ask())
    done = await validate(state(**steps()), runtime(validation="checks"), voice=voice)
    assert done["passed"] is True
    nano = state(**steps()) | {"teacher": "embedded:nano/asia"}
    assert (await validate(nano, runtime(), voice=voice))["passed"] is True
    with pytest.raises(IndexError):  # an embedded teacher judges when told to
        await validate(nano, runtime(validation="teacher"), voice=voice)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        "[]",
        "{}",
        '{"passed": true}',
        '{"passed": true, "findings": [], "more": 1}',
        '{"passed": "true", "findings": []}',
        '{"passed": false, "findings": []}',
        '{"passed": true, "findings": [{"kind": "safety", "detail": "x", "quote": null}]}',
        '{"passed": false, "findings": [{"kind": "grammar", "detail": "x", "quote": null}]}',
        '{"passed": false, "findings": [{"kind": "safety", "detail": "", "quote": null}]}',
        PASSED[:-1],
        PASSED + " Good.",
    ],
)
def test_what_is_no_verdict(text):
    assert isinstance(read_verdict(text), str)


@pytest.mark.parametrize("text", [PASSED, f" {PASSED}\n", f"```json\n{PASSED}\n```", f"```\n{PASSED}\n```"])
def test_what_is_a_verdict(text):
    assert read_verdict(text) == Verdict(passed=True, findings=[])


def found(answer, query="How do people greet?", community="asia", cultural_map=CONTINENTS):
    findings = check_text(query, answer, cultural_map.community(community), cultural_map)
    assert all(finding["kind"] in KINDS for finding in findings)
    return [finding["kind"] for finding in findings]


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        (GOOD, []),
        ("B", ["format"]),
        ("word " * 401, ["format"]),
        ("I'm sorry, but I can't help with that question today.", ["format"]),
        ("As an AI language model, I have no culture of my own.", ["format"]),
        ("People bow. As an AI, I can not say more about them.", ["format"]),
        ("<think>Hmm, what do they do?</think> People bow to their elders.", ["format"]),
        ("Review: people bow to their elders and smile at all others.", ["format"]),
        ("I cannot stress enough", ["format", "format"]),  # a refusal's beginning, and too short
        ("向长辈鞠躬是很常见的礼节,年轻人通常会先行礼以示尊重。", []),  # no spaces between words
        ("An invitation may take a season; bring something you made yourself, says grandmother.", ["format"]),
        ("In Kenya and in Japan people greet one another with time.", ["foreign_marker"]),
        ("People of Africa and of Europe greet one another with time.", ["foreign_marker"] * 2),
        ("A turkey is eaten in the bush by many guests at once.", []),
    ],
)
def test_plain_checks(answer, kinds):
    assert found(answer) == kinds


def test_a_name_that_the_question_brings_up_is_no_foreign_marker():
    answer = "In Kenya people shake hands, and in India they may fold them."
    assert found(answer, query="How do people greet in kenya?") == []
    (finding,) = check_text("How?", answer, ASIA, CONTINENTS)
    assert finding["quote"].startswith("In Kenya people shake") and "a country of Africa" in finding["detail"]


@pytest.mark.parametrize(
    ("community", "answer", "kinds"),
    [
        ("oceania", "In Papua New Guinea people share the garden with guests.", []),
        ("africa", "In Papua New Guinea people share the garden with guests.", ["foreign_marker"]),
        ("africa", "In Guinea people share the rice with all of their guests.", []),
        ("america", "African American families share the meal after the service.", []),
        ("europe", "African American families share the meal after the service.", ["foreign_marker"] * 2),
    ],
)
def test_longer_names_and_double_ones(community, answer, kinds):
    assert found(answer, community=community) == kinds


def test_any_map_will_do():
    welzel = load_map("inglehart_welzel")
    assert found(
        "People in Sweden may greet with a nod only.", community="confucian", cultural_map=welzel
    ) == ["foreign_marker"]
