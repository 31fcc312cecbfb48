"""Eight readouts of one model on the same questions; each against what it says it is, on nano."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from cultural_palette.cli import main  # noqa: E402
from cultural_palette.embedded.engine import get_engine  # noqa: E402
from cultural_palette.evaluation.elicit_survey import best_readout  # noqa: E402
from cultural_palette.evaluation.elicitation import (  # noqa: E402
    PREFIX,
    READOUTS,
    Elicitor,
    as_distribution,
    written_shares,
)
from cultural_palette.questions import Question  # noqa: E402

QUESTION = Question("Is family important in life?", ("Very important", "Not important"))


@pytest.fixture(scope="module")
def elicitor() -> Elicitor:
    return Elicitor(get_engine("nano"), "base", "baselines/prompting_option", samples=4)


def logp_by_hand(elicitor: Elicitor, prompt: list[int], ids: list[int]) -> float:
    """One plain pass of the base, token by token."""
    from cultural_palette.moerges.modes import Base

    with torch.inference_mode(), elicitor.engine.colours.use([Base()]):
        logps = elicitor.engine.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
    return sum(float(logps[len(prompt) - 1 + n, token]) for n, token in enumerate(ids))


def test_texts_are_scored_by_sum_mean_and_pmi(elicitor: Elicitor) -> None:
    prompt = elicitor.encoded(QUESTION, "KEN")
    empty = elicitor.encoded(Question("-", QUESTION.options), "KEN", options=False)
    spelt = [elicitor.engine.tokenizer(o, add_special_tokens=False)["input_ids"] for o in QUESTION.options]
    sums = [logp_by_hand(elicitor, prompt, ids) for ids in spelt]
    alone = [logp_by_hand(elicitor, empty, ids) for ids in spelt]
    read = {name: READOUTS[name](elicitor, QUESTION, "KEN") for name in ("text-sum", "text-mean", "text-pmi")}
    assert read["text-sum"] == pytest.approx(sums, abs=1e-3)
    assert read["text-mean"] == pytest.approx(
        [s / len(i) for s, i in zip(sums, spelt, strict=True)], abs=1e-3
    )
    assert read["text-pmi"] == pytest.approx([s - a for s, a in zip(sums, alone, strict=True)], abs=1e-3)


def test_a_prefilled_reply_stands_before_the_label(elicitor: Elicitor) -> None:
    begun = elicitor.engine.tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
    after = [*elicitor.encoded(QUESTION, "KEN"), *begun]
    expected = elicitor.engine.option_logprobs("base", after, QUESTION.labels).result().logprobs
    assert READOUTS["prefilled"](elicitor, QUESTION, "KEN") == pytest.approx(expected, abs=1e-6)
    assert READOUTS["labels"](elicitor, QUESTION, "KEN") != pytest.approx(expected, abs=1e-2)


def test_every_readout_counts_what_it_costs(elicitor: Elicitor) -> None:
    cost = {name: elicitor.elicit(name, QUESTION, "KEN").tokens for name in READOUTS}
    assert all(tokens > 0 for tokens in cost.values())
    assert cost["labels"] < cost["text-sum"] < cost["text-pmi"] and cost["labels"] < cost["sampling"]


@pytest.mark.parametrize(
    ("reply", "shares"),
    [
        ("A: 40%, B: 60%", (0.4, 0.6)),
        ("A - 25\nB - 75", (0.25, 0.75)),
        ("A: 30% and A: 90%, B: 30%", (0.5, 0.5)),
        ("A: 100%, B: 0%", (1.0, 1e-3)),
        ("A: 40%", None),
        ("A: 0%, B: 0%", None),
        ("I can not say.", None),
    ],
)
def test_written_shares_are_all_there_or_none(reply: str, shares: tuple[float, ...] | None) -> None:
    found = written_shares(reply, ("A", "B"))
    assert found is None if shares is None else found == pytest.approx([math.log(s) for s in shares])


def test_weights_become_shares() -> None:
    assert as_distribution([math.log(3) - 700, -700.0]).probabilities == pytest.approx((0.75, 0.25))


def test_the_default_is_the_best_that_reads_everything() -> None:
    def row(name: str, mean: float, read: int) -> dict[str, Any]:
        return {"readout": name, "items": 4, "read": read, "plain": {"mean": mean}, "calibrated": None}

    assert (
        best_readout([row("labels", 60, 4), row("sampling", 90, 3), row("text-sum", 65, 4)], "plain")
        == "text-sum"
    )
    assert best_readout([row("sampling", 90, 3)], "plain") is None


def test_the_command_makes_one_table_and_goes_on(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"q{n}", "question": f"Is {word} important?", "options": ["Yes", "No"], "country": "KEN",
            "distribution": [0.7, 0.3], "battery": f"b{n}",
        }
        for n, word in enumerate(("family", "work", "food", "faith"))
    ]  # fmt: skip
    survey = tmp_path / "made-up.jsonl"
    survey.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "evaluate", "elicitation", "--survey", str(survey), "--countries", "KEN", "--orders", "1",
        "--out", str(tmp_path / "run"), "--readouts", "labels,text-sum",
    ]  # fmt: skip
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert [row["readout"] for row in table] == ["labels", "text-sum"]
    for row in table:
        assert (row["items"], row["read"], row["calibration"]["readings"]) == (2, 2, 2)
        assert 0 <= row["plain"]["mean"] <= 100
    before = (tmp_path / "run" / "rows.jsonl").read_bytes()
    again = CliRunner().invoke(main, command)
    assert "best calibrated among those that read every item" in again.output
    assert (tmp_path / "run" / "rows.jsonl").read_bytes() == before
    wrong = CliRunner().invoke(main, [*command, "--readouts", "guess"])
    assert wrong.exit_code == 2 and "no 'guess'" in wrong.output
    more = CliRunner().invoke(main, [*command, "--readouts", "labels,prefilled"])
    assert more.exit_code == 1 and "is finished, without prefilled" in more.output

    def refused(*changes: str) -> str:
        result = CliRunner().invoke(main, [*command, *changes])
        assert result.exit_code == 1, result.output
        return result.output

    for state in ("finished", "begun"):
        if state == "begun":
            (tmp_path / "run" / "manifest.json").unlink()
        assert " seed 0, now 1" in refused("--seed", "1", "--calibrate", "0")
        assert " weights " in refused("--model", "embedded:nano/africa")
        assert " prompt_sha256 " in refused("--prompt", "survey/shares")
        survey.write_text(survey.read_text().replace("food", "rain"))  # under the same ids
        assert " questions_sha256 " in refused()
        survey.write_text(survey.read_text().replace("rain", "food"))
    rows_file = tmp_path / "run" / "rows.jsonl"
    for odd in ({}, {"item": 1}, {**json.loads(before.splitlines()[0]), "order": [5, 7]}):
        rows_file.write_bytes(before + json.dumps(odd).encode() + b"\n")
        assert "rows.jsonl:9: " in refused()
