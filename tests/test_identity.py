"""A folder is taken for a run by content only: of data, maps, weights, own code, and the settings that count.

Begun or finished, the same; a path is no part of it. For `palette train` this stands in
tests/training/test_train.py, for the task adapter in tests/training/test_task.py. `palette report` writes
anew each time; `dataset build`, `review`, `merge` refuse a result that is there, whatever of (last test).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cultural_palette.artifacts import MANIFEST, RunFolder
from cultural_palette.cli import main
from cultural_palette.cultural_map import load_map
from cultural_palette.embedded.manifest import BUILT_IN, revision_of
from cultural_palette.errors import ArtifactError, SettingsError
from cultural_palette.evaluation.run import evaluate
from cultural_palette.evaluation.semantic import SemanticPlan, evaluate_semantic, load_gold
from cultural_palette.fitted_blends import write_blends
from cultural_palette.models import ModelRef, Sampling
from cultural_palette.training.synthesis.on_cluster import finished_manifest
from tests.evaluation.made_up import plan
from tests.evaluation.test_semantic import CONTINENTS, Words, dataset
from tests.fake_server import FakeServer, serve
from tests.training.test_synthesis_run import honest, spec

MAPS = Path(str(load_map.__globals__["FOLDER"]))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve() as fake:
        fake.models, fake.replies["teacher"], fake.replies["other"] = ("teacher", "other"), honest, honest
        yield fake


def _synthesize(folder: Path, url: str, *more: str) -> Any:
    flags = ["--queries", str(folder / "q.csv"), "--map", str(folder / "m.yaml"), "--limit", "1"]
    flags += ["--teacher", f"openai:teacher@{url}", "--out", str(folder / "run")]
    return CliRunner().invoke(main, ["synthesize", *flags, *more], catch_exceptions=False)


def _rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


Change = Callable[[Path], list[str]]
SYNTHESIS: dict[str, Change] = {
    "queries.sha256": lambda f: _rewrite(f / "q.csv", "tea", "milk") or [],
    "queries.greetings_left_out": lambda f: ["--keep-greetings"],
    "map_sha256": lambda f: _rewrite(f / "m.yaml", "adjective: African", "adjective: Afric") or [],
    "limit": lambda f: ["--limit", "2"],
    "seed": lambda f: ["--seed", "7"],
    "temperature": lambda f: ["--temperature", "0.1"],
    "max_tokens": lambda f: ["--max-tokens", "17"],
    "max_rounds": lambda f: ["--max-rounds", "1"],
    "validation": lambda f: ["--validation", "checks"],
}


@pytest.mark.parametrize("state", ["begun", "finished"])
def test_a_synthesis_is_its_queries_map_teacher_and_settings(
    server: FakeServer, tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q.csv").write_text("query\nIs tea good?\nIs rain good?\n")
    shutil.copy(MAPS / "continents.yaml", tmp_path / "m.yaml")
    done = _synthesize(tmp_path, server.url)
    assert done.exit_code == 0, done.output
    if state == "begun":
        (tmp_path / "run" / MANIFEST).unlink()
    asked = len(server.requests)
    for key, change in SYNTHESIS.items():
        kept = {name: (tmp_path / name).read_bytes() for name in ("q.csv", "m.yaml")}
        refused = _synthesize(tmp_path, server.url, *change(tmp_path))
        assert refused.exit_code == 1 and "begun with another config: " in refused.output, key
        assert f" {key} " in refused.output, key
        for name, data in kept.items():
            (tmp_path / name).write_bytes(data)
    other = _synthesize(tmp_path, server.url, "--teacher", "openai:other")
    assert other.exit_code == 2  # two models at once; then the other alone
    flags = ["--queries", "q.csv", "--map", "m.yaml", "--limit", "1", "--out", "run", "--teacher"]
    monkeypatch.chdir(tmp_path)
    other = CliRunner().invoke(main, ["synthesize", *flags, f"openai:other@{server.url}"])
    assert other.exit_code == 1 and "teachers.africa 'openai:teacher', now 'openai:other'" in other.output
    assert len(server.requests) == asked
    same = CliRunner().invoke(main, ["synthesize", *flags, f"openai:teacher@{server.url}"])  # by other paths
    assert same.exit_code == 0 and len(server.requests) == asked, same.output


def test_a_synthesis_on_a_cluster_is_known_when_finished(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = {**spec(1).config(), "queries_a_shard": 4}
    with RunFolder(run, config) as folder:
        counts: dict[str, Any] = dict.fromkeys(("queries", "rows", "ok", "set_aside"), 0)
        counts |= {"by_community": {}, "findings": {}}
        manifest = {"counts": counts, "map": {"communities": {}}, "tokens": {"input": 0, "output": 0}}
        folder.finish(manifest | {"cost_usd": None})
    assert finished_manifest(spec(1), str(run), 4) == manifest | {"cost_usd": None}
    with pytest.raises(ArtifactError, match="another config: seed 0, now 1"):
        finished_manifest(spec(1, seed=1), str(run), 4)


def test_a_palette_is_its_weights_by_whatever_path(tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(BUILT_IN["nano"], tmp_path / name)
    one, two = (ModelRef("embedded", f"{tmp_path / name}/africa") for name in ("one", "two"))
    assert one.content == two.content == ModelRef("embedded", "nano/africa").content
    assert one.content != ModelRef("embedded", "nano/asia").content
    revision_of.cache_clear()
    router = tmp_path / "two" / "router.safetensors"
    router.write_bytes(router.read_bytes()[:-1] + b"\1")
    assert one.content != two.content
    revision_of.cache_clear()
    shutil.move(tmp_path / "one" / "base", tmp_path / "elsewhere")  # a palette whose base is another folder
    _rewrite(tmp_path / "one" / "manifest.json", '"base": "base"', f'"base": "{tmp_path / "elsewhere"}"')
    before = one.content
    revision_of.cache_clear()
    _rewrite(tmp_path / "elsewhere" / "config.json", '"rms_norm_eps": 1e-0', '"rms_norm_eps": 2e-0')
    assert one.content != before
    assert (
        ModelRef("openai", "africa", "http://127.0.0.1:1/v1").content == "openai:africa@http://127.0.0.1:1/v1"
    )


OWN = "async def mine(item):\n    raise RuntimeError('{}')\n"


@pytest.mark.parametrize("state", ["begun", "finished"])
def test_an_evaluation_is_its_survey_map_weights_methods_and_settings(
    script: Any, tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_method_of_a_test", raising=False)
    (tmp_path / "own_method_of_a_test.py").write_text(OWN.format("a"))
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    names = ("vanilla", "own_method_of_a_test:mine")
    given = plan(*names, blend_checkpoint=str(checkpoint))

    def run(changed: Any) -> dict[str, Any]:
        return asyncio.run(evaluate(changed, tmp_path / "run", quiet=True))

    run(given)
    if state == "begun":
        (tmp_path / "run" / MANIFEST).unlink()
    script.asked.clear()
    africa, *rest = given.cultural_map.communities
    renamed = dataclasses.replace(
        given.cultural_map, communities=(dataclasses.replace(africa, adjective="Afric"), *rest)
    )
    other_survey = dataclasses.replace(given.survey, sha256="1" * 64)
    changes = {
        "survey.sha256": dataclasses.replace(given, survey=other_survey),
        "map_sha256": dataclasses.replace(given, cultural_map=renamed),
        "weights.meta": plan(*names, models={**given.settings.models, "meta": "scripted:base"},
                             blend_checkpoint=str(checkpoint)),
        "settings.seed": plan(*names, seed=3, blend_checkpoint=str(checkpoint)),
        "runs": plan(*names, runs=2, blend_checkpoint=str(checkpoint)),
        "blend_checkpoint": plan(*names, blend_checkpoint="nano"),
    }  # fmt: skip
    for key, changed in changes.items():
        with pytest.raises(ArtifactError, match=f"begun with another config: .*{key} "):
            run(changed)
    (tmp_path / "own_method_of_a_test.py").write_text(OWN.format("b"))
    with pytest.raises(ArtifactError, match=r"own_methods\.own_method_of_a_test:mine "):
        run(given)
    (tmp_path / "own_method_of_a_test.py").write_text(OWN.format("a"))
    monkeypatch.chdir(tmp_path)
    run(
        plan(*names, blend_checkpoint="checkpoint", cache_dir=str(tmp_path))
    )  # by another path, on another disk
    assert script.asked == []


def test_a_fitted_blend_counts_by_its_file_s_content(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blend(which: str, **more: Any) -> str:
        found: str = plan("vanilla", blend=f"fitted:{which}", **more).config()["settings"]["blend"]
        return found

    file = tmp_path / "a.json"
    write_blends(file, {"of": "agents", "countries": {"KEN": {"weights": {"africa": 1.0}}}})
    first = blend(str(file))
    shutil.copy(file, tmp_path / "b.json")
    monkeypatch.chdir(tmp_path)
    assert blend("b.json") == blend("mine", fitted_blends={"mine": str(file)}) == first
    write_blends(file, {"of": "agents", "countries": {"KEN": {"weights": {"asia": 1.0}}}})
    assert blend(str(file)) != first and str(tmp_path) not in first
    with pytest.raises(SettingsError, match="no file"):
        blend("c.json")


@pytest.mark.parametrize("state", ["begun", "finished"])
def test_a_semantic_evaluation_is_its_gold_answers_map_weights_and_metric(
    script: Any, tmp_path: Path, state: str
) -> None:
    (tmp_path / "data").mkdir()
    data = dataset(tmp_path / "data")

    class Hashed(Words):
        def __init__(self, name: str, revision: str) -> None:
            super().__init__()
            self.told = {"model": name, "revision": revision}

        def as_manifest(self) -> dict[str, Any]:
            return self.told

    def run(
        file: Path = data, *, part: str = "base", seed: int = 0, metric: tuple[str, str] = ("a", "1"),
        queries: int | None = None, cultural_map: Any = CONTINENTS,
    ) -> dict[str, Any]:  # fmt: skip
        gold = load_gold(file, cultural_map, queries)
        models = {"prompting": ModelRef.parse(f"scripted:{part}")}
        wanted = SemanticPlan(gold, cultural_map, models, Sampling(0.0, 20, seed))
        return asyncio.run(evaluate_semantic(wanted, Hashed(*metric), tmp_path / "run"))

    run()
    if state == "begun":
        (tmp_path / "run" / MANIFEST).unlink()
    script.asked.clear()
    copy = shutil.copytree(data if data.is_dir() else data.parent, tmp_path / "copy")
    answers = next(copy.rglob("*.jsonl"))
    run(answers, metric=("b", "1"))  # the same rows and the same metric, both by another name
    africa, *rest = CONTINENTS.communities
    renamed = dataclasses.replace(
        CONTINENTS, communities=(dataclasses.replace(africa, name="Afric"), *rest)
    )  # fmt: skip
    changes: dict[str, dict[str, Any]] = {
        "weights.prompting": {"part": "meta"}, "sampling.seed": {"seed": 1},
        "metric.revision": {"metric": ("a", "2")},
        "answers": {"queries": 1}, "map_sha256": {"cultural_map": renamed},
    }  # fmt: skip
    for key, change in changes.items():
        with pytest.raises(ArtifactError, match=f"begun with another config: .*{key} "):
            run(**change)
    _rewrite(answers, "africa says 0", "africa says nought")
    with pytest.raises(ArtifactError, match="dataset_sha256 "):
        run(answers)
    assert script.asked == []


@pytest.mark.parametrize("left", ["rows.jsonl", "manifest.json"])
def test_a_folder_that_does_not_say_what_of_is_no_run_to_go_on_with(left: str, tmp_path: Path) -> None:
    (tmp_path / left).write_text(json.dumps({"query_id": "1"}) + "\n")
    before = (tmp_path / left).read_bytes()
    with pytest.raises(ArtifactError, match=r"holds a run and no config\.json"):
        RunFolder(tmp_path, {"seed": 1}).open()
    with pytest.raises(ArtifactError, match=r"holds a run and no config\.json"):
        RunFolder(tmp_path, {"seed": 1}).same_manifest()
    assert (tmp_path / left).read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ["dataset", "build", "{run}", "--out", "{out}", "--unfinished"],
        ["review", "export", "{run}", "--out", "{out}/page.html"],
        ["review", "import", "{run}", "{run}/decisions.json", "--out", "{out}"],
        ["merge", "--method", "ties", "--base", "{run}", "--out", "{out}", "africa={run}"],
        ["dataset", "read", "{run}/africa.csv", "--out", "{run}"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_result_that_is_there_is_refused_whatever_it_is_of(command: list[str], tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    out.mkdir()
    for file in ("page.html", "review.json", "manifest.json"):
        (out / file).write_text("mine")
    answer = {"query_id": "1", "query": "q", "community": "africa", "status": "ok", "response": "r"}
    (run / "rows.jsonl").write_text(json.dumps(answer) + "\n")
    (run / "config.json").write_text(json.dumps({"communities": ["africa", "asia"]}))
    (run / "decisions.json").write_text("{}")
    (run / "africa.csv").write_text("query,response,rejected_response\na,b,c\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = CliRunner().invoke(main, [word.format(run=run, out=out) for word in command])
    assert done.exit_code == 2 and "Take another --out" in done.output, done.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
