"""The command on the nano palette: two processes at once, and one that is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cultural_palette.artifacts import RunFolder
from cultural_palette.cli import main
from cultural_palette.evaluation.predictions import BY_THE_CLOCK, PredictionsDigest, key_of
from tests.conftest import ROOT

MADE_UP = ROOT / "evaluation/data/made_up.jsonl"
SLICE = ("--survey", str(MADE_UP), "--countries", "KEN,BRA", "--questions", "1")
METHODS = "vanilla,own-draft,without-self-regulation"


def command(out: Path, calls: Path, *more: str) -> list[str]:
    asked = ["evaluate", "surveys", *SLICE, "--methods", METHODS, "--runs", "1"]
    flags = ("--out", str(out), "--calls", str(calls), "--json", *more)
    return [sys.executable, "-m", "cultural_palette", *asked, *flags]


def start(out: Path, calls: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(out, calls), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
    )


def predictions(out: Path) -> list[dict[str, object]]:
    """A run's rows in one order, without what the clock says; the manifest names the same."""
    digest, rows = PredictionsDigest(), list(RunFolder(out).rows())
    for row in rows:
        digest.take(row)
    assert json.loads((out / "manifest.json").read_text())["predictions_sha256"] == digest.hexdigest()
    shown = [{k: v for k, v in row.items() if k not in BY_THE_CLOCK} for row in rows]
    return sorted(shown, key=key_of)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_processes_share_calls_and_a_killed_run_goes_on_to_the_same_predictions(tmp_path: Path) -> None:
    """Two undisturbed runs at once, on one folder of calls; then one, killed in the middle, on its own."""
    shared = tmp_path / "calls"
    both = [start(tmp_path / name, shared) for name in ("one", "two")]
    assert [process.wait(240) for process in both] == [0, 0]
    assert predictions(tmp_path / "one") == predictions(tmp_path / "two")
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two")]
    with sqlite3.connect(shared / "calls.sqlite") as database:
        ((kept,),) = database.execute("SELECT count(*) FROM calls").fetchall()
    assert sum(manifest["calls"]["asked"] for manifest in manifests) == kept  # none asked twice
    assert manifests[0]["outcomes"]["vanilla"]["failed"] == 0

    killed, own = tmp_path / "killed", tmp_path / "own calls"
    process = start(killed, own)
    deadline = time.monotonic() + 120
    while not (killed / "rows.jsonl").exists() or (killed / "rows.jsonl").read_bytes().count(b"\n") < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "manifest.json").exists()
    assert subprocess.run(command(killed, own), cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
    assert predictions(killed) == predictions(tmp_path / "one")
    with sqlite3.connect(own / "calls.sqlite") as database:
        ((kept,),) = database.execute("SELECT count(*) FROM calls").fetchall()
    assert json.loads((killed / "manifest.json").read_text())["calls"]["asked"] == kept


# -- the command, with scripted models


@pytest.fixture
def invoke(script, monkeypatch: pytest.MonkeyPatch):
    import math

    script.option_logprobs = [math.log(0.5), math.log(0.3), math.log(0.1)]
    monkeypatch.setenv("PALETTE_MODEL", "scripted:all")
    return lambda *args: CliRunner().invoke(main, ["evaluate", "surveys", *SLICE, *args])


def test_a_summary_for_people(invoke, tmp_path: Path) -> None:
    result = invoke("--methods", "vanilla,prompting", "--out", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert "2 items, 1 questions, 2 countries; 2 methods, 1 runs" in result.stderr
    assert "4 of 4 rows (100%)" in result.stderr
    assert "Calls: 8 needed, 6 asked (75.0%), 2 saved" in result.stdout
    assert "palette report" in result.stdout


def test_orders_of_the_options_are_a_flag(invoke, tmp_path: Path) -> None:
    result = invoke("--methods", "vanilla", "--orders", "1", "--out", str(tmp_path / "one"))
    assert "Calls: 2 needed" in result.stdout, result.output
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["settings"]["permutations"] == 1
    result = invoke("--methods", "vanilla", "--orders", "0", "--out", str(tmp_path / "none"))
    assert result.exit_code == 2


def test_what_is_not_available_is_said(invoke, tmp_path: Path) -> None:
    result = invoke("--methods", "paper", "--out", str(tmp_path / "run"))
    assert "Not available: joint needs a model of its own: --model-of joint=REF" in result.stderr


def test_a_method_from_the_folder_where_the_command_is_given(invoke, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine_here.py").write_text(
        "from cultural_palette.evaluation.predictions import Prediction\n"
        "from cultural_palette.distributions import Distribution\n"
        "async def flat(item):\n    return Prediction(Distribution.uniform(len(item.question.options)))\n"
    )
    monkeypatch.chdir(tmp_path)
    result = invoke("--methods", "", "--method", "mine_here:flat", "--out", "run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["outcomes"]["mine_here:flat"]["ok"] == 2


def test_models_of_a_file_and_flags(invoke, tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("base: scripted:plain\nmeta: scripted:theirs\n")
    flags = ("--models", str(tmp_path / "models.yaml"), "--set", "meta=scripted:mine")
    result = invoke("--methods", "vanilla", *flags, "--out", str(tmp_path / "run"), "--json")
    models = json.loads(result.stdout)["models"]
    assert (models["base"], models["meta"], models["asia"]) == (
        "scripted:plain", "scripted:mine", "scripted:all",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--methods", "vanila"), "Did you mean 'vanilla'?"),
        (("--methods", "joint"), "--model-of joint=REF"),
        (("--model-of", "joint"), "expected NAME=REF"),
        (("--set", "meta=scripted:a", "--set", "meta=scripted:b"), "names 'meta' twice"),
        (("--models", "nowhere.yaml"), "nowhere.yaml can not be read"),
        (("--methods", "vanilla", "--countries", "CHL"), "is left by this selection. It has answers of BRA"),
    ],
)
def test_bad_input_exits_2_and_leaves_no_folder(invoke, tmp_path: Path, flags, told) -> None:
    result = invoke(*flags, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_corrupt_row_and_a_country_without_data_are_in_the_manifest(invoke, tmp_path: Path) -> None:
    survey = tmp_path / "survey.jsonl"
    survey.write_text(MADE_UP.read_text().splitlines()[0] + "\n{broken\n")
    result = invoke(
        "--survey", str(survey), "--countries", "KEN,NZL", "--methods", "vanilla",
        "--out", str(tmp_path / "run"), "--json",
    )  # fmt: skip
    manifest = json.loads(result.stdout)
    assert manifest["survey"]["countries_without_data"] == ["NZL"]
    assert "survey.jsonl:2" in manifest["survey"]["set_aside"][0]
    assert manifest["outcomes"]["vanilla"]["ok"] == 1
