"""The semantic task with scripted models and a scorer that counts words."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cultural_palette.artifacts import RunFolder
from cultural_palette.cli import main
from cultural_palette.cultural_map import load_map
from cultural_palette.errors import ArtifactError, ModelError, UsageError
from cultural_palette.evaluation.pinned import read_items
from cultural_palette.evaluation.semantic import (
    GoldAnswer,
    NamesHidden,
    SemanticPlan,
    evaluate_semantic,
    floor_pairs,
    load_gold,
)
from cultural_palette.models import ModelRef, Sampling
from tests.scripted import Script

CONTINENTS = load_map("continents")


class Words:
    """Scores the share of the answer's words that stand in the gold answer. Dies when told to."""

    def __init__(self, dies_after: int = 1000) -> None:
        self.left = dies_after

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return [
            100 * len(set(gold.split()) & set(answer.split())) / len(answer.split()) for gold, answer in pairs
        ]

    def as_manifest(self) -> dict[str, Any]:
        return {"model": "words"}


def dataset(folder: Path, queries: int = 3, communities: Sequence[str] = ("africa", "asia")) -> Path:
    rows = [
        {"query_id": f"q{n}", "query": f"What of {n}?", "community": key, "status": "ok", "split": "test",
         "response": f"{key} says {n}"}
        for n in range(queries)
        for key in communities
    ]  # fmt: skip
    rows += [
        {**rows[0], "query_id": "trained", "split": "train"},
        {**rows[0], "query_id": "lost", "status": "set_aside", "response": None},
        {**rows[0], "query_id": "far", "community": "atlantis"},
        rows[0],
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def plan(folder: Path, **models: str) -> SemanticPlan:
    named = {method: ModelRef("scripted", name) for method, name in models.items()}
    return SemanticPlan(load_gold(folder, CONTINENTS), CONTINENTS, named, Sampling())


def test_only_held_out_answers_are_gold(tmp_path: Path) -> None:
    gold = load_gold(dataset(tmp_path), CONTINENTS)
    assert [answer.id for answer in gold.answers] == [
        f"q{n}/{key}" for n in range(3) for key in ("africa", "asia")
    ]
    assert gold.counts == {
        "rows": 10, "not held out": 1, "without an answer": 1, "other community": 1, "twice": 1, "answers": 6,
    }  # fmt: skip
    assert {answer.query_id for answer in load_gold(tmp_path, CONTINENTS, queries=2).answers} == {"q0", "q1"}


def test_jsonl_of_ones_own_is_gold_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"query": "What?", "community": "asia", "response": "This."}\n')
    (answer,) = load_gold(file, CONTINENTS).answers
    assert (answer.query, answer.text, len(answer.query_id)) == ("What?", "This.", 12)
    file.write_text('{"query": "What?"')
    with pytest.raises(UsageError, match=r"own\.jsonl:1: not JSON"):
        load_gold(file, CONTINENTS)
    file.write_text('{"query": "What?", "community": "x", "response": "This."}\n')
    with pytest.raises(UsageError, match=r"no held-out answer \(1 rows, 1 other community\)"):
        load_gold(file, CONTINENTS)
    with pytest.raises(UsageError, match="nowhere"):
        load_gold(tmp_path / "nowhere", CONTINENTS)
    with pytest.raises(ValueError, match="needs a query"):
        GoldAnswer("q", " ", "asia", "x")


def test_every_method_answers_for_every_community_and_is_scored(tmp_path: Path, script: Script) -> None:
    script.replies = {"base": "nobody knows", "merged": lambda messages: "africa says 1"}
    wanted = plan(dataset(tmp_path), prompting="base", moerges="merged")
    manifest = asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "run"))
    rows = list(RunFolder(tmp_path / "run").rows())
    assert len(rows) == 12
    # africa's gold answers are "africa says 0", "... 1", "... 2": 2/3, 3/3, 2/3 of the words
    africa = manifest["scores"]["moerges"]["africa"]
    assert africa["mean"] == pytest.approx(100 * (2 / 3 + 1 + 2 / 3) / 3)
    assert (africa["n"], africa["clusters"]) == (3, 3)
    # asia's have "says" in common, and "1" once: 1/3, 2/3, 1/3
    asia = manifest["scores"]["moerges"]["asia"]["mean"]
    assert asia == pytest.approx(100 * (1 / 3 + 2 / 3 + 1 / 3) / 3)
    assert manifest["scores"]["moerges"]["all"]["mean"] == pytest.approx((africa["mean"] + asia) / 2)
    assert manifest["scores"]["prompting"]["all"]["mean"] == 0
    assert manifest["outcomes"] == {"prompting": {"ok": 6, "failed": 0}, "moerges": {"ok": 6, "failed": 0}}
    assert manifest["kind"] == "semantic-evaluation"
    prompt = script.prompts_of("merged")[0]
    assert "Africa" in prompt and "What of 0?" in prompt


def test_wrong_answers_of_the_same_length_are_the_floor(tmp_path: Path, script: Script) -> None:
    script.replies = {"merged": "africa says 1"}
    file = tmp_path / "own.jsonl"
    rows = [
        ("q0", "africa", "one two three"), ("q0", "asia", "one four five six seven"),
        ("q1", "africa", "one eight"),
    ]  # fmt: skip
    file.write_text(
        "".join(
            json.dumps({"query_id": q, "query": f"{q}?", "community": c, "response": r}) + "\n"
            for q, c, r in rows
        )
    )
    pairs = list(floor_pairs(load_gold(file, CONTINENTS)))
    assert [(floor, gold.id, wrong) for floor, gold, wrong in pairs] == [
        ("other-community", "q0/africa", "one four five"),  # cut to three words
        ("other-query", "q0/africa", "one eight"),
        ("other-community", "q0/asia", "one two three"),
        ("other-query", "q1/africa", "one two"),
    ]  # asia has one answer, q1 one community
    manifest = asyncio.run(evaluate_semantic(plan(file, moerges="merged"), Words(), tmp_path / "run"))
    floors = json.loads((tmp_path / "run" / "floors.json").read_text())
    third, half = 100 / 3, 50
    assert floors == {
        "other-community": pytest.approx({"q0/africa": third, "q0/asia": third}),
        "other-query": pytest.approx({"q0/africa": half, "q1/africa": half}),
        "itself": {"q0/africa": 100, "q0/asia": 100, "q1/africa": 100},
    }
    assert manifest["floors"]["other-community"]["all"]["mean"] == pytest.approx(third)


def test_an_answer_is_also_held_against_the_other_communities(tmp_path: Path, script: Script) -> None:
    script.replies = {"merged": "africa says 1"}
    wanted = plan(dataset(tmp_path, communities=("africa", "asia", "europe")), moerges="merged")
    asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "run"))
    rows = {row["item"]: row for row in RunFolder(tmp_path / "run").rows()}
    # "africa says 1" shares 3 of 3 words with africa's "africa says 1", 2 of 3 with "asia says 1"
    assert rows["q1/africa"]["s_semantic"] == 100
    assert rows["q1/africa"]["s_elsewhere"] == pytest.approx(100 * 2 / 3)
    assert rows["q1/asia"]["s_semantic"] == pytest.approx(100 * 2 / 3)
    assert rows["q1/asia"]["s_elsewhere"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    wanted = plan(dataset(tmp_path, communities=("asia",)), moerges="merged")
    asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "alone"))
    assert {row["s_elsewhere"] for row in RunFolder(tmp_path / "alone").rows()} == {None}


def test_vanilla_is_not_told_the_community_and_agents_answer_for_their_own(
    tmp_path: Path, script: Script
) -> None:
    script.replies = {"*": "something"}
    gold = load_gold(dataset(tmp_path, queries=1), CONTINENTS)
    models = {
        "vanilla": ModelRef("scripted", "base"),
        "own-draft": {key: ModelRef("scripted", key) for key in ("africa", "asia")},
    }
    wanted = SemanticPlan(gold, CONTINENTS, models, Sampling())
    manifest = asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "run"))
    (bare,) = script.prompts_of("base")  # the same for both communities, so asked once
    assert "What of 0?" in bare and "Africa" not in bare and "Asia" not in bare
    assert ["Africa" in prompt for prompt in script.prompts_of("africa")] == [True]
    assert ["Asia" in prompt for prompt in script.prompts_of("asia")] == [True]
    assert manifest["models"]["own-draft"] == "africa=scripted:africa, asia=scripted:asia"


def test_a_pinned_list_names_the_items_and_kept_calls_serve_other_runs(
    tmp_path: Path, script: Script
) -> None:
    script.replies = {"*": "africa says 1"}
    folder, calls = dataset(tmp_path), tmp_path / "calls"
    first = plan(folder, moerges="merged")
    asyncio.run(evaluate_semantic(first, Words(), tmp_path / "run", calls=calls))
    asked = len(script.asked)
    pinned = read_items(tmp_path / "run" / "items.txt")
    assert pinned == tuple(answer.id for answer in first.gold.answers)
    some = load_gold(folder, CONTINENTS, items=("q2/asia", "q0/africa"))
    assert [answer.id for answer in some.answers] == ["q2/asia", "q0/africa"]
    wanted = SemanticPlan(some, CONTINENTS, first.models, Sampling())
    manifest = asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "some", calls=calls))
    assert len(script.asked) == asked
    assert manifest["calls"] == {"needed": 2, "asked": 0, "saved": 2}
    with pytest.raises(UsageError, match=r"no held-out answer 'q9/asia' \(1 of 2 items"):
        load_gold(folder, CONTINENTS, items=("q0/asia", "q9/asia"))


def test_a_run_cut_off_has_answered_the_same_items_by_every_method(tmp_path: Path, script: Script) -> None:
    script.replies = {"*": "africa says 1"}
    wanted = plan(dataset(tmp_path, queries=40), prompting="base", moerges="merged")  # 80 items, 160 answers
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(evaluate_semantic(wanted, Words(dies_after=4), tmp_path / "torn"))
    rows = list(RunFolder(tmp_path / "torn").rows())
    done = {
        method: {row["item"] for row in rows if row["method"] == method}
        for method in ("prompting", "moerges")
    }
    assert len(done["prompting"]) == 64 and done["prompting"] == done["moerges"]


def test_replies_that_share_batches_are_another_run(tmp_path: Path, script: Script) -> None:
    script.replies = {"*": "africa says 1"}
    wanted = plan(dataset(tmp_path), moerges="merged")
    asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "run"))
    together = dataclasses.replace(wanted, together=True)
    with pytest.raises(ArtifactError, match="together"):
        asyncio.run(evaluate_semantic(together, Words(), tmp_path / "run"))


def test_every_method_of_an_embedded_palette_draws_as_its_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[SemanticPlan] = []

    async def kept(plan: SemanticPlan, *_: Any, **__: Any) -> dict[str, Any]:
        plans.append(plan)
        return {}

    monkeypatch.setattr("cultural_palette.evaluation.semantic.evaluate_semantic", kept)
    command = importlib.import_module("cultural_palette.cli.evaluate.semantic")
    monkeypatch.setattr(command, "scorer_named", lambda *_: Words())
    monkeypatch.setattr("cultural_palette.models.make_ready", lambda *_: None)
    dataset(tmp_path)
    args = ["evaluate", "semantic", "--dataset", str(tmp_path), "--out", str(tmp_path / "run"), "--json"]
    args += ["--model", "embedded:small", "--together"]
    assert CliRunner().invoke(main, args).exit_code == 0
    assert CliRunner().invoke(main, [*args, "--max-tokens", "30"]).exit_code == 0
    first, second = plans
    assert first.sampling == Sampling(
        0.0, 110, 0, top_p=0.9, min_p=0.1, repetition_penalty=1.1, frequency_penalty=0.3
    )
    assert second.sampling == dataclasses.replace(first.sampling, max_tokens=30)
    assert list(first.models) == ["vanilla", "prompting", "moerges", "own-draft", "other-draft"]
    assert str(first.model_of("own-draft", "asia")) == "embedded:small/asia"
    assert str(first.model_of("other-draft", "oceania")) == "embedded:small/africa"
    assert first.together


def test_names_of_places_can_be_hidden_from_the_scorer() -> None:
    class Seen(Words):
        def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
            return [100.0 * (gold == answer) for gold, answer in pairs]

    hidden = NamesHidden(Seen(), CONTINENTS)
    pairs = [
        ("In Kenya and African towns.", "In Peru and Asian towns."),
        ("Tea in Niger.", "Tea in Nigeria, often."),
    ]
    assert Seen().score(pairs) == [0, 0]
    assert hidden.score(pairs) == [100, 0]
    assert hidden.as_manifest() == {"model": "words", "names_hidden": "that place"}


def test_a_method_that_fails_is_counted_and_never_scored(tmp_path: Path, script: Script) -> None:
    script.replies = {"base": ModelError("down"), "merged": "africa says 1"}
    wanted = plan(dataset(tmp_path), prompting="base", moerges="merged")
    manifest = asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "run"))
    assert manifest["outcomes"]["prompting"] == {"ok": 0, "failed": 6}
    assert manifest["scores"]["prompting"] == {}
    failed = [row for row in RunFolder(tmp_path / "run").rows() if row["method"] == "prompting"]
    assert {(row["s_semantic"], row["answer"], row["error"]) for row in failed} == {(None, None, "down")}


def test_a_run_that_was_stopped_goes_on_without_asking_again(tmp_path: Path, script: Script) -> None:
    script.replies = {"*": "africa says 1"}
    folder = dataset(tmp_path, queries=20)  # 80 answers: three rounds
    wanted = plan(folder, prompting="base", moerges="merged")
    whole = asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "whole"))
    asked = len(script.asked)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(evaluate_semantic(wanted, Words(dies_after=1), tmp_path / "torn"))
    assert len(list(RunFolder(tmp_path / "torn").rows())) == 32
    again = asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "torn"))
    assert len(script.asked) == 2 * asked  # what was answered and not yet scored came from the store

    def rows(name: str) -> list[dict[str, Any]]:
        return [{**row, "seconds": 0} for row in RunFolder(tmp_path / name).rows()]

    assert rows("torn") == rows("whole")
    assert again["scores"] == whole["scores"]
    assert again["calls"] == whole["calls"] == {"needed": 80, "asked": asked, "saved": 80 - asked}
    assert asyncio.run(evaluate_semantic(wanted, Words(), tmp_path / "torn")) == again
    with pytest.raises(ArtifactError, match="another config"):
        asyncio.run(evaluate_semantic(plan(folder, prompting="base"), Words(), tmp_path / "torn"))


def test_the_command_names_methods_models_and_intervals(
    tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.replies = {"*": "africa says 1"}
    monkeypatch.setattr(
        "cultural_palette.evaluation.nli.load_entailment", lambda name, revision=None: Words()
    )
    dataset(tmp_path)
    args = ["evaluate", "semantic", "--dataset", str(tmp_path), "--out", str(tmp_path / "run")]
    refs = ["--model-of", "joint=scripted:joint", "--model-of", "prompting=scripted:base"]
    result = CliRunner().invoke(main, [*args, *refs, "--methods", "prompting,joint"])
    assert result.exit_code == 0, result.output
    assert "prompting" in result.stdout and "joint" in result.stdout and "moerges" not in result.stdout
    result = CliRunner().invoke(main, [*args, *refs, "--methods", "prompting,joint", "--json"])
    assert json.loads(result.stdout)["models"] == {"prompting": "scripted:base", "joint": "scripted:joint"}
    result = CliRunner().invoke(main, [*args, *refs, "--methods", "ties"])
    assert result.exit_code == 2
    assert "--model-of ties=REF" in result.stderr


def test_method_names_of_the_command_are_the_tasks() -> None:
    from cultural_palette.evaluation import nli, semantic, standin

    command = importlib.import_module("cultural_palette.cli.evaluate.semantic")
    assert command.METHOD_NAMES == semantic.METHODS
    assert command.DEFAULT_NLI == nli.DEFAULT_NLI
    assert command.STAND_IN == standin.NAME
