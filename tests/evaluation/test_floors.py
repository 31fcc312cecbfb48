"""Floors by hand, on a survey of five rows; and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.floors import FLOORS, floor_distributions, floors_of, score_floors
from cultural_palette.evaluation.metrics import ALIGNMENTS, alignments
from cultural_palette.evaluation.selection import PAPER, Selection
from cultural_palette.evaluation.surveys import MADE_UP, Survey, load_survey

OPINIONS = MADE_UP / "made_up_opinions.csv"


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    rows = [
        ("a", 2, "KEN", [0.8, 0.2]),
        ("a", 2, "BRA", [0.4, 0.6]),
        ("a", 2, "CHL", [0.6, 0.4]),
        ("b", 2, "KEN", [0.2, 0.8]),
        ("c", 3, "BRA", [0.5, 0.3, 0.2]),
    ]
    lines = [
        json.dumps({"id": key, "question": f"What of {key}?", "options": [f"{key}{n}" for n in range(size)],
                    "country": country, "distribution": shares})
        for key, size, country, shares in rows
    ]  # fmt: skip
    (tmp_path / "five.jsonl").write_text("\n".join(lines))
    return load_survey(tmp_path / "five.jsonl", Selection(("KEN", "BRA", "CHL")))


def test_each_floors_distribution(survey: Survey) -> None:
    found = {
        floor: {k: d.probabilities for k, d in rows.items()}
        for floor, rows in floor_distributions(survey).items()
    }
    assert found["uniform"]["c/BRA"] == pytest.approx((1 / 3,) * 3)
    # two options, by place, without the item's own question: a has b's 0.2, b has (0.8 + 0.4 + 0.6) / 3
    assert found["mean_per_size"]["a/KEN"] == pytest.approx((0.2, 0.8))
    assert found["mean_per_size"]["b/KEN"] == pytest.approx((0.6, 0.4))
    # no other question has three options
    assert "c/BRA" not in found["mean_per_size"]
    # the others of question a: Kenya's are Brazil and Chile, (0.4 + 0.6) / 2
    assert found["mean_of_others"]["a/KEN"] == pytest.approx((0.5, 0.5))
    assert found["mean_of_others"]["a/CHL"] == pytest.approx((0.6, 0.4))
    # nobody else was asked b
    assert "b/KEN" not in found["mean_of_others"]
    assert found["oracle_mode"]["a/BRA"] == (0.0, 1.0)


def test_the_other_countries_are_the_files_whatever_was_selected(survey: Survey, tmp_path: Path) -> None:
    alone = load_survey(tmp_path / "five.jsonl", Selection(("KEN",)))
    whole = floor_distributions(survey)["mean_of_others"]
    assert floor_distributions(alone)["mean_of_others"] == {"a/KEN": whole["a/KEN"]}
    assert score_floors(alone).missing["mean_of_others"] == 1


def test_means_are_means_of_the_countries_means(survey: Survey) -> None:
    table = score_floors(survey)
    assert list(table.countries) == ["KEN", "BRA", "CHL"]
    assert [row.n for row in table.countries.values()] == [2, 2, 1]
    assert table.missing == {"uniform": 0, "mean_per_size": 1, "mean_of_others": 2, "oracle_mode": 0}
    assert table.whole is None  # nothing was drawn

    def uniform(*shares: float) -> float:
        return alignments(Distribution(shares), Distribution.uniform(len(shares)))["jsdist_e"]

    kenya = (uniform(0.8, 0.2) + uniform(0.2, 0.8)) / 2
    brazil = (uniform(0.4, 0.6) + uniform(0.5, 0.3, 0.2)) / 2
    chile = uniform(0.6, 0.4)
    assert table.countries["KEN"].floors["uniform"]["jsdist_e"] == pytest.approx(kenya)
    assert table.means["uniform"]["jsdist_e"] == pytest.approx((kenya + brazil + chile) / 3)


def test_floors_learn_from_the_whole_selection_when_questions_are_drawn() -> None:
    whole = floor_distributions(load_survey(OPINIONS, Selection(PAPER)))
    drawn = load_survey(OPINIONS, Selection(PAPER, questions=3, seed=4))
    for floor, rows in floor_distributions(drawn).items():
        assert set(rows) == {item.id for item in drawn.items} & set(whole[floor])
        assert all(rows[key] == whole[floor][key] for key in rows)
    assert score_floors(drawn).whole == score_floors(load_survey(OPINIONS, Selection(PAPER))).means


def test_a_run_gets_every_value_of_every_item(survey: Survey) -> None:
    found = json.loads(json.dumps(floors_of(survey)))
    assert list(found) == list(FLOORS)
    for floor in found.values():
        assert len(floor["per_item"]) + floor["missing"] == len(survey.items)
        assert all(list(row) == list(ALIGNMENTS) for row in floor["per_item"].values())


def test_the_command_prints_json_alone() -> None:
    args = ["evaluate", "floors", "--survey", str(OPINIONS), "--countries", "paper", "--max-options", "5"]
    result = CliRunner().invoke(main, [*args, "--options", "all", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert tuple(found["countries"]) == PAPER
    assert list(found["means"]) == list(FLOORS)
    for country in found["countries"].values():
        assert country["n"] > 0
        assert all(set(scores) == set(ALIGNMENTS) for scores in country["floors"].values())
    mean = sum(country["floors"]["uniform"]["jsd_2"] for country in found["countries"].values()) / 18
    assert found["means"]["uniform"]["jsd_2"] == pytest.approx(mean)
    assert found["survey"]["selection"]["max_options"] == 5


def test_the_command_prints_a_table_and_what_is_missing() -> None:
    args = [
        "evaluate",
        "floors",
        "--survey",
        str(OPINIONS),
        "--countries",
        "Kenya,Japan",
        "--options",
        "substantive",
    ]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "mean of the file's other countries" in result.stdout
    assert "No items: JPN" in result.stderr
    assert "made_up_opinions.csv:18: all zeros" in result.stderr


def test_the_command_refuses_a_selection_without_items() -> None:
    result = CliRunner().invoke(main, ["evaluate", "floors", "--survey", str(OPINIONS), "--countries", "JPN"])
    assert result.exit_code == 2
    assert "Nothing of made_up_opinions.csv is left" in result.stderr


def test_a_survey_without_other_languages_says_so() -> None:
    arguments = ["--survey", "evaluation/data/made_up.jsonl", "--countries", "all", "--language", "local"]
    result = CliRunner().invoke(main, ["evaluate", "floors", *arguments])
    assert result.exit_code != 0
    assert "have no wording in the population's own language. Leave out --language local." in result.stderr
