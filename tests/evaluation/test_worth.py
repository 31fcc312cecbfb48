"""What a prediction is worth in respondents, and prediction-powered estimates: by hand, and by simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks.rectify import HIGHEST, LOWEST, Design, simulate
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.errors import UsageError
from cultural_palette.evaluation.floors import SAMPLING, score_floors
from cultural_palette.evaluation.rectify import rectify
from cultural_palette.evaluation.surveys import load_survey
from cultural_palette.evaluation.worth import SIZES, Curve, curves, sample_scores
from tests.evaluation.report_runs import made_up_items, made_up_run


def test_one_person_of_a_split_country_scores_as_by_hand() -> None:
    # gold (1/2, 1/2), one person says (1, 0) or (0, 1): JS divergence of either, in bits, is
    # 1/2 log2(1 / (3/4)) + 1/4 log2((1/2) / (3/4)) + 1/4 log2((1/2) / (1/4)) = 0.31128
    divergence = 0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25
    assert sample_scores((0.5, 0.5), 1)["jsd_2"] == pytest.approx(100 * (1 - divergence))
    assert sample_scores((1.0, 0.0), 1)["jsd_2"] == 100  # who all agree need one


def test_a_sample_is_worth_its_own_size() -> None:
    golds, countries = [(0.5, 0.3, 0.2), (0.7, 0.3)], ["KEN", "USA"]
    curve = curves(golds, countries, draws=3000)["jsdist_e"]
    for size in (5, 40, 300):
        scores = [sample_scores(gold, size, seed=9, draws=3000)["jsdist_e"] for gold in golds]
        assert curve.worth(sum(scores) / 2) == pytest.approx(size, rel=0.1)


def test_between_two_sizes_it_is_linear_in_the_root_and_none_above_the_largest() -> None:
    curve = Curve(tuple(float(k) for k in range(len(SIZES))))
    # halfway from 1 person to 2: (1 + 1 / sqrt(2)) / 2, squared and turned over
    assert curve.worth(0.5) == pytest.approx(((1 + 1 / math.sqrt(2)) / 2) ** -2)
    assert curve.worth(float(len(SIZES))) is None
    assert curve.worth(0.0) == 0.0


def test_the_ceiling_is_what_the_truth_would_score_where_respondents_are_known(tmp_path: Path) -> None:
    rows = [
        {
            "id": "a",
            "question": "A?",
            "options": ["Y", "N"],
            "country": code,
            "distribution": [0.5, 0.5],
            **more,
        }
        for code, more in (("KEN", {"respondents": 400}), ("BRA", {"respondents": 25}), ("CHL", {}))
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = score_floors(load_survey(tmp_path / "s.jsonl"))
    ceiling = table.per_item[SAMPLING]
    assert set(ceiling) == {"a/BRA", "a/KEN"} and table.missing[SAMPLING] == 1
    # of a normal sample the divergence is about (k - 1) / (8 n) nats: 1 / 3200 and 1 / 200
    assert ceiling["a/KEN"]["jsd_e"] == pytest.approx(100 * (1 - 1 / 3200), abs=0.01)
    assert ceiling["a/BRA"]["jsd_e"] == pytest.approx(100 * (1 - 1 / 200), abs=0.1)
    assert SAMPLING not in score_floors(load_survey(tmp_path / "s.jsonl", None)).countries["CHL"].floors


# -- rectify


def test_perfect_predictions_leave_nothing_to_learn_and_useless_ones_change_nothing() -> None:
    truth = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    perfect = rectify(truth[:4], truth[:4], truth)
    # asked 0.25 on average, predicted 0.35 for all and 0.25 for the asked: 0.35, for certain
    assert (perfect.estimate, perfect.weight) == (pytest.approx(0.35), pytest.approx(1.0))
    assert perfect.high - perfect.low == pytest.approx(0, abs=1e-9)
    useless = rectify(truth[:4], [0.5] * 4, [0.5] * 6)
    assert useless.weight == 0 and useless.estimate == pytest.approx(useless.classical) == pytest.approx(0.25)


def test_a_constant_error_of_the_predictions_cancels() -> None:
    truth = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    wrong = truth + 0.3
    assert rectify(truth[:4].tolist(), wrong[:4].tolist(), wrong.tolist()).estimate == pytest.approx(0.35)


def test_too_few_asked() -> None:
    with pytest.raises(UsageError, match="3 populations were asked: an interval needs 4"):
        rectify([0.1] * 3, [0.1] * 3, [0.1] * 9)


@pytest.mark.parametrize("design", [Design(8, 60, 0.9), Design(15, 200, 0.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(design: Design) -> None:
    found = simulate(design, repeats=600)
    assert LOWEST - 0.01 <= found.rectified <= HIGHEST + 0.01  # of 600: sd 0.009
    if design.correlation:
        assert found.width < 0.75 * found.classical_width


def test_the_command_takes_a_run_and_a_survey_of_a_few_populations(tmp_path: Path) -> None:
    countries = ("USA", "GBR", "CHN", "KEN", "NZL", "BRA")
    run = made_up_run(tmp_path / "run", countries=countries, questions=3)
    rows = [
        {"id": item.question.id, "question": item.question.text, "options": list(item.question.options),
         "country": item.country, "distribution": list(item.gold.probabilities), "respondents": 80}
        for item in made_up_items(countries, 3)
        if item.country != "BRA" and (item.question.id != "q002" or item.country == "USA")
    ]  # fmt: skip
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["rectify", str(run), "--human", str(tmp_path / "asked.jsonl")]
    made = json.loads(CliRunner().invoke(main, [*args, "--json"], catch_exceptions=False).output)
    first = made[0]
    assert {row["question_id"] for row in made} == {"q000", "q001"}
    assert (first["result"]["asked"], first["result"]["everywhere"]) == (5, 6)
    assert first["result"]["low"] < first["result"]["estimate"] < first["result"]["high"]
    text = CliRunner().invoke(main, args, catch_exceptions=False).output
    assert "the 5 asked alone" in text and "1 questions were asked of too few populations" in text
    wrong = CliRunner().invoke(main, [*args, "--method", "nobody"])
    assert wrong.exit_code == 2 and "The run has no method 'nobody'" in wrong.output
