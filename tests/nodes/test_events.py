"""The `custom` stream: what each node tells, that it is plain JSON, and that nobody pays for it unheard."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from langgraph.runtime import Runtime

import cultural_palette as cp
from cultural_palette.answers import DraftText
from cultural_palette.graph.build import build_palette
from cultural_palette.graph.variants import build_variant
from cultural_palette.models import Blend
from cultural_palette.nodes import events
from cultural_palette.nodes.events import EVENT_TYPES, DraftDone, Note, emit, event_from, is_heard
from tests.conftest import ROOT
from tests.nodes.helpers import KEYS

MODELS = {part: f"scripted:{part}" for part in (*KEYS, "meta", "base")}
OPTIONS = {"country": "Kenya", "query": "Is tea good?", "options": ["Yes", "No"]}
FREE = {"country": "Kenya", "query": "Tea?"}


async def told(graph: Any, inputs: Any, mode: Any = "custom", **context: Any) -> list[dict[str, Any]]:
    return [
        part async for part in graph.astream(inputs, context={"models": MODELS, **context}, stream_mode=mode)
    ]


async def test_a_free_question_from_its_start_to_the_decision(script) -> None:
    script.replies |= {"asia": "tea and rice", "meta": "people drink tea"}
    sent = await told(build_palette(), FREE)
    assert sent[0] == {
        "type": "turn_started", "country": "KEN", "country_name": "Kenya", "query": "Tea?", "options": [],
        "communities": {"africa": "Africa", "america": "America", "asia": "Asia", "europe": "Europe",
                        "oceania": "Oceania"},
        "models": MODELS,
    }  # fmt: skip
    asia = [event for event in sent if event.get("community") == "asia"]
    assert asia[0] == {
        "type": "draft_started", "community": "asia", "name": "Asia", "model": "scripted:asia",
    }  # fmt: skip
    assert [e["text"] for e in asia[1:-1]] == ["tea ", "and ", "rice"]
    assert {e["type"] for e in asia[1:-1]} == {"draft_token"}
    done = dict(asia[-1])
    assert done.pop("seconds") >= 0
    assert done == {
        "type": "draft_done", "community": "asia", "text": "tea and rice", "error": None,
        "model": "scripted:asia",
    }  # fmt: skip
    after = sent[max(i for i, e in enumerate(sent) if e["type"] == "draft_done") + 1 :]
    assert [e["type"] for e in after] == [
        "account_started", *["account_token"] * 3, "account_done", *["answer_token"] * 3, "decision",
    ]  # fmt: skip
    assert after[-1]["answer"] == "people drink tea" and after[-1]["distribution"] is None
    json.dumps(sent)


async def test_a_decision_with_its_distribution_and_blend(script) -> None:
    script.option_logprobs = [-0.1, -2.4]
    script.blend = Blend.over(KEYS, [[0.2] * 5])
    sent = await told(build_palette(), OPTIONS)
    blend, decision = sent[-2:]
    assert blend == {"type": "blend", "communities": pytest.approx(dict.fromkeys(KEYS, 0.2))}
    assert decision["answer"] == "Yes"
    assert sum(decision["distribution"].values()) == pytest.approx(1)
    assert "answer_token" not in {e["type"] for e in sent}, "the letters of a readout are no text"


async def test_a_failed_draft_says_why_and_degrades(script) -> None:
    script.replies["asia"] = RuntimeError("out of memory")
    sent = await told(build_palette(), FREE)
    (failed,) = [e for e in sent if e["type"] == "draft_failed"]
    assert failed["community"] == "asia" and "out of memory" in failed["error"] and failed["text"] is None
    (degraded,) = [e for e in sent if e["type"] == "degraded"]
    assert degraded["text"].startswith("No draft for Asia: ")


async def test_unheard_no_model_streams_and_nothing_else_changes(script, monkeypatch) -> None:
    streamed = []
    from tests.scripted import ScriptedChatModel

    original = ScriptedChatModel._astream

    async def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        streamed.append(self.part)
        async for chunk in original(self, *args, **kwargs):
            yield chunk

    monkeypatch.setattr(ScriptedChatModel, "_astream", watched)
    graph = build_palette()
    quiet = (await told(graph, FREE, "values"))[-1]
    assert streamed == []
    heard = (await told(graph, FREE, ["custom", "values"]))[-1][1]
    assert set(streamed) == {*KEYS, "meta"}
    for state in (quiet, heard):
        for draft in state["drafts"].values():
            draft.pop("seconds")
        state.pop("messages")
    assert quiet == heard


async def test_beside_the_messages_stream_each_has_every_token_once(script) -> None:
    script.replies["asia"] = "tea and rice"
    sent = await told(build_palette(), FREE, ["custom", "messages"])
    ours = [e["text"] for mode, e in sent if mode == "custom" and e["type"] == "draft_token" and
            e["community"] == "asia"]  # fmt: skip
    theirs = [part[0].text for mode, part in sent if mode == "messages" and
              part[1]["langgraph_node"] == "draft_asia"]  # fmt: skip
    assert ours == ["tea ", "and ", "rice"] == [text for text in theirs if text]


def test_the_synchronous_graph_tells_the_same(script) -> None:
    sent = list(build_palette().stream(FREE, context={"models": MODELS}, stream_mode="custom"))
    assert [e["type"] for e in sent][0 :: len(sent) - 1] == ["turn_started", "decision"]
    assert sum(e["type"] == "draft_token" for e in sent) == 10


@pytest.mark.parametrize(
    ("variant", "kinds"),
    [
        ("vanilla", {"answer_token"}),
        ("self-blend", {"draft_started", "draft_token", "draft_done"}),
        ("modular-overton", {"account_started", "account_token", "account_done"}),
    ],
)
async def test_baselines_tell_what_they_do(script, variant: str, kinds: set[str]) -> None:
    sent = await told(build_variant(variant), FREE)
    assert kinds <= {e["type"] for e in sent} and sent[-1]["type"] == "decision"


async def test_a_node_of_ones_own_takes_part(script) -> None:
    async def longest(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        emit(runtime, Note("The longest draft is the account."))
        return {"regulated": max((d["text"] for d in state["drafts"].values()), key=len)}

    sent = await told(build_palette(regulate=longest), FREE)
    assert {"type": "note", "text": "The longest draft is the account."} in sent


async def test_the_front_door_streams_them_typed(script) -> None:
    seen = [event async for event in cp.stream("KEN", "Tea?", models=MODELS)]
    assert isinstance(seen[0], cp.TurnStarted) and isinstance(seen[-1], cp.Decided)
    drafts = {e.draft.community: e.draft.text for e in seen if isinstance(e, cp.DraftDone)}
    assert drafts == {key: f"{key} speaks." for key in KEYS}
    assert seen[-1].answer.answer == "meta speaks."


async def test_weights_that_are_not_read_yet_are_announced(monkeypatch) -> None:
    from cultural_palette.embedded import manifest

    monkeypatch.setattr(manifest, "IN_MEMORY", set())
    graph, seen = build_palette(), []
    async for event in graph.astream(FREE, stream_mode="custom"):
        seen.append(event)
        if event["type"] == "draft_started":
            break
    assert seen[1] == {"type": "models_loading", "models": ["embedded:nano"]}


def test_is_heard_tells_a_writer_from_none() -> None:
    assert not is_heard(Runtime())
    kept: list[Any] = []
    assert is_heard(Runtime(stream_writer=kept.append))


def test_events_go_there_and_back() -> None:
    done = DraftDone(DraftText("asia", "Tea.", None, 0.5, "openai:asia"))
    assert event_from(json.loads(json.dumps(done.as_dict()))) == done
    with pytest.raises(ValueError, match="unknown event 'tea'"):
        event_from({"type": "tea"})


def test_the_page_shows_every_event_as_it_is_sent() -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    shown = [json.loads(line) for line in page.splitlines() if line.startswith('{"type"')]
    assert {example["type"] for example in shown} == {kind.type for kind in EVENT_TYPES}
    for example in shown:
        assert event_from(example).as_dict() == example


def test_all_event_types_are_listed() -> None:
    kinds = {
        kind for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, events.RunEvent) and kind is not events.RunEvent
    }  # fmt: skip
    assert kinds == set(EVENT_TYPES) and all(fields(kind) for kind in kinds)
