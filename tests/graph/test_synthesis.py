"""The synthesis graph: all communities at once, round again with the findings, failures kept apart."""

from __future__ import annotations

import pytest

from cultural_palette.cultural_map import load_map
from cultural_palette.errors import ModelError, PaletteError
from cultural_palette.graph.synthesis import build_synthesis
from cultural_palette.models import ask as ask_model
from cultural_palette.nodes.synthesis.state import STEPS, SynthesisContext, TeacherRefused

KEYS = [community.key for community in load_map("continents").communities]
CHECKS = SynthesisContext(teacher="scripted:teacher", validation="checks")
QUERY = {"query": "How do people greet?"}
GOOD = "People greet one another with care and take their time."


async def test_every_community_answers(script):
    script.replies["*"] = GOOD
    result = await build_synthesis().ainvoke(QUERY, context=CHECKS)
    assert list(result["answers"]) == KEYS
    for answer in result["answers"].values():
        assert (answer["status"], answer["response"], answer["rounds"]) == ("ok", GOOD, 1)
        assert set(answer["steps"]) == set(STEPS) and answer["teacher"] == "scripted:teacher"
        assert answer["validation"] == {"passed": True, "findings": []}
    assert len(script.asked) == 15  # three steps for each of five
    words = sum(len(m.text.split()) for _, messages in script.asked for m in messages)
    assert sum(a["usage"]["input_tokens"] for a in result["answers"].values()) == words


async def test_the_teacher_validates_too(script):
    script.replies["*"] = lambda messages: (
        '{"passed": true, "findings": []}' if '"passed"' in messages[0].text else GOOD
    )
    context = SynthesisContext(teacher="scripted:teacher")
    result = await build_synthesis().ainvoke(QUERY, context=context)
    assert all(answer["status"] == "ok" for answer in result["answers"].values())
    assert len(script.asked) == 20


async def test_a_failed_answer_goes_round_again_with_its_findings(script):
    script.replies["*"] = lambda messages: (
        GOOD if "turned down for this" in messages[1].text else f"In Kenya {GOOD}"
    )
    result = await build_synthesis().ainvoke(QUERY, context=CHECKS)
    assert {key: answer["rounds"] for key, answer in result["answers"].items()} == {
        key: 1 if key == "africa" else 2 for key in KEYS
    }
    again = [p for p in script.prompts_of("teacher") if "turned down for this" in p]
    assert again and all("'Kenya' is a country of Africa" in prompt for prompt in again)


async def test_rounds_end_and_the_answer_is_set_aside_with_its_findings(script):
    script.replies["*"] = "I'm sorry, but I can't help with that question."
    context = CHECKS.model_copy(update={"max_rounds": 2})
    result = await build_synthesis().ainvoke({**QUERY, "communities": ["asia"]}, context=context)
    assert list(result["answers"]) == ["asia"]
    answer = result["answers"]["asia"]
    assert (answer["status"], answer["rounds"]) == ("set_aside", 2)
    assert answer["validation"]["passed"] is False
    assert answer["validation"]["findings"][0]["quote"].startswith("I'm sorry")
    assert answer["response"] == "I'm sorry, but I can't help with that question."
    assert len(script.asked) == 6


@pytest.mark.parametrize(
    ("error", "status"), [(ModelError("down"), "failed"), (TeacherRefused("no"), "set_aside")]
)
async def test_one_that_fails_leaves_the_others(script, error, status):
    script.replies["*"] = GOOD

    async def ask(ref, sampling, messages, *, timeout_s, tags):
        if "asia" in tags:
            raise error
        return await ask_model(ref, sampling, messages, timeout_s=timeout_s, tags=tags)

    result = await build_synthesis(ask=ask).ainvoke(QUERY, context=CHECKS)
    answers = result["answers"]
    assert (answers["asia"]["status"], answers["asia"]["error"]) == (status, str(error))
    assert answers["asia"]["response"] is None
    assert all(answers[key]["status"] == "ok" for key in KEYS if key != "asia")


async def test_what_ends_a_run_is_not_swallowed(script):
    async def ask(*_, **__):
        raise PaletteError("stop")

    with pytest.raises(PaletteError, match="stop"):
        await build_synthesis(ask=ask).ainvoke(QUERY, context=CHECKS)


@pytest.mark.parametrize("name", ["continents", "inglehart_welzel"])
def test_any_map_and_boxes_to_read(name):
    cultural_map = load_map(name)
    graph = build_synthesis(name)
    keys = {community.key for community in cultural_map.communities}
    assert set(graph.get_graph().nodes) == keys | {"__start__", "__end__"}
    drawn = graph.get_graph(xray=1).draw_mermaid()
    for key in keys:
        assert f"subgraph {key}\n" in drawn and f"{key}\\3avalidate" in drawn
    assert "again" in drawn


async def test_every_community_of_the_nano_palette_speaks_for_itself(monkeypatch):
    asked = []

    async def ask(ref, sampling, messages, *, timeout_s, tags):
        asked.append((tags[1], str(ref), sampling.max_tokens))
        raise ModelError("not now")

    await build_synthesis(ask=ask).ainvoke(QUERY, context=SynthesisContext(teacher="embedded:nano"))
    assert sorted(asked) == [(key, f"embedded:nano/{key}", 160) for key in sorted(KEYS)]
