"""Contamination: on likelihoods known by hand, and on a real small model that reads one item by heart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.embedded.manifest import BUILT_IN
from cultural_palette.errors import UsageError
from cultural_palette.evaluation.contamination import model_likelihood, paraphrases, shuffled, signs_of
from cultural_palette.evaluation.surveys import MADE_UP, SurveyQuestion


def questions(number: int = 8) -> list[SurveyQuestion]:
    return [
        SurveyQuestion(
            f"q{k}", f"Do you think thing {k} is good?", ("Tea", "Milk", "Beer"), "made up", f"b{k}", False
        )
        for k in range(number)
    ]


def test_paraphrases_swap_stock_phrases_one_by_one_and_all_at_once() -> None:
    assert paraphrases("Do you think rain is good?") == (
        "Would you say rain is good?",
        "Do you think rain is positive?",
        "Would you say rain is positive?",
    )
    assert paraphrases("Tea?") == ()


def test_a_scale_has_no_other_order() -> None:
    (question, *_) = questions()
    assert len(shuffled(question)) == 4 and all(
        "- Tea\n- Milk\n- Beer" not in text for text in shuffled(question)
    )
    scale = SurveyQuestion("s", "How?", ("A lot", "Some", "None"), "made up", "b", True)
    assert shuffled(scale) == ()


def test_a_model_that_knows_the_printed_form_by_heart_shows_both_signs() -> None:
    printed = {q.text for q in questions()} | {f"{q.text}\n- Tea\n- Milk\n- Beer" for q in questions()}
    signs = signs_of(questions(), lambda text: -1.0 if text in printed else -1.5)
    assert signs.wording is not None and signs.order is not None
    assert signs.wording.mean == pytest.approx(0.5) == signs.order.mean
    assert (signs.without_paraphrase, signs.without_order) == (0, 0)
    honest = signs_of(questions(), lambda text: -2.0)
    assert honest.order is not None and honest.order.mean == 0


def test_ones_own_paraphrases_stand_in_for_the_rules() -> None:
    asked: list[str] = []

    def likelihood(text: str) -> float:
        asked.append(text)
        return -1.0

    signs = signs_of(questions(6), likelihood, {"q0": ["Is 0 fine?"]})
    assert (
        signs.without_paraphrase == 5 and "Is 0 fine?" in asked and not any("Would" in text for text in asked)
    )


def test_a_real_models_likelihood_is_its_mean_log_probability_and_the_command_prints_both(
    tmp_path: Path,
) -> None:
    nano = str(BUILT_IN["nano"] / "base")
    likelihood = model_likelihood(nano)
    assert -20 < likelihood("In Kenya, people drink tea.") < 0
    args = ["evaluate", "contamination", "--survey", str(MADE_UP / "made_up.jsonl"), "--countries", "all"]
    args += ["--model", nano, "--control", str(MADE_UP / "made_up.jsonl")]
    made = json.loads(CliRunner().invoke(main, [*args, "--json"], catch_exceptions=False).stdout)
    assert list(made) == ["made_up", "made_up (control)"]
    assert made["made_up"] == made["made_up (control)"]
    text = CliRunner().invoke(main, args, catch_exceptions=False).output
    assert "made_up: order of options" in text
    with pytest.raises(UsageError, match="is no causal language model"):
        model_likelihood(str(tmp_path / "nothing"))
