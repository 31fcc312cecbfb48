"""How many items a difference needs: the arithmetic, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.power import Assumptions, assumptions_of, plan_power, power_of
from cultural_palette.evaluation.selection import Selection
from cultural_palette.evaluation.statistics import clustered_error, detectable_difference
from cultural_palette.evaluation.surveys import MADE_UP, Survey, SurveyItem, SurveyQuestion, load_survey
from tests.evaluation.report_runs import made_up_run


def items(
    batteries: int, questions: int = 2, countries: tuple[str, ...] = ("KEN", "USA")
) -> list[SurveyItem]:
    return [
        SurveyItem(
            SurveyQuestion(f"b{b}q{q}", f"Is {b} {q}?", ("Yes", "No"), "made up", f"b{b}"),
            country, Distribution((0.5, 0.5)), country,
        )
        for b in range(batteries) for q in range(questions) for country in ("KEN", "USA")
    ]  # fmt: skip


def test_the_error_by_hand() -> None:
    # 10 batteries of 4 items, each of weight 1/40: sum of squares of batteries 10 * 0.1**2 = 0.1, of items
    # 40 / 40**2 = 0.025. With half of the variance in common: 6**2 * (0.05 + 0.0125) = 2.25, root 1.5.
    power = power_of(items(10), 20, Assumptions(6, 0.5))
    assert (power.items, power.batteries, power.effective) == (40, 10, pytest.approx(10))
    assert power.error == pytest.approx(1.5)
    assert power.smallest_p == 2 / 2**10
    assert power.detectable == pytest.approx(detectable_difference(1.5, 10))


def test_few_batteries_can_show_nothing_and_many_comparisons_less() -> None:
    five = power_of(items(5), 10, Assumptions(6, 0.5))
    assert (five.smallest_p, five.detectable) == (2 / 2**5, None)
    eight = power_of(items(8), 16, Assumptions(6, 0.5))
    assert eight.detectable is not None
    # 2 / 2**8 = 0.0078, times 13 = 0.10
    thirteen = power_of(items(8), 16, Assumptions(6, 0.5), comparisons=13)
    assert (thirteen.smallest_p, thirteen.detectable) == (pytest.approx(13 / 128), None)


def test_what_is_needed_shows_the_difference_and_one_question_less_does_not() -> None:
    whole = items(60)
    survey = Survey("made up", "x", "0" * 64, tuple(whole), Selection(("KEN", "USA")), {})
    plan = plan_power(survey, 4.0, Assumptions(6, 0.5))
    assert plan.needed is not None and plan.needed.detectable is not None
    assert plan.needed.detectable <= 4.0
    fewer = plan_power(survey, 4.0, Assumptions(6, 0.5)).rows
    assert any(row.questions < plan.needed.questions and (row.detectable or math.inf) > 4 for row in fewer)
    assert plan_power(survey, 0.1, Assumptions(6, 0.5)).needed is None


def test_a_pilot_gives_back_the_components_it_was_made_of() -> None:
    rng = np.random.default_rng(0)
    common, own = rng.normal(0, 4, 300)[:, None], rng.normal(0, 3, (300, 4))  # 16 + 9: icc 0.64, sd 5
    found = assumptions_of((common + own).ravel(), [f"b{k}" for k in range(300) for _ in range(4)])
    assert found.sd == pytest.approx(5, rel=0.05) and found.icc == pytest.approx(0.64, abs=0.06)
    assert assumptions_of(np.array([1.0, 2.0, 4.0]), ["a", "b", "c"]).icc == 1
    with pytest.raises(ValueError, match="1 batteries"):
        assumptions_of(np.array([1.0, 2.0, np.nan]), ["a", "a", "b"])


def test_the_planned_error_is_the_one_that_is_found() -> None:
    rng = np.random.default_rng(1)
    drawn = items(40, questions=3)
    planned = power_of(drawn, 120, Assumptions(5, 0.64)).error
    batteries = [item.question.battery for item in drawn]
    squares = []
    for _ in range(200):
        of = dict(zip(dict.fromkeys(batteries), rng.normal(0, 4, 40), strict=True))
        values = [of[battery] + rng.normal(0, 3) for battery in batteries]
        squares.append(clustered_error(values, batteries, groups=[item.country for item in drawn]) ** 2)
    assert math.sqrt(sum(squares) / 200) == pytest.approx(planned, rel=0.05)


def test_the_command() -> None:
    survey = ("--survey", str(MADE_UP / "made_up_opinions.csv"), "--countries", "KEN,USA,BRA,CHN")
    result = CliRunner().invoke(main, ["evaluate", "plan", *survey, "--difference", "3"])
    assert result.exit_code == 0, result.output
    assert "smallest p" in result.stdout and "Assumed: " in result.stdout and "none" in result.stdout
    result = CliRunner().invoke(main, ["evaluate", "plan", *survey, "--difference", "3", "--json"])
    plan = json.loads(result.stdout)
    assert plan["rows"][-1]["items"] == len(
        load_survey(survey[1], Selection(("KEN", "USA", "BRA", "CHN"))).items
    )
    result = CliRunner().invoke(main, ["evaluate", "plan", *survey, "--difference", "3", "--methods", "a,b"])
    assert result.exit_code == 2 and "--pilot" in result.output


def test_a_pilot_run_gives_the_assumptions(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", {"vanilla": 0.2, "prompting": 0.5}, questions=12)
    survey = ("--survey", str(MADE_UP / "made_up_opinions.csv"), "--countries", "KEN,USA")
    command = ["evaluate", "plan", *survey, "--difference", "3", "--pilot", str(run)]
    result = CliRunner().invoke(main, [*command, "--methods", "vanilla,prompting", "--json"])
    assert result.exit_code == 0, result.output
    assumed = json.loads(result.stdout)["assumptions"]
    assert assumed["sd"] > 0 and 0 <= assumed["icc"] <= 1
    result = CliRunner().invoke(main, [*command, "--methods", "vanilla,magic"])
    assert (
        result.exit_code == 2 and "name two of the pilot's, with a comma: vanilla, prompting" in result.output
    )
    result = CliRunner().invoke(main, [*command, "--methods", "vanilla,prompting", "--sd", "3"])
    assert result.exit_code == 2 and "leave --sd and --icc out" in result.output
