"""Diversity, slices, one right answer, and the robustness certificate: numbers by hand on runs made up by
code.
"""

from __future__ import annotations

import csv
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cultural_palette.artifacts import RunFolder, write_whole
from cultural_palette.distributions import Distribution
from cultural_palette.errors import PromptError, SettingsError, UsageError
from cultural_palette.evaluation.predictions import Prediction, row_of
from cultural_palette.evaluation.report import certificate
from cultural_palette.evaluation.report.analysis import Analyst, Settings
from cultural_palette.evaluation.report.certificate import certify
from cultural_palette.evaluation.report.diversity import spreads
from cultural_palette.evaluation.report.load import Evaluation, load_evaluation
from cultural_palette.evaluation.report.roles import assign_roles
from cultural_palette.evaluation.report.tables import settings_text
from cultural_palette.evaluation.report.write import Request, write_report
from cultural_palette.evaluation.selection import Selection
from cultural_palette.evaluation.surveys import Survey, SurveyItem, SurveyQuestion
from cultural_palette.evaluation.topics import SCALE, TWO, UNORDERED, options_kind, topic_of
from cultural_palette.prompts import WORDINGS, fields_of, names, render, template_of, use_wording, worded
from tests.evaluation.made_up import CONTINENTS, plan

pytestmark = pytest.mark.usefixtures("no_pictures")

COUNTRIES = ("KEN", "USA", "CHN")
Predict = Callable[..., Prediction]


def items(labelled: bool = False) -> list[SurveyItem]:
    made = []
    for number in range(8):
        question = SurveyQuestion(
            f"q{number}", f"Is thing {number} good?", ("Yes", "No"), "made up", f"b{number}"
        )
        for place, code in enumerate(COUNTRIES):
            yes = 1.0 if labelled else (0.1, 0.5, 0.9)[place]
            made.append(SurveyItem(question, code, Distribution((yes, 1 - yes)), code, labelled=labelled))
    return made


def run_of(
    path: Path,
    methods: dict[str, Predict],
    *,
    labelled: bool = False,
    of: list[SurveyItem] | None = None,
    runs: int = 1,
    **manifest: Any,
) -> Evaluation:
    """A finished run. `of`: these items alone; a predictor with a `run` is told which it is."""
    asked = items(labelled) if of is None else of
    rows = []
    for run in range(runs):
        for item in asked:
            for name, predict in methods.items():
                told = {"run": run} if "run" in inspect.signature(predict).parameters else {}
                rows.append(json.dumps(row_of(name, run, item, predict(name, item, **told))))
    folder = RunFolder(path)
    write_whole(path / "rows.jsonl", "\n".join(rows) + "\n")
    survey = Survey("made up", "m.jsonl", "0" * 64, tuple(asked), Selection(COUNTRIES), {})
    folder.finish(
        {"kind": "survey-evaluation", "survey": survey.as_manifest(), "methods": list(methods), "runs": runs,
         "items": len(survey.items), "seed": 0, "settings": {"permutations": 2}, **manifest}
    )  # fmt: skip
    return load_evaluation(path, CONTINENTS)


def says(yes: float) -> Predict:
    return lambda _, item: Prediction(Distribution((yes, 1 - yes)), answer="Yes")


def truth(_: str, item: SurveyItem) -> Prediction:
    return Prediction(
        item.gold, answer="Yes", drafts={"africa": "rain tea", "asia": f"rain {item.country.lower()}"},
        regulated="the same account",
    )  # fmt: skip


def test_spread_between_countries_predicted_and_surveyed(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"vanilla": says(0.5), "cultural-palette": truth})
    blind, whole = spreads(run, "vanilla"), spreads(run, "cultural-palette")
    assert blind is not None and whole is not None

    def distance(a: float, b: float) -> float:
        mean = (a + b) / 2
        parts = [(a, mean), (b, mean), (1 - a, 1 - mean), (1 - b, 1 - mean)]
        return math.sqrt(sum(x * math.log2(x / m) / 2 for x, m in parts))

    by_hand = (distance(0.1, 0.5) + distance(0.1, 0.9) + distance(0.5, 0.9)) / 3
    assert whole.surveyed == whole.predicted == pytest.approx(by_hand)
    assert (blind.predicted, blind.surveyed) == (0.0, pytest.approx(by_hand))
    assert blind.difference.mean == pytest.approx(-by_hand)
    # "rain tea" against "rain ken": half of the words in common, distance sqrt(1/2); and the same everywhere
    assert whole.voices == pytest.approx(math.sqrt(0.5))
    assert whole.accounts == 0
    # of Africa's drafts none differs between countries, of Asia's one word of two does
    assert whole.drafts == pytest.approx(math.sqrt(0.5) / 2)
    assert (blind.drafts, blind.accounts) == (None, None)


def test_a_ranking_that_flips_with_the_wording_is_marked(tmp_path: Path) -> None:
    base = run_of(tmp_path / "a", {"vanilla": says(0.4), "prompting": truth})
    other = run_of(tmp_path / "b", {"vanilla": truth, "prompting": says(0.4)}, wording=1)
    same = run_of(tmp_path / "c", {"vanilla": says(0.45), "prompting": truth}, seed=4)
    made = certify(base, [other, same], "jsdist_e")
    assert made is not None
    wording, seed = made.conditions
    assert (wording.name, wording.items, seed.name) == ("wording 1", 24, "seed 4")
    assert made.flips == {("prompting", "vanilla"): ("wording 1",)}
    # Beyond chance in the run itself, and gone with the words.
    assert made.significant == {("prompting", "vanilla")}
    assert made.flipped("vanilla") == {"prompting": True}
    # the truth scores 100, so that is what another wording takes from it, and the seed nothing
    apart = 100 - float(np.mean(base.scores["jsdist_e"][base.methods.index("vanilla")]))
    assert made.changes("prompting") == (pytest.approx(-apart), 0.0)
    assert made.changes("vanilla") == (min(0.0, seed.change("vanilla") or 0.0), pytest.approx(apart))
    assert certify(base, [], "jsdist_e") is None


def test_answers_that_a_condition_makes_unreadable_are_counted_and_never_scored(tmp_path: Path) -> None:
    def mute_in_kenya(_: str, item: SurveyItem) -> Prediction:
        return Prediction(None) if item.country == "KEN" else says(0.4)(_, item)

    base = run_of(tmp_path / "a", {"vanilla": says(0.4), "prompting": truth, "moe": truth})
    muted = {"vanilla": mute_in_kenya, "prompting": truth, "moe": lambda *_: Prediction(None)}
    run_of(tmp_path / "b", muted, wording=1)
    made = certify(base, [load_evaluation(tmp_path / "b", CONTINENTS)], "jsdist_e")
    assert made is not None
    (wording,) = made.conditions
    assert [wording.lost(method) for method in base.methods] == [8, 0, 24]
    assert (wording.change("vanilla"), wording.change("moe")) == (pytest.approx(0), None)
    assert made.flips == {}
    write_report(Request(tmp_path / "a", tmp_path / "out", conditions=(tmp_path / "b",)), CONTINENTS)
    text = (tmp_path / "out/tables/table1_jsdist_e.md").read_text()
    assert "+0.00 to +0.00 (8 lost) | none" in text and "| all 24 lost | none |" in text


def test_a_condition_may_be_of_some_of_the_items_and_is_compared_on_those(tmp_path: Path) -> None:
    base = run_of(tmp_path / "a", {"vanilla": says(0.4), "prompting": says(0.3)})
    some = [item for item in items() if item.country == "KEN"]  # the survey there: 0.1, 0.9
    other = run_of(tmp_path / "b", {"vanilla": says(0.4), "prompting": says(0.6)}, of=some, wording=1)
    made = certify(base, [other], "jsdist_e")
    assert made is not None
    (wording,) = made.conditions
    assert wording.items == 8
    assert wording.change("vanilla") == pytest.approx(0)  # over all items its average is another
    assert (wording.change("prompting") or 0) < 0
    # Better over all items, worse over these, and better again with other words: the order turned.
    assert made.flips == {("vanilla", "prompting"): ("wording 1",)}
    with pytest.raises(UsageError, match=r"has 16 items that .* has not, such as q0/CHN: a certificate"):
        certify(other, [base], "jsdist_e")


def test_several_runs_in_one_folder_are_conditions_of_the_seed(tmp_path: Path) -> None:
    def wavering(_: str, item: SurveyItem, run: int = 0) -> Prediction:
        return says((0.3, 0.5)[run])(_, item)

    made = certify(
        run_of(tmp_path / "a", {"vanilla": wavering, "prompting": says(0.42)}, runs=2), [], "jsdist_e"
    )
    assert made is not None
    assert [condition.name for condition in made.conditions] == ["seed 0 alone", "seed 1 alone"]
    low, high = made.changes("vanilla") or (0, 0)
    assert low == pytest.approx(-high)  # the mean of two lies half way between them
    assert made.changes("prompting") == (0.0, 0.0)


def test_a_condition_that_differs_in_two_things_bears_both_names(tmp_path: Path) -> None:
    base = run_of(tmp_path / "a", {"vanilla": says(0.4)}, runs=2)
    crossed = run_of(tmp_path / "b", {"vanilla": says(0.3)}, wording=2, settings={"permutations": 1}, runs=2)
    made = certify(base, [crossed], "jsdist_e")
    assert made is not None
    assert [condition.name for condition in made.conditions] == [
        "seed 0 alone", "seed 1 alone", "orders of the options 1 and wording 2",
    ]  # fmt: skip
    fewer = run_of(tmp_path / "c", {"vanilla": says(0.3)}, wording=1)
    assert certificate.condition_of(base, fewer) == "wording 1, runs 1"
    with pytest.raises(UsageError, match="in nothing: a condition differs in one of orders of the options"):
        certify(base, [run_of(tmp_path / "d", {"vanilla": says(0.4)}, runs=2)], "jsdist_e")


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ({"settings": {"permutations": 2, "readout": "verbal"}}, r"readout \(auto, not verbal\)"),
        ({"settings": {"permutations": 2, "readout": "auto", "temperature": 0.9}}, "temperature"),
        ({"weights": {"base": "another", "meta": "m"}}, r"the model of base \(one, not another\)"),
        ({"map_sha256": "2"}, "the map"),
        ({"prompts": {"draft": "2"}}, "the prompt draft"),
    ],
)
def test_a_change_is_not_put_down_to_a_condition_when_more_differs(
    tmp_path: Path, manifest: dict[str, Any], told: str
) -> None:
    usual = {
        "settings": {"permutations": 2, "readout": "auto", "temperature": 0.3},
        "weights": {"base": "one", "africa": "a"}, "map_sha256": "1", "prompts": {"draft": "1"},
    }  # fmt: skip
    base = run_of(tmp_path / "a", {"vanilla": says(0.4)}, **usual)
    other = run_of(tmp_path / "b", {"vanilla": says(0.4)}, **{**usual, "seed": 3, **manifest})
    with pytest.raises(UsageError, match=rf"in seed, but in {told}"):
        certify(base, [other], "jsdist_e")


def test_items_that_few_gave_an_opinion_on_are_counted_under_the_table(tmp_path: Path) -> None:
    path = tmp_path / "a"
    run_of(path, {"vanilla": says(0.4)})
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    manifest["survey"]["counts"] = {"items under half answered": 3}
    write_whole(path / "manifest.json", json.dumps(manifest))
    write_report(Request(path, tmp_path / "out"), CONTINENTS)
    text = (tmp_path / "out/tables/table1_jsdist_e.md").read_text(encoding="utf-8")
    assert "- 3 items are of rows in which less than half of the respondents gave an opinion" in text


def test_a_served_palette_at_another_address_is_the_same(tmp_path: Path) -> None:
    def served(port: int) -> dict[str, dict[str, str]]:
        return {"weights": {"meta": f"openai:moerges@http://127.0.0.1:{port}/v1"}}

    base = run_of(tmp_path / "a", {"vanilla": says(0.4)}, **served(8000))
    other = run_of(tmp_path / "b", {"vanilla": says(0.4)}, wording=1, **served(8001))
    assert certificate.condition_of(base, other) == "wording 1"


def test_how_replies_are_drawn_is_printed_role_by_role() -> None:
    manifest = {"settings": {"sampling": {"draft": {"top_p": 0.9, "min_p": 0.1}}}}
    assert settings_text(manifest) == "sampling of draft top_p 0.9 min_p 0.1"
    assert settings_text({"settings": {"sampling": {}}}) == ""


@pytest.mark.parametrize(
    ("meta", "blend", "told"),
    [
        ("openai:moerges@http://127.0.0.1:8000/v1", None, ", the MoErges blending as its server was started"),
        ("embedded:nano/meta", "uniform", ", the MoErges blending by uniform in every row"),
        ("embedded:nano/meta", None, ""),  # each method's own
        ("openai:gpt-4o-mini", None, ""),
    ],
)
def test_how_the_moerges_blends_is_printed_where_no_method_says_it(
    meta: str, blend: str | None, told: str
) -> None:
    manifest = {"settings": {"permutations": 2, "blend": blend}, "models": {"meta": meta}}
    assert settings_text(manifest) == "orders of the options 2" + told


def test_another_wording_has_other_prompts(tmp_path: Path) -> None:
    base = run_of(tmp_path / "a", {"vanilla": says(0.4)}, prompts={"draft": "1"})
    other = run_of(tmp_path / "b", {"vanilla": says(0.4)}, prompts={"draft": "2"}, wording=1)
    assert certificate.condition_of(base, other) == "wording 1"
    strange = run_of(tmp_path / "c", {"moe": says(0.4)}, wording=1)
    with pytest.raises(UsageError, match=r"none of the methods of .*, which are vanilla\."):
        certify(base, [strange], "jsdist_e")


def test_methods_that_no_condition_measured_are_named(tmp_path: Path) -> None:
    methods = {"vanilla": says(0.4), "best-single-draft": says(0.3), "cultural-palette": truth}
    run_of(tmp_path / "a", {**methods, "debate": says(0.45)})
    some = [item for item in items() if item.country == "KEN"]
    run_of(tmp_path / "b", methods, of=some, wording=1)
    write_report(Request(tmp_path / "a", tmp_path / "out", conditions=(tmp_path / "b",)), CONTINENTS)
    text = (tmp_path / "out/tables/certificate.md").read_text(encoding="utf-8")
    assert "| Two-agent debate | not measured | not measured | not measured |" in text
    # chosen by the run's other items: with fewer of them it is another method
    assert "| Best single draft | not measured |" in text
    assert "Not measured in any condition: Best single draft, Two-agent debate." in text
    table1 = (tmp_path / "out/tables/table1_jsdist_e.md").read_text(encoding="utf-8")
    assert table1.count("| not measured | not measured |") == 2
    rows = table_rows(tmp_path / "out/tables/certificate.csv")
    assert {row["method"] for row in rows} == {"vanilla", "cultural-palette"}
    run_of(tmp_path / "c", methods, wording=1)
    whole = certify(
        load_evaluation(tmp_path / "a", CONTINENTS), [load_evaluation(tmp_path / "c", CONTINENTS)], "jsdist_e"
    )
    assert whole is not None and "best-single-draft" in whole.methods  # over the same items it is the same


def test_the_report_has_certificate_worth_slices_and_diversity(tmp_path: Path) -> None:
    run_of(tmp_path / "a", {"vanilla": says(0.4), "cultural-palette": truth})
    run_of(tmp_path / "b", {"vanilla": says(0.5), "cultural-palette": truth}, wording=1)
    request = Request(tmp_path / "a", tmp_path / "out", conditions=(tmp_path / "b",))
    written = write_report(request, CONTINENTS)
    there = {Path(file).stem for file in written.files if file.startswith("tables/")}
    assert {"certificate", "worth", "breakdown", "diversity"} <= there
    certificate = (tmp_path / "out/tables/certificate.md").read_text()
    assert "Change with: wording 1 (n 24)" in certificate and "Findings that flip: none." in certificate
    worth = (tmp_path / "out/tables/worth.md").read_text()
    assert "| Cultural Palette | > 10,000 |" in worth
    assert "labels" not in there  # no item has one right answer


def test_the_certificate_stands_beside_every_score(tmp_path: Path) -> None:
    run_of(tmp_path / "a", {"vanilla": says(0.4), "prompting": says(0.42), "cultural-palette": truth})
    run_of(
        tmp_path / "b", {"vanilla": says(0.42), "prompting": says(0.4), "cultural-palette": truth}, wording=1
    )
    request = Request(tmp_path / "a", tmp_path / "out", conditions=(tmp_path / "b",))
    written = write_report(request, CONTINENTS)
    for name in ("table1_jsdist_e", "table1_jsd_e", "metrics"):
        text = (tmp_path / f"out/tables/{name}.md").read_text()
        assert "| Robustness: change | rank flips with |" in text
        assert "wording 1 (24 items)" in text
        lines = {
            line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines() if "|" in line
        }
        place = lines["Method"].index("Robustness: change")
        assert lines["Cultural Palette"][place : place + 2] == ["+0.00 to +0.00", "none"]
        assert lines["Vanilla"][place].startswith("+0.00 to +") and lines["Vanilla"][place + 1].startswith(
            "1"
        )
        assert lines["Prompting"][place].startswith("−") and lines["Prompting"][place].endswith(" to +0.00")
        assert lines["uniform"][place : place + 2] == ["", ""]
    said = "Robustness of Cultural Palette (wording 1): the average moves between +0.00 and +0.00, its rank "
    assert said + "flips with 0 of 2 other methods." in written.verdict
    with (tmp_path / "out/tables/table1.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows["cultural-palette"]["rank_flips"] == "0" and float(rows["vanilla"]["robustness_high"]) > 0

    plain = write_report(Request(tmp_path / "a", tmp_path / "plain"), CONTINENTS)
    assert "tables/certificate.md" not in plain.files
    assert "Robustness" not in (tmp_path / "plain/tables/table1_jsdist_e.md").read_text()


def test_items_with_one_right_answer_are_scored_as_such(tmp_path: Path) -> None:
    run_of(tmp_path / "a", {"vanilla": says(0.8), "prompting": says(0.3)}, labelled=True)
    written = write_report(Request(tmp_path / "a", tmp_path / "out"), CONTINENTS)
    labels = (tmp_path / "out/tables/labels.md").read_text()
    assert "tables/worth.md" not in written.files  # a right answer is no sample of people
    # 0.8 on the right answer: Brier 0.2**2 + 0.2**2
    assert "| Vanilla | 100.00 | [100.00, 100.00] | – | 0.800 | 0.080 |" in labels
    assert "| Prompting | 0.00 | [0.00, 0.00] | – | 0.300 | 0.980 |" in labels


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("How important is God in your life?", "religion and morals"),
        ("How is the economy doing?", "economy and work"),
        ("Do you really like tea?", "other"),  # "ally" is a word of its own
        ("Is China an ally of your country?", "security and foreign affairs"),
    ],
)
def test_topics_by_words(text: str, topic: str) -> None:
    assert topic_of(text) == topic
    assert topic_of(text, "Fiction") == "Fiction"


def test_kinds_of_options() -> None:
    assert options_kind(("Yes", "No", "Don't know"), None) == TWO
    assert options_kind(("A lot", "Some", "None"), True) == SCALE
    assert options_kind(("Tea", "Milk", "Beer"), None) == UNORDERED


# -- other wordings


def test_every_wording_keeps_the_fields_and_the_question_and_says_it_otherwise() -> None:
    for number in WORDINGS[1:]:
        for name in (*names(f"wording-{number}"), *names(f"wording-{number}/baselines")):
            original = name.removeprefix(f"wording-{number}/")
            text, ours = worded(original, number), template_of(original)
            assert text != ours
            assert text.partition("[user]")[2].strip() == ours.partition("[user]")[2].strip()
            assert {f for f in fields_of(original) if "{" + f + "}" in text} == set(fields_of(original))


def test_a_wording_holds_in_its_block_and_for_our_texts_only() -> None:
    fields = {"question": "Q?", "options": "A. Yes"}
    with use_wording(1):
        other = render("baselines/vanilla_option", **fields)
        own = render(
            "baselines/vanilla_option", template="[system]\nMine\n[user]\n{question}{options}", **fields
        )
    assert other[0].text == "Pick one of the answers. Write down its letter and nothing else."
    assert own[0].text == "Mine"
    assert render("baselines/vanilla_option", **fields)[0].text != other[0].text
    with pytest.raises(PromptError, match="No wording 7; there are 0, 1, 2"), use_wording(7):
        pass


def test_a_plan_names_its_wording_and_refuses_what_has_none(script: object) -> None:
    ours = plan("vanilla")
    assert "wording" not in ours.config()
    other = plan("vanilla", wording=2)
    assert other.config()["wording"] == 2
    assert other.config()["prompts"] != ours.config()["prompts"]
    with pytest.raises(SettingsError, match="Wording 3: expected one of 0, 1, 2"):
        plan("vanilla", wording=3)
    with pytest.raises(SettingsError, match="paper's prompt order only"):
        plan("vanilla", wording=1, prompt_order="prefix")


def test_means_of_slices_are_those_of_their_items(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", {"cultural-palette": truth})
    write_report(Request(tmp_path / "a", tmp_path / "out"), CONTINENTS)
    text = (tmp_path / "out/tables/breakdown.md").read_text()
    assert "| Africa | 8 | 8 |" in text and "| two options | 24 | 8 |" in text
    assert np.isclose(run.scores["jsdist_e"], 100).all()


# -- country discrimination in slices and tests


def apart(a: float, b: float) -> float:
    """Jensen-Shannon distance in base e, times 100, of two answers with these shares of "Yes"."""
    mean = (a + b) / 2
    parts = [(a, mean), (b, mean), (1 - a, 1 - mean), (1 - b, 1 - mean)]
    return 100 * math.sqrt(sum(x * math.log(x / m) / 2 for x, m in parts))


def table_rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_gains_by_slice_test_and_question_are_those_by_hand(tmp_path: Path) -> None:
    """The survey says 0.1, 0.5 and 0.9 in three countries; one method says the same, the other one thing."""
    run_of(tmp_path / "a", {"vanilla": says(0.4), "cultural-palette": truth, "without-draft": truth})
    written = write_report(Request(tmp_path / "a", tmp_path / "out"), CONTINENTS)
    tables = tmp_path / "out/tables"
    of_country = {
        "Africa": (apart(0.1, 0.5) + apart(0.1, 0.9)) / 2,
        "America": (apart(0.5, 0.1) + apart(0.5, 0.9)) / 2,
        "Asia": (apart(0.9, 0.1) + apart(0.9, 0.5)) / 2,
    }
    whole = sum(of_country.values()) / 3
    slices = {(row["slice"], row["method"]): row for row in table_rows(tables / "slices.csv")}
    for name, gain in of_country.items():
        row = slices[name, "cultural-palette"]
        assert float(row["discrimination"]) == pytest.approx(gain)
        # the same in all eight batteries, so the interval is a point
        assert float(row["discrimination_low"]) == pytest.approx(gain)
        assert row["rank_correlation"] == ""  # of one country there is no order
    assert float(slices["two options", "cultural-palette"]["discrimination"]) == pytest.approx(whole)
    assert float(slices["two options", "cultural-palette"]["rank_correlation"]) == pytest.approx(1)
    blind = [row for (_, method), row in slices.items() if method == "vanilla"]
    assert {float(row["discrimination"]) for row in blind} == {0.0}  # exactly
    assert f"| {of_country['Africa']:+.2f} | [{of_country['Africa']:+.2f}" in (
        tables / "breakdown_gain.md"
    ).read_text(encoding="utf-8")
    assert "right country: gain | 95 %" in (tables / "breakdown.md").read_text(encoding="utf-8")

    tests = {
        (row["family"], row["method"], row["against"]): row
        for row in table_rows(tables / "tests.csv")
        if (row["measure"], row["metric"]) == ("right country", "jsdist_e")
    }
    against = tests["best baseline", "cultural-palette", "vanilla"]
    assert float(against["difference"]) == pytest.approx(whole)
    assert float(against["p"]) == 2 / 2**8  # eight batteries of one sign
    assert float(against["p_holm"]) == 2 * 2 / 2**8  # a family of two: the palette and its ablation
    alone = {row["method"]: row for row in tests.values() if row["family"] == "best floor"}
    assert (float(alone["vanilla"]["difference"]), float(alone["vanilla"]["p"])) == (0.0, 1.0)
    assert float(alone["cultural-palette"]["p_holm"]) == 3 * 2 / 2**8
    planned = tests["planned", "cultural-palette", "without-draft"]
    assert (float(planned["difference"]), float(planned["p_holm"])) == (0.0, 1.0)
    text = (tables / "tests.md").read_text(encoding="utf-8")
    assert "right country, gain minus that of Vanilla: difference" in text
    assert "right country, gain minus its" in (tables / "planned.tex").read_text(encoding="utf-8")
    assert any(line.startswith("Against 0: better") for line in written.verdict)

    questions = {(row["question"], row["method"]): row for row in table_rows(tables / "questions.csv")}
    assert len(questions) == 8 * 3
    assert float(questions["q3", "cultural-palette"]["discrimination"]) == pytest.approx(whole)
    assert float(questions["q3", "cultural-palette"]["rank_correlation"]) == pytest.approx(1)
    assert float(questions["q3", "vanilla"]["rank_correlation"]) == 0


def test_runs_are_held_against_themselves_where_a_method_lacks_one(tmp_path: Path) -> None:
    """A method without any answer in a run is compared over the others, run by run."""

    def without(lost: int, *, shift: float = 0.0) -> Predict:
        def predict(_: str, item: SurveyItem, run: int = 0) -> Prediction:
            if run == lost:
                return Prediction(None)
            return says((0.2, 0.3, 0.4)[run] + shift)(_, item)

        return predict

    run = run_of(
        tmp_path / "a",
        {"vanilla": without(1), "prompting": without(2), "cultural-palette": without(3)},
        runs=3,
    )
    found = Analyst(run, assign_roles(run.methods), Settings(permutations=500)).analyse("jsdist_e")
    # In the runs that they share they say the same: whoever pairs by place finds a difference.
    best, other = sorted(("vanilla", "prompting"), key=lambda m: m != found.best_baseline)
    assert found.scores.against_baseline[other].comparison.difference.mean == 0
    assert found.scores.against_baseline["cultural-palette"].comparison.difference.mean == 0
    assert best == found.best_baseline
    alone = run_of(tmp_path / "b", {"vanilla": without(0), "moe": without(1, shift=0.1)}, runs=2)
    apart = Analyst(alone, assign_roles(alone.methods), Settings(permutations=500)).analyse("jsdist_e")
    ((_, test),) = apart.scores.against_baseline.items()  # no run in common: each by its own
    assert test.comparison.difference.n == 24
