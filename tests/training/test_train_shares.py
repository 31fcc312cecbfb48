"""Jobs that learn shares: laid out by the command, gated, estimated, killed and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

from cultural_palette.cli import main  # noqa: E402
from cultural_palette.cultural_map import load_map  # noqa: E402
from cultural_palette.evaluation.share_data import draw_rows, share_rows, split_shares  # noqa: E402
from cultural_palette.evaluation.surveys import load_survey  # noqa: E402
from cultural_palette.training.checkpoints import last_whole_checkpoint  # noqa: E402
from cultural_palette.training.job import run_job  # noqa: E402
from cultural_palette.training.jobs import Job, lay_out_jobs, read_job  # noqa: E402
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError  # noqa: E402
from cultural_palette.training.share_gate import without_leaks  # noqa: E402
from cultural_palette.training.share_questions import ShareRowError, read_share_questions  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.training.test_train import MAP, answers  # noqa: E402

KEYS = ("north", "south")
COUNTRIES = ("NOR", "CHL")
TOPICS = ("day", "night", "word", "a b", "c d", "yes indeed", "good", "bad", "hello", "b c")


def survey_file(tmp_path: Path) -> Path:
    rows = [
        {
            "id": f"q{n}",
            "question": f"What of {topic}, number {n}?",
            "options": ["good", "bad", "word"][: 2 + n % 2],
            "country": country,
            "distribution": [0.8, 0.2, 0.0][: 2 + n % 2]
            if country == "NOR"
            else [0.3, 0.7, 0.0][: 2 + n % 2],
            "battery": f"b{n // 2}",
        }
        for n, topic in enumerate(TOPICS)
        for country in COUNTRIES
    ]
    path = tmp_path / "survey.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(tiny: Any, tmp_path: Path, *more: str) -> list[str]:
    (tmp_path / "poles.yaml").write_text(MAP)
    return [
        "train", "--objective", "shares", "--map", str(tmp_path / "poles.yaml"), "--base", str(tiny[2]),
        "--survey", str(survey_file(tmp_path)), "--out", str(tmp_path / "out"), "--set", "rank=2",
        "--set", "batch_size=2", "--set", "max_length=250", "--set", "epochs=1", *more,
    ]  # fmt: skip


def test_the_command_splits_trains_and_leaves_a_manifest(tiny: Any, tmp_path: Path) -> None:
    dry = CliRunner().invoke(main, command(tiny, tmp_path, "--dry-run"))
    assert dry.exit_code == 0, dry.output
    assert "run-1/joint: 8 questions shown, 16 sequences" in dry.output
    done = CliRunner().invoke(
        main, command(tiny, tmp_path, "--hold-out-countries", "CHL", "--only", "north", "--json")
    )
    assert done.exit_code == 0, done.output
    split = json.loads((tmp_path / "out" / "split.json").read_text())
    assert split["split"]["test"]["items"] == 4 and split["split"]["countries_held_out"] == ["CHL"]
    assert len(split["test_items"]) == 4
    learned = read_share_questions(tmp_path / "out" / "shares.jsonl", KEYS)
    assert len(learned["north"]) == 8 and learned["south"] == []
    held_out = {item.partition("/")[0] for item in split["test_items"]}
    assert not held_out & {one.id for one in learned["north"]}
    manifest = json.loads((tmp_path / "out" / "run-1" / "north" / "manifest.json").read_text())
    assert set(manifest["measures"]) == {"kl", "mass"} and manifest["questions"] == 8
    assert manifest["settings"]["objective"] == "shares" and "shares" in manifest["identity"]
    again = CliRunner().invoke(
        main, command(tiny, tmp_path, "--hold-out-countries", "CHL", "--only", "north")
    )
    assert "finished before; left as it is" in again.output
    other = CliRunner().invoke(main, command(tiny, tmp_path, "--split-seed", "3", "--only", "north"))
    assert other.exit_code == 1 and "shares.jsonl is what jobs in" in other.output
    assert read_share_questions(tmp_path / "out" / "shares.jsonl", KEYS) == learned  # as the jobs have it


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--hold-out-countries", "CHL"], "south: no survey question to learn from"),
        (["--hold-out-countries", "KEN"], "Country KEN has no answer in survey"),
        (["--hold-out", "1.0"], "less than 1 in all"),
        (["--objective", "orpo"], "--survey is for --objective shares and orpo+shares, not orpo"),
        (["--objective", "orpo+shares"], "objective orpo+shares needs --data"),
        (["--set", "max_length=40"], "raise it, or take the question out"),
        (["--trainer", "trl"], "objective shares is the grouped trainer's"),
    ],
)
def test_what_can_not_be_learned_is_said_before(
    tiny: Any, tmp_path: Path, flags: list[str], says: str
) -> None:
    done = CliRunner().invoke(main, command(tiny, tmp_path, *flags))
    assert done.exit_code == 2 and says in done.output, done.output


def shares_job(tiny: Any, tmp_path: Path, name: str, objective: Any) -> Job:
    survey = load_survey(survey_file(tmp_path))
    shares = tmp_path / "shares.jsonl"
    (tmp_path / "poles.yaml").write_text(MAP)
    rows = share_rows(survey.items, load_map(tmp_path / "poles.yaml"))
    shares.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = tmp_path / "answers.jsonl"
    data.write_text(answers())
    settings = OrpoSettings(
        objective=objective, learning_rate=2e-3, epochs=12, rank=4, dropout=0.1, batch_size=2, max_length=250,
        save_steps=10, logging_steps=5, orders=2, countries=1,
    )  # fmt: skip
    return lay_out_jobs(str(tiny[2]), data, tmp_path / name, KEYS, settings, only=["joint"], shares=shares)[0]


def test_a_killed_job_of_both_objectives_goes_on_to_the_same_weights(tiny: Any, tmp_path: Path) -> None:
    whole, killed = (shares_job(tiny, tmp_path, name, "orpo+shares") for name in ("whole", "killed"))
    measures = run_job(whole)["measures"]
    assert set(measures) == {"nll", "odds_loss", "accuracy", "margin", "kl", "mass"}
    killed.write()
    assert read_job(killed.out) == killed
    process = subprocess.Popen(
        [sys.executable, "-m", "cultural_palette.training.job", str(killed.out)], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    end = time.monotonic() + 240
    while last_whole_checkpoint(killed.out / "checkpoints") is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[0]
    assert last_whole_checkpoint(killed.out / "checkpoints") is not None and not killed.finished, said
    run_job(read_job(killed.out))
    undisturbed, resumed = (load_file(job.out / "adapter_model.safetensors") for job in (whole, killed))
    for key, value in undisturbed.items():
        assert torch.equal(value, resumed[key]), key


def test_training_on_shares_brings_the_model_nearer_to_them(tiny: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    job = shares_job(tiny, tmp_path, "learned", "shares")
    # all weights: a random model of two layers has little for an adapter to turn
    more = {"rank": 0, "dropout": 0.0, "epochs": 15, "logging_steps": 1, "learning_rate": 3e-3}
    run_job(replace(job, settings=replace(job.settings, **more)))
    rows = [row for row in map(json.loads, (job.out / "rows.jsonl").open()) if "kl" in row]
    first, last = rows[:20], rows[-20:]
    assert sum(row["kl"] for row in last) < 0.9 * sum(row["kl"] for row in first)
    assert sum(row["mass"] for row in last) > 5 * sum(row["mass"] for row in first)


def test_a_run_from_before_this_objective_goes_on() -> None:
    """Settings that stand at their default are not part of what makes a job the same."""
    assert "objective" not in OrpoSettings().as_config() and "countries" not in OrpoSettings().as_config()
    assert OrpoSettings(orders=2).as_config()["orders"] == 2
    with pytest.raises(TrainingError, match="orders = 0 is out of range"):
        OrpoSettings(orders=0)


def test_split_keeps_batteries_and_countries_apart(tmp_path: Path) -> None:
    survey = load_survey(survey_file(tmp_path))
    split = split_shares(survey, 0.2, 0.2, ("CHL",), seed=1)
    batteries = [
        {item.question.battery for item in part} for part in (split.train, split.calibration, split.test)
    ]
    assert all(batteries) and not batteries[0] & batteries[1] and not batteries[0] & batteries[2]
    assert not batteries[1] & batteries[2]
    assert {item.country for item in split.train} == {"NOR"} and {i.country for i in split.test} == set(
        COUNTRIES
    )
    assert split.as_manifest() == split_shares(survey, 0.2, 0.2, ("CHL",), seed=1).as_manifest()
    others = {
        split_shares(survey, 0.2, 0.2, ("CHL",), seed).as_manifest()["test"]["sha256"] for seed in range(6)
    }
    assert len(others) > 1


def test_a_draw_takes_batteries_in_turn() -> None:
    rows = [{"id": f"q{n}", "battery": "large" if n < 8 else f"b{n}"} for n in range(10)]
    drawn = draw_rows(rows, 3, 0)
    assert {row["battery"] for row in drawn} == {"large", "b8", "b9"}
    assert draw_rows(rows, None, 0) == rows and draw_rows(rows, 3, 0) == drawn


def test_questions_near_a_held_out_one_are_left_out() -> None:
    pytest.importorskip("datasketch")
    near = "How important is religion in your life these days, would you say?"
    rows = [{"id": "a", "question": near}, {"id": "b", "question": "Do you own a boat or a bicycle at home?"}]
    kept, leaking = without_leaks(rows, {"x": "How important is religion in your life, would you say?"})
    assert [row["id"] for row in kept] == ["b"] and leaking == ["a"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": "q", "battery": "b", "question": "Q?", "options": ["x", "y"]}, "no 'shares'"),
        ({"shares": {"east": {"NOR": [0.5, 0.5]}}}, "'east' is not one of north, south"),
        ({"shares": {"north": {"NOR": [0.5, 0.6]}}}, "sum to 1.1"),
        ({"shares": {"north": {"NOR": [1.0]}}}, "NOR has 1 shares for 2 options"),
        ({"shares": {"north": {"Nowhere": [0.5, 0.5]}}}, "Nowhere"),
        ({"options": [], "shares": {"north": {"NOR": [1.0]}}}, "needs options"),
    ],
)
def test_bad_rows_name_the_line(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    whole = {"id": "q", "battery": "b", "question": "Q?", "options": ["x", "y"], **row}
    path = tmp_path / "shares.jsonl"
    path.write_text(json.dumps(whole) + "\n")
    with pytest.raises(ShareRowError) as error:
        read_share_questions(path, KEYS)
    assert says in str(error.value) and f"{path}:1" in str(error.value)
