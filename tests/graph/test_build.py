"""The graph as a whole, with a scripted model: order, parallelism, threads, lost drafts, cancelled runs,
streams.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from cultural_palette.cultural_map import Community, CulturalMap, load_map
from cultural_palette.errors import TooFewDrafts, UnknownCountry
from cultural_palette.graph.build import build_palette
from cultural_palette.graph.variants import build_variant
from cultural_palette.models import Blend
from cultural_palette.nodes.knobs import PaletteContext

KEYS = ("africa", "america", "asia", "europe", "oceania")
PARTS = {part: f"scripted:{part}" for part in (*KEYS, "meta", "base")}
ASKED: dict[str, Any] = {
    "country": "NZL",
    "query": "Freedom or equality?",
    "options": ["Freedom", "Equality"],
}


def context(**more: Any) -> PaletteContext:
    return PaletteContext(**{"models": PARTS, **more})


def thread(name: str = "t") -> Any:
    return {"configurable": {"thread_id": name}}


@pytest.fixture(autouse=True)
def _reading(script):
    script.option_logprobs = [math.log(0.6), math.log(0.2)]
    script.blend = Blend(dict.fromkeys(KEYS, 0.2), (dict.fromkeys(KEYS, 0.2),))


async def test_a_question_with_options(script):
    result = await build_palette().ainvoke(ASKED, context=context())
    assert list(result) == [
        "country", "query", "options", "communities", "chosen", "drafts", "memory", "regulated", "answer",
        "distribution", "option_mass", "readout", "blend", "blend_layers", "determinism", "degraded", "notes",
        "usage", "messages",
    ]  # fmt: skip
    assert (result["country"], result["query"], result["options"]) == (
        "NZL",
        ASKED["query"],
        ASKED["options"],
    )
    assert tuple(result["drafts"]) == KEYS
    assert result["memory"].startswith("Africa: africa speaks.\n\nAmerica: america speaks.")
    assert (result["regulated"], result["answer"]) == ("meta speaks.", "Freedom")
    assert result["distribution"] == pytest.approx({"Freedom": 0.75, "Equality": 0.25})
    assert result["option_mass"] == pytest.approx(0.8)
    assert sum(result["blend"].values()) == pytest.approx(1)
    assert (result["degraded"], result["notes"]) == ([], [])
    by_part = result["usage"]["by_part"]
    assert set(by_part) == {*KEYS, "meta"}
    assert (
        result["usage"]["output_tokens"] == sum(tokens["output_tokens"] for tokens in by_part.values()) == 12
    )
    assert [m.type for m in result["messages"]] == ["human", "ai"]
    assert [part for part, _ in script.asked][-2:] == ["meta", "meta"]


async def test_drafts_run_side_by_side_and_keep_the_maps_order(script):
    script.seconds = {key: 0.3 - 0.05 * place for place, key in enumerate(KEYS)}
    start = time.perf_counter()
    result = await build_palette().ainvoke(ASKED, context=context())
    assert time.perf_counter() - start < 0.9  # one after the other: 1.0 s and more
    assert tuple(result["drafts"]) == KEYS


async def test_order_is_the_maps_own():
    zebra = CulturalMap(
        "z",
        "Z",
        (Community("zebra", "Zebra", "#000000", ("NZL",)), Community("ape", "Ape", "#111111", ("KEN",))),
    )
    result = await build_palette(zebra).ainvoke(ASKED, context=PaletteContext(model="scripted:x"))
    assert tuple(result["drafts"]) == tuple(result["communities"]) == ("zebra", "ape")
    assert result["memory"] == "Zebra: x speaks.\n\nApe: x speaks."


async def test_another_map_from_its_name():
    graph = build_palette("inglehart_welzel")
    result = await graph.ainvoke(ASKED, context=PaletteContext(model="scripted:x"))
    assert tuple(result["drafts"]) == tuple(c.key for c in load_map("inglehart_welzel").communities)
    assert "by prompt alone" in result["notes"][0]


async def test_lost_drafts_are_recorded_and_the_answer_is_degraded(script):
    script.replies["asia"] = RuntimeError("down")
    script.seconds["europe"] = 9
    result = await build_palette().ainvoke(ASKED, context=context(draft_timeout_s=0.2))
    assert result["answer"] == "Freedom"
    assert tuple(result["drafts"]) == KEYS
    assert result["drafts"]["asia"]["text"] is None
    assert result["degraded"] == [
        "No draft for Asia: scripted:asia failed: RuntimeError: down.",
        "No draft for Europe: scripted:europe did not answer within 0.2 s.",
    ]


async def test_too_few_drafts_end_the_run(script):
    script.replies = dict.fromkeys(KEYS[:3], RuntimeError("down")) | {}
    with pytest.raises(TooFewDrafts, match="Only 2 of 5 drafts came, and 3 are needed"):
        await build_palette().ainvoke(ASKED, context=context())
    assert (await build_palette().ainvoke(ASKED, context=context(min_drafts=1)))["answer"] == "Freedom"


async def test_bad_input_asks_no_model(script):
    with pytest.raises(UnknownCountry):
        await build_palette().ainvoke({"country": "Atlantis", "query": "?"}, context=context())
    assert script.asked == []


async def test_what_was_sent_where(script):
    await build_palette().ainvoke(ASKED, context=context())
    assert script.prompts_of("oceania")[0].startswith("You speak for the cultures of Oceania.")
    regulated, decided = script.prompts_of("meta")
    assert "Africa: africa speaks." in regulated and "Account: meta speaks." in decided
    assert "A. Freedom\nB. Equality" in decided


# -- threads


async def test_a_second_turn_remembers_and_starts_clean(script):
    graph = build_palette(checkpointer=InMemorySaver())
    script.replies["asia"] = RuntimeError("down")
    first = await graph.ainvoke(ASKED, thread(), context=context())
    assert first["degraded"]
    del script.replies["asia"]
    second = await graph.ainvoke({"query": "And what do they eat?"}, thread(), context=context())
    assert second["memory"].startswith(
        "Earlier question: Freedom or equality?\nEarlier answer: Freedom\n\nAfrica: africa speaks."
    )
    assert second["country"] == "NZL"  # the country stays
    assert (second["options"], second["distribution"], second["option_mass"]) == (
        [],
        None,
        None,
    )  # options do not
    assert (second["degraded"], second["answer"]) == ([], "meta speaks.")
    assert second["usage"]["by_part"]["asia"]["output_tokens"] == 2  # this turn's, not both turns'
    assert [m.text for m in second["messages"]] == [
        "Freedom or equality?", "Freedom", "And what do they eat?", "meta speaks.",
    ]  # fmt: skip


async def test_the_same_options_again_are_asked_again():
    graph = build_palette(checkpointer=InMemorySaver())
    await graph.ainvoke(ASKED, thread(), context=context())
    second = await graph.ainvoke({**ASKED, "query": "And at work?"}, thread(), context=context())
    assert second["options"] == ASKED["options"] and second["distribution"]


async def test_a_chat(script):
    graph = build_palette(checkpointer=InMemorySaver())
    await graph.ainvoke({"country": "KEN", "messages": [HumanMessage("Tea?")]}, thread(), context=context())
    result = await graph.ainvoke({"messages": [("user", "Coffee?")]}, thread(), context=context())
    assert [m.text for m in result["messages"]] == ["Tea?", "meta speaks.", "Coffee?", "meta speaks."]
    assert (result["query"], result["country"]) == ("Coffee?", "KEN")
    assert result["memory"].startswith("Earlier question: Tea?\nEarlier answer: meta speaks.\n\nAfrica:")
    moved = await graph.ainvoke({"country": "Japan", "query": "And there?"}, thread(), context=context())
    assert moved["country"] == "JPN"


async def test_threads_do_not_mix():
    graph = build_palette(checkpointer=InMemorySaver())
    await graph.ainvoke(ASKED, thread("one"), context=context())
    other = await graph.ainvoke(ASKED, thread("two"), context=context())
    assert "Earlier" not in other["memory"]


@pytest.mark.parametrize("slow", ["africa", "meta"])
async def test_a_cancelled_run_leaves_the_thread_usable(script, slow):
    graph = build_palette(checkpointer=InMemorySaver())
    await graph.ainvoke(ASKED, thread(), context=context())
    script.seconds[slow] = 9
    question = {"messages": [HumanMessage("Never answered?")]}
    task = asyncio.create_task(graph.ainvoke(question, thread(), context=context()))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    script.seconds = {}
    result = await graph.ainvoke({"query": "What now?"}, thread(), context=context())
    assert result["query"] == "What now?" and result["answer"] == "meta speaks."
    assert "Never answered?" not in result["memory"] and "Earlier question: Freedom" in result["memory"]
    assert result["degraded"] == [] and tuple(result["drafts"]) == KEYS


async def test_a_failed_run_resumes_with_the_drafts_it_has(script):
    graph = build_palette(checkpointer=InMemorySaver())
    script.replies["meta"] = RuntimeError("down")
    with pytest.raises(Exception, match="scripted:meta failed"):
        await graph.ainvoke(ASKED, thread(), context=context())
    del script.replies["meta"]
    before = len([part for part, _ in script.asked if part in KEYS])
    result = await graph.ainvoke(None, thread(), context=context())
    assert len([part for part, _ in script.asked if part in KEYS]) == before  # no draft was made again
    assert (result["answer"], result["query"], result["options"]) == (
        "Freedom",
        ASKED["query"],
        ASKED["options"],
    )


# -- streams and loops


async def test_tokens_carry_their_node_and_community(script):
    script.replies = {part: f"{part} says so" for part in PARTS}
    written: dict[str, str] = {}
    communities = {}
    free = {"country": "KEN", "query": "Tea?"}
    async for message, metadata in build_palette().astream(free, context=context(), stream_mode="messages"):
        if isinstance(message, AIMessageChunk):
            node = metadata["langgraph_node"]
            written[node] = written.get(node, "") + message.text
            communities[node] = metadata.get("community")
    assert written == {f"draft_{key}": f"{key} says so" for key in KEYS} | {
        "regulate": "meta says so",
        "decide": "meta says so",
    }
    assert communities == {f"draft_{key}": key for key in KEYS} | {"regulate": None, "decide": None}


async def test_the_streamed_answer_is_not_sent_twice():
    ids = []
    free = {"country": "KEN", "query": "Tea?"}
    async for message, metadata in build_palette().astream(free, context=context(), stream_mode="messages"):
        if metadata["langgraph_node"] == "decide" and message.type != "human":
            ids.append((message.id, isinstance(message, AIMessageChunk)))
    assert len({id_ for id_, _ in ids}) == 1 and all(chunk for _, chunk in ids)


async def test_sampled_letters_are_not_streamed(script):
    script.option_logprobs = None
    script.replies["meta"] = "A"
    seen = []
    stream = build_palette().astream(ASKED, context=context(readout_samples=4), stream_mode="messages")
    async for message, metadata in stream:
        if metadata["langgraph_node"] == "decide" and isinstance(message, AIMessageChunk):
            seen.append(message.text)
    assert seen == []


async def test_many_runs_at_once_do_not_mix():
    graph = build_palette()
    runs = [
        graph.ainvoke({"country": c, "query": f"{c}?"}, context=context())
        for c in ("KEN", "USA", "JPN", "FRA") * 5
    ]
    results = await asyncio.gather(*runs)
    assert [(r["country"], r["query"]) for r in results] == [
        (c, f"{c}?") for c in ("KEN", "USA", "JPN", "FRA") * 5
    ]


def test_one_graph_serves_several_event_loops():
    graph = build_palette()
    for _ in range(3):
        assert asyncio.run(graph.ainvoke(ASKED, context=context()))["answer"] == "Freedom"


# -- wiring


def test_edges():
    drawn = build_palette().get_graph()
    edges = {(edge.source, edge.target) for edge in drawn.edges}
    assert edges == {
        ("__start__", "intake"), *(("intake", f"draft_{key}") for key in KEYS),
        *((f"draft_{key}", "memory") for key in KEYS), ("memory", "regulate"),
        ("regulate", "decide"), ("decide", "__end__"),
    }  # fmt: skip
    assert "draft_africa" in drawn.draw_mermaid()


async def test_a_node_can_be_swapped(script):
    async def shout(state, runtime, *, community):
        return {
            "drafts": {
                community.key: {"text": community.name.upper(), "seconds": 0, "error": None, "model": "none"}
            }
        }

    async def first(state, runtime):
        return {"answer": next(iter(state["drafts"].values()))["text"]}

    result = await build_palette(draft=shout, regulate=None, decide=first).ainvoke(ASKED, context=context())
    assert result["answer"] == "AFRICA" and script.asked == []
    assert result["memory"].startswith("Africa: AFRICA\n\nAmerica: AMERICA")


async def test_without_draft(script):
    result = await build_variant("without-draft").ainvoke(ASKED, context=context())
    assert (result["drafts"], result["memory"], result["answer"]) == ({}, None, "Freedom")
    assert [part for part, _ in script.asked] == ["meta", "meta"]
    assert script.prompts_of("meta")[0].startswith("You know New Zealand well. Write one short account")


async def test_without_self_regulation(script):
    result = await build_variant("without-self-regulation").ainvoke(ASKED, context=context())
    assert result["regulated"] is None and result["answer"] == "Freedom"
    assert "Account: Africa: africa speaks." in script.prompts_of("meta")[0]


async def test_without_moerges(script):
    result = await build_variant("without-moerges").ainvoke(ASKED, context=context())
    assert (result["regulated"], result["answer"], result["blend"]) == ("base speaks.", "Freedom", None)
    assert script.prompts_of("meta") == []


# -- methods of one community, and baselines: the same builder, other nodes


def test_a_route_leads_to_one_draft():
    drawn = build_variant("own-draft").get_graph()
    edges = {(edge.source, edge.target, edge.conditional) for edge in drawn.edges}
    assert edges == {
        ("__start__", "intake", False), ("intake", "route", False),
        *(("route", f"draft_{key}", True) for key in KEYS),
        *((f"draft_{key}", "memory", False) for key in KEYS),
        ("memory", "decide", False), ("decide", "__end__", False),
    }  # fmt: skip


async def test_only_the_chosen_community_drafts(script):
    result = await build_variant("own-draft").ainvoke(ASKED, context=context())
    assert [part for part, _ in script.asked] == ["oceania", "base"]
    assert (result["chosen"], list(result["drafts"]), result["answer"]) == ("oceania", ["oceania"], "Freedom")
    assert "Account: Oceania: oceania speaks." in script.prompts_of("base")[0]
    settled = await build_variant("single-draft:asia").ainvoke(ASKED, context=context())
    assert (settled["chosen"], list(settled["drafts"])) == ("asia", ["asia"])


async def test_the_only_draft_lost_is_too_few(script):
    script.replies["oceania"] = RuntimeError("down")
    with pytest.raises(TooFewDrafts, match="Only 0 of 1 drafts came"):
        await build_variant("own-draft").ainvoke(ASKED, context=context())


async def test_moe_is_routed_and_the_community_answers(script):
    script.option_logprobs = None
    script.replies = {"base": "C", "asia": "B"}
    result = await build_variant("moe").ainvoke(ASKED, context=context(readout_samples=2))
    assert {part for part, _ in script.asked} == {"base", "asia"}
    assert (result["chosen"], result["answer"], result["drafts"]) == ("asia", "Equality", {})


async def test_self_blend_blends_samples(script):
    result = await build_variant("self-blend").ainvoke(ASKED, context=context())
    assert [part for part, _ in script.asked] == ["base"] * 5 + ["meta"] * 2
    assert result["memory"].startswith("sample 1: base speaks.\n\nsample 2: base speaks.")
    assert result["regulated"] == "meta speaks." and list(result["drafts"])[-1] == "sample 5"


async def test_what_two_methods_share_is_the_same_prompt(script):
    """Given one comment, the base model is asked alike by three methods: the call store asks it once."""
    for name in ("modular-distributional", "single-draft:oceania", "own-draft"):
        await build_variant(name).ainvoke(ASKED, context=context())
    asked = [prompt for prompt in script.prompts_of("base") if "Account: Oceania:" in prompt]
    assert len(asked) == 3 and len(set(asked)) == 1
