"""Inspect and the lm-evaluation-harness run our survey tasks, offline, on the nano palette."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from cultural_palette.embedded.manifest import read_manifest
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

COUNTRIES = {"KEN": "Kenya", "NZL": "New Zealand"}
QUESTIONS = {
    "Which matters more to people: freedom or equality?": (
        ["Freedom", "Equality", "Don't know"],
        {"Kenya": [0.3, 0.6, 0.1], "New Zealand": [0.6, 0.3, 0.1]},
    ),
    "Is work more important than leisure?": (["Yes", "No", "Don't know"], {"Kenya": [0.7, 0.2, 0.1]}),
}


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """Made up, in GlobalOpinionQA's own CSV."""
    path = tmp_path / "opinions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "selections", "options", "source"])
        for text, (options, answers) in QUESTIONS.items():
            writer.writerow([text, str(defaultdict(list, answers)), str(options), "GAS"])
    return path


def uniform_alignment(gold: list[float]) -> float:
    from cultural_palette.distributions import Distribution
    from cultural_palette.evaluation.metrics import alignments

    return alignments(Distribution(tuple(gold)), Distribution.uniform(len(gold)))["jsdist_e"]


def test_inspect_runs_the_graph_and_scores_distributions(survey: Path, tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    command = [
        *(sys.executable, "-m", "inspect_ai", "eval", "evaluation/inspect_task.py"),
        *(
            "-T",
            f"survey={survey}",
            "-T",
            "countries=KEN,NZL",
            "-T",
            "variant=modular-overton",
            "-T",
            "draw=each",
        ),
        *("--log-dir", str(tmp_path / "logs"), "--log-format", "json", "--display", "plain"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    log = read_eval_log(next((tmp_path / "logs").glob("*.json")))
    assert log.status == "success", log.error
    assert log.samples is not None and log.results is not None
    scored = {sample.id: sample.scores["distribution"] for sample in log.samples}
    assert len(scored) == 3
    for score in scored.values():
        assert 0 <= score.value["jsdist_e"] <= score.value["jsd_e"] <= 100
    by_name = {each.name: each for each in log.results.scores}
    assert sorted(by_name) == ["jsd_2", "jsd_e", "jsdist_2", "jsdist_e"]
    metrics = {metric.name: metric.value for metric in by_name["jsdist_e"].metrics.values()}
    of_country = {
        code: [
            s.scores["distribution"].value["jsdist_e"] for s in log.samples if s.metadata["country"] == code
        ]
        for code in COUNTRIES
    }
    means = {code: sum(values) / len(values) for code, values in of_country.items()}
    assert metrics["KEN"] == pytest.approx(means["KEN"])
    # every country weighs the same, however many questions it was asked
    assert metrics["mean_of_countries"] == pytest.approx(sum(means.values()) / 2)
    assert metrics["stderr"] >= 0
    # what the graph said stands in the sample
    assert set(log.samples[0].store["palette"]["distribution"]) == {"Freedom", "Equality", "Don't know"}


def test_inspect_gives_values_retrieval_the_survey_to_look_in(tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    command = [
        *(sys.executable, "-m", "inspect_ai", "eval", "evaluation/inspect_task.py"),
        *("-T", "survey=evaluation/data/made_up_opinions.csv", "-T", "countries=KEN"),
        *("-T", "questions=1", "-T", "variant=values-retrieval"),
        *("--log-dir", str(tmp_path / "logs"), "--log-format", "json", "--display", "plain"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    log = read_eval_log(next((tmp_path / "logs").glob("*.json")))
    assert log.samples is not None
    [sample] = log.samples
    assert 0 < sample.scores["distribution"].value["jsdist_e"] <= 100
    assert sample.store["palette"]["regulated"]


def test_inspect_leaves_unread_answers_unscored(survey: Path, tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    command = [
        *(sys.executable, "-m", "inspect_ai", "eval", "evaluation/inspect_task.py"),
        *("-T", f"survey={survey}", "-T", "countries=NZL", "-T", "model=openai:none@http://127.0.0.1:9/v1"),
        *("--log-dir", str(tmp_path / "logs"), "--log-format", "json", "--display", "plain"),
    ]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    log = read_eval_log(next((tmp_path / "logs").glob("*.json")))
    assert log.samples is not None and log.results is not None
    [sample] = log.samples
    assert "127.0.0.1:9" in (sample.scores["distribution"].explanation or "")
    assert {each.unscored_samples for each in log.results.scores} == {1}


@pytest.mark.parametrize(
    ("parameter", "message"),
    [("survey=nowhere.csv", "No survey 'nowhere.csv'"), ("variant=magic", "Unknown variant 'magic'")],
)
def test_inspect_says_what_is_wrong_without_a_traceback(parameter: str, message: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "inspect_ai", "eval", "evaluation/inspect_task.py"),
        *("-T", "survey=evaluation/data/made_up_opinions.csv", "-T", parameter),
        *("--log-dir", str(tmp_path / "logs"), "--display", "plain"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert message in done.stderr + done.stdout and "Traceback" not in done.stderr + done.stdout


def test_a_reply_without_an_option_has_no_score() -> None:
    from cultural_palette.evaluation.lm_eval_tasks.country_task import score

    # 0.005 + 0.002 of the reply on the two letters: what we call unreadable
    found = score({"gold": [0.5, 0.5]}, [(math.log(0.005), False), (math.log(0.002), False)])
    assert found == {"readable": 0.0, "option_mass": pytest.approx(0.007)}
    read = score({"gold": [0.5, 0.5]}, [(math.log(0.3), True), (math.log(0.3), False)])
    assert read["jsdist_e"] == 100 and read["readable"] == 1


def test_the_harness_scores_a_model_by_country(survey: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(
        include_path=str(ROOT / "evaluation" / "lm_eval_tasks"),
        include_defaults=False,
        metadata={"survey": str(survey)},
    )
    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(read_manifest("nano").base), "dtype": "float32", "device": "cpu"},
        tasks=["survey_bare_letter_ken", "survey_country_letter_nzl"],
        task_manager=tasks,
        log_samples=True,
        bootstrap_iters=0,
    )
    assert results is not None
    kenya, zealand = (
        results["results"][f"survey_{name}"] for name in ("bare_letter_ken", "country_letter_nzl")
    )
    assert 0 < kenya["option_mass,none"] <= 1
    samples = results["samples"]["survey_bare_letter_ken"]
    assert len(samples) == 2
    assert kenya["jsdist_e,none"] == pytest.approx(sum(s["jsdist_e"] for s in samples) / 2)
    prompt = results["samples"]["survey_country_letter_nzl"][0]["arguments"]
    shown = json.dumps(prompt)
    assert "most people in New Zealand" in shown and "A. Freedom" in shown
    assert zealand["jsdist_e,none"] != uniform_alignment([0.6, 0.3, 0.1])


def test_every_country_of_the_paper_has_its_tasks() -> None:
    import yaml

    from cultural_palette.evaluation.selection import PAPER

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!function", lambda loader, suffix, node: node.value)
    folder = ROOT / "evaluation" / "lm_eval_tasks"
    for style in ("bare_letter", "country_letter"):
        group = yaml.load((folder / style / "_group.yaml").read_text(), Loader)
        tasks = [yaml.load(file.read_text(), Loader) for file in sorted((folder / style).glob("[a-z]*.yaml"))]
        assert sorted(task["dataset_kwargs"]["country"] for task in tasks) == sorted(PAPER)
        assert sorted(task["task"] for task in tasks) == sorted(group["task"])
        assert {metric["weight_by_size"] for metric in group["aggregate_metric_list"]} == {False}
