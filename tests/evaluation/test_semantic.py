"""The semantic task with scripted models and a scorer that counts words."""

from __future__ import annotations

import asyncio
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
from cultural_palette.evaluation.semantic import (
    GoldAnswer,
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
    }
    assert manifest["floors"]["other-community"]["all"]["mean"] == pytest.approx(third)


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
    from cultural_palette.evaluation import nli, semantic

    command = importlib.import_module("cultural_palette.cli.evaluate.semantic")
    assert command.METHOD_NAMES == semantic.METHODS
    assert command.DEFAULT_NLI == nli.DEFAULT_NLI
