"""From queries to a dataset, in one go and for real: nano answers, a kill -9 in between, then review, gate,
exports, figures, leakage and card. At small size; the plane is drawn by a stand-in of MiniLM's architecture.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.training.preferences import read_groups
from tests.conftest import ROOT
from tests.training.separation_models import sentence_model

COMMUNITIES = ("africa", "america", "asia", "europe", "oceania")


def palette(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def queries(folder: Path) -> Path:
    file = folder / "queries.jsonl"
    texts = ("What do people eat at a wedding?", "How do people greet each other?", "What is a good life?")
    rows = [{"id": f"q{number}", "query": text} for number, text in enumerate(texts, 1)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_queries_to_a_card(tmp_path: Path) -> None:
    run, dataset = tmp_path / "run", tmp_path / "dataset"
    asked = ("--queries", queries(tmp_path), "--teacher", "embedded:nano", "--max-tokens", "60", "--out", run)
    command = [sys.executable, "-m", "cultural_palette", "synthesize", *map(str, asked)]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, deadline = run / "calls.sqlite-wal", time.monotonic() + 240
    while not (journal.exists() and journal.stat().st_size > 30_000):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert not (run / "manifest.json").exists()
    palette("synthesize", *asked)
    answered = rows_of(run / "rows.jsonl")
    assert len(answered) == 3 * 5
    good = [row for row in answered if row["status"] == "ok"]
    whole = [q for q in ("q1", "q2", "q3") if sum(row["query_id"] == q for row in good) == 5]
    assert whole, [row["validation"] for row in answered if row["status"] != "ok"]

    # a reviewer approves everything, as a spreadsheet
    sheet = tmp_path / "review.csv"
    palette("review", "export", run, "--out", sheet, "--reviewer", "ann")
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(good)
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(line | {"decision": "approve"} for line in lines)
    palette("review", "import", run, sheet, "--out", tmp_path / "review")

    decisions = tmp_path / "review" / "review.json"
    palette(
        "dataset", "build", run, "--out", dataset, "--gate", "--decisions", decisions, "--test-share", 0.01
    )
    groups = read_groups(dataset / "groups" / "train", COMMUNITIES)
    texts = {(row["query_id"], row["community"]): row["response"] for row in good}
    for community in COMMUNITIES:
        others = [other for other in COMMUNITIES if other != community]
        wanted = {texts[q, community]: sorted(texts[q, other] for other in others) for q in whole}
        assert {group["chosen"]: sorted(group["rejected"]) for group in groups[community]} == wanted

    model = sentence_model(tmp_path / "minilm", (row["response"] for row in good))
    palette("dataset", "measure", "separation", dataset, "--model", model)
    assert (dataset / "figures" / "separation.png").stat().st_size > 5_000
    survey = tmp_path / "survey.csv"
    survey.write_text(
        'question,options\nHow many moons has Jupiter?,"[""few"", ""many""]"\n', encoding="utf-8"
    )
    palette("dataset", "measure", "leakage", dataset, "--survey", survey)
    palette("dataset", "card", dataset)
    card = (dataset / "README.md").read_text(encoding="utf-8")
    assert "embedded:nano" in card and "ilhouette" in card and "eak" in card and "eview" in card
