"""What a report reads: scores that agree with the metrics, and rows that can not be right named by line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cultural_palette.artifacts import RunFolder
from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.errors import ArtifactError, UsageError
from cultural_palette.evaluation.floors import MODE, UNIFORM
from cultural_palette.evaluation.metrics import ALIGNMENTS, alignment_table, alignments
from cultural_palette.evaluation.predictions import PredictionsDigest
from cultural_palette.evaluation.report.load import (
    FAILED,
    MISSING,
    OK,
    UNREADABLE,
    Evaluation,
    load_evaluation,
)
from tests.evaluation.report_runs import made_up_run

MAP = load_map("continents")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_up_run(tmp_path / "run", questions=4)


def load(run: Path, **more: Any) -> Evaluation:
    return load_evaluation(run, MAP, **more)


def change_row(run: Path, line: int, change: Callable[[dict[str, Any]], None]) -> None:
    lines = (run / "rows.jsonl").read_text().splitlines()
    row = json.loads(lines[line - 1])
    change(row)
    lines[line - 1] = json.dumps(row)
    (run / "rows.jsonl").write_text("\n".join(lines) + "\n")


def test_the_alignments_by_hand() -> None:
    gold = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    guess = np.array([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    found = alignment_table(gold, guess)
    # Opposite: the divergence is 1 bit = ln 2 nats, its root 1 and 0.8326; equal: all are 100.
    assert found["jsd_2"].tolist() == [0, 100]
    assert found["jsdist_2"].tolist() == [0, 100]
    assert found["jsd_e"].tolist() == pytest.approx([100 * (1 - math.log(2)), 100])
    assert found["jsdist_e"].tolist() == pytest.approx([100 * (1 - math.sqrt(math.log(2))), 100])


def test_the_alignments_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    gold, guess = rng.dirichlet(np.ones(5), 40), rng.dirichlet(np.full(5, 0.2), (3, 40))
    found = alignment_table(gold, guess)
    for run, item in np.ndindex(3, 40):
        p, q = (Distribution.from_counts(each.tolist()) for each in (gold[item], guess[run, item]))
        for key, value in alignments(p, q).items():
            assert found[key][run, item] == pytest.approx(value, abs=1e-9)


def test_every_row_finds_its_place(run: Path) -> None:
    found = load(run)
    assert found.methods == ("vanilla", "prompting", "cultural-palette", "without-draft")
    assert found.countries == ("USA", "GBR", "CHN", "KEN", "NZL")  # communities as the paper lists them
    assert found.status.shape == (4, 2, 20) and (found.status == OK).all() and found.never_asked == 0
    for place in ((0, 0, 0), (2, 1, 7), (3, 1, 19)):
        row = found.rows_at([int(found.line[place])])[int(found.line[place])]
        method, number, item = place
        assert (row["method"], row["run"]) == (found.methods[method], number)
        assert row["item"] == found.items[item].id
        gold, guess = Distribution(tuple(row["gold"])), Distribution(tuple(row["predicted"]))
        for key in ALIGNMENTS:
            assert found.scores[key][place] == pytest.approx(alignments(gold, guess)[key], abs=1e-9)
    assert [floor.reference for floor in found.floors] == [False, False, True, True]


def test_the_order_of_the_rows_does_not_matter(run: Path) -> None:
    before = load(run)
    lines = (run / "rows.jsonl").read_text().splitlines()
    (run / "rows.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    after = load(run)
    assert before.items == after.items
    assert all(np.array_equal(before.scores[key], after.scores[key]) for key in ALIGNMENTS)


def test_what_was_not_answered_has_no_score_and_is_counted(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=10, failing={"vanilla": 0.5})
    lines = (run / "rows.jsonl").read_text().splitlines()
    (run / "rows.jsonl").write_text("\n".join(lines[:-3]) + "\n")  # rows that never came
    found = load(run)
    for key in ALIGNMENTS:
        assert np.isnan(found.scores[key][found.status != OK]).all()
    assert {FAILED, UNREADABLE} <= set(found.status[0].ravel().tolist())
    assert (found.status == MISSING).sum() == 3


def test_items_that_no_row_names_are_counted(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "items": 25}))
    assert load(run).never_asked == 5
    (run / "manifest.json").write_text(json.dumps({**manifest, "items": 19}))
    with pytest.raises(ArtifactError, match=r"20 items, but manifest\.json says 19"):
        load(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "method 'magic' is not in manifest.json, which has vanilla"),
        ({"run": 2}, "run 2 of 2"),
        ({"run": True}, "run is True, expected int"),
        ({"status": "fine"}, "status 'fine', expected one of ok, unreadable, failed"),
        ({"gold": [0.5, 0.6]}, "another question, options or gold|gold"),
        ({"predicted": None}, "predicted is None, expected"),
        ({"predicted": [1.0]}, r"predicted is \[1.0\], expected"),
        ({"predicted": [2.0, -1.0, 0.0, 0.0, 0.0]}, "predicted"),
        ({"item": "elsewhere/KEN"}, "item 'elsewhere/KEN' is not"),
        ({"question": None}, "question is None, expected str"),
        ({"battery": None}, "battery is None, expected str"),
        ({"orders": "two"}, "orders is 'two', expected int"),
        ({"options": [1, 2]}, "options"),
    ],
)
def test_a_row_that_can_not_be_right_is_named(run: Path, change: dict[str, Any], message: str) -> None:
    change_row(run, 7, lambda row: row.update(change))
    with pytest.raises(ArtifactError, match=rf"rows\.jsonl:7: .*({message})"):
        load(run)


def test_probabilities_that_do_not_sum_to_one(run: Path) -> None:
    def halve(row: dict[str, Any]) -> None:
        row["predicted"] = [p / 2 for p in row["predicted"]]

    change_row(run, 3, halve)
    with pytest.raises(ArtifactError, match=r"rows\.jsonl:3: predicted sums to 0\.5, expected 1"):
        load(run)


def test_a_row_twice_and_a_line_that_is_no_json(run: Path) -> None:
    lines = (run / "rows.jsonl").read_text().splitlines()
    (run / "rows.jsonl").write_text("\n".join([*lines, lines[4]]) + "\n")
    with pytest.raises(ArtifactError, match=rf"rows\.jsonl:{len(lines) + 1}: .* stands in line 5 already"):
        load(run)
    (run / "rows.jsonl").write_text("\n".join([*lines[:2], "{torn", *lines[3:]]) + "\n")
    with pytest.raises(ArtifactError, match=r"rows\.jsonl:3: not JSON"):
        load(run)


def test_an_unfinished_run_is_refused_unless_asked_for(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=2, finish=False)
    with pytest.raises(UsageError, match=r"is not finished.*--partial"):
        load(run)
    found = load(run, partial=True)
    assert found.partial and found.runs == 2 and len(found.items) == 10
    with pytest.raises(UsageError, match=r"it has no rows\.jsonl"):
        load(tmp_path)


def test_rows_that_were_changed_since_the_run_are_marked(run: Path) -> None:
    digest = PredictionsDigest()
    for row in RunFolder(run).rows():
        digest.take(row)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "predictions_sha256": digest.hexdigest()}))
    assert not load(run).edited
    change_row(run, 5, lambda row: row.update(seconds=99.0))  # the clock is no prediction
    assert not load(run).edited
    change_row(run, 5, lambda row: row.update(answer="Something else"))
    assert load(run).edited


def test_a_run_of_another_kind(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "kind": "cooking"}))
    with pytest.raises(UsageError, match="kind 'cooking', expected 'survey-evaluation'"):
        load(run)


def test_floors_from_the_rows_when_there_is_no_file(run: Path) -> None:
    of_file = {floor.key: floor for floor in load(run).floors}
    (run / "floors.json").unlink()
    of_rows = {floor.key: floor for floor in load(run).floors}
    assert list(of_rows) == [UNIFORM, MODE]
    for key in of_rows:
        for metric in ALIGNMENTS:
            assert of_rows[key].scores[metric] == pytest.approx(of_file[key].scores[metric], abs=1e-9)
    (run / "floors.json").write_text('{"uniform": 3}')
    with pytest.raises(ArtifactError, match="can not be read as floors"):
        load(run)
