"""GlobalOpinionQA's CSV with every trap of its release, selections, and what can not be read."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.selection import PAPER, Selection, SelectionError, resolve_countries
from cultural_palette.evaluation.splits import split
from cultural_palette.evaluation.survey_formats import SurveyError
from cultural_palette.evaluation.surveys import MADE_UP, Survey, SurveyItem, SurveyQuestion, load_survey

OPINIONS = MADE_UP / "made_up_opinions.csv"


def row(
    question: str, selections: dict[str, object] | str, options: object, source: str = "GAS"
) -> list[str]:
    told = selections if isinstance(selections, str) else f"defaultdict(<class 'list'>, {selections!r})"
    return [question, told, repr(options), source]


def write(folder: Path, *rows: list[str], name: str = "survey.csv") -> Path:
    file = folder / name
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, lineterminator="\n").writerows(
            [["question", "selections", "options", "source"], *rows]
        )
    return file


def golds(survey: Survey) -> dict[str, list[float]]:
    return {item.country: list(item.gold.probabilities) for item in survey.items}


YES_NO = ["Yes", "No"]


def test_a_country_has_one_row_national_before_old_before_non_national(tmp_path: Path) -> None:
    every = {
        "India (Non-national sample)": [0.1, 0.9],
        "India (Old national sample)": [0.2, 0.8],
        "India (Current national sample)": [0.3, 0.7],
    }
    older = {"India (Non-national sample)": [0.1, 0.9], "India (Old national sample)": [0.2, 0.8]}
    file = write(
        tmp_path,
        row("Is it so?", every, YES_NO),
        row("Is it so now?", older, YES_NO),
        row("Was it so?", {"Kenya": [0.5, 0.5], "Kenya (Non-national sample)": [0.9, 0.1]}, YES_NO),
    )
    survey = load_survey(file)
    assert [(item.label, item.gold.probabilities[0]) for item in survey.items] == [
        ("India (Current national sample)", 0.3),
        ("India (Old national sample)", 0.2),
        ("Kenya", 0.5),
    ]
    assert survey.counts["country rows behind a primary one"] == 4


def test_labels_of_both_surveys_find_their_country(tmp_path: Path) -> None:
    labels = {"Britain": "GBR", "Northern Ireland": "NIR", "S. Korea": "KOR", "Czech Rep.": "CZE",
              "Taiwan ROC": "TWN", "Bolivia (Non-national sample)": "BOL", "Palest. ter.": "PSE"}  # fmt: skip
    survey = load_survey(write(tmp_path, row("Is it so?", {label: [0.5, 0.5] for label in labels}, YES_NO)))
    assert {item.label: item.country for item in survey.items} == labels


def test_an_unknown_country_is_set_aside_with_its_line_and_nothing_else(tmp_path: Path) -> None:
    survey = load_survey(
        write(tmp_path, row("Is it so?", {"Atlantis": [0.5, 0.5], "Kenya": [0.4, 0.6]}, YES_NO))
    )
    assert golds(survey) == {"KEN": [0.4, 0.6]}
    assert survey.set_aside == ("survey.csv:2: unknown country (Atlantis)",)


def test_sums_near_one_are_renormalised_others_set_aside(tmp_path: Path) -> None:
    cells = {"Kenya": [0.598, 0.399], "Brazil": [0.6, 0.2], "Canada": [0.0, 0.0], "China": [6, 4]}
    survey = load_survey(write(tmp_path, row("Is it so?", cells, YES_NO)))
    # 0.598 + 0.399 = 0.997, as World Values Survey rows do; 0.598 / 0.997 = 0.59980
    assert golds(survey)["KEN"] == pytest.approx([0.59980, 0.40020], abs=1e-5)
    assert list(golds(survey)) == ["KEN"]
    assert survey.counts["country rows renormalised"] == 1
    assert survey.counts["set aside: all zeros"] == 1
    assert survey.counts["set aside: shares that do not sum to 1"] == 2


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ([60, 40], [0.6, 0.4]),
        ([59.8, 40.3], [59.8 / 100.1, 40.3 / 100.1]),
        ([98.5, 0], [1, 0]),
        ([0.6, 0.4], [0.6, 0.4]),
        ([1.0, 0.0], [1, 0]),
        ([97, 0], None),  # what is missing is not known
        ([60, 45], None),
        ([600, 400], None),
    ],
)
def test_percent_is_divided_and_said_so_in_every_format(
    tmp_path: Path, given: list[float], taken: list[float] | None
) -> None:
    kept = {"Brazil": [0.5, 0.5]}
    csv_file = write(tmp_path, row("Is it so?", {"Kenya": given, **kept}, YES_NO))
    ours = tmp_path / "ours.jsonl"
    rows = [
        {"id": "q", "question": "Is it so?", "options": YES_NO, "country": country, "distribution": shares}
        for country, shares in (("KEN", given), ("BRA", [0.5, 0.5]))
    ]
    ours.write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    theirs = tmp_path / "modular.json"
    entries = [
        {"question": "Is it so?", "options": YES_NO, "attribute": country, "gold_distribution": shares}
        for country, shares in (("Kenya", given), ("Brazil", [0.5, 0.5]))
    ]
    theirs.write_text(json.dumps(entries))
    for file in (csv_file, ours, theirs):
        survey = load_survey(file)
        counted = survey.counts.get("country rows in percent, divided by 100", 0)
        if taken is None:
            assert list(golds(survey)) == ["BRA"] and not counted
            assert f"{given[0]:g}, {given[1]:g}, in all {sum(given):g}" in survey.set_aside[0]
        else:
            assert golds(survey)["KEN"] == pytest.approx(taken) and not survey.set_aside
            assert counted == (1 if sum(given) > 2 else 0)


TWICE = {"Kenya": [0.4, 0.6], "KEN": [0.7, 0.3]}


def test_one_country_twice_with_other_shares_is_named_and_counted_in_every_format(tmp_path: Path) -> None:
    same = {"Kenya": [0.4, 0.6], "Republic of Kenya": [0.4, 0.6], "Kenya (Non-national sample)": [0.1, 0.9]}
    csv_file = write(tmp_path, row("Is it so?", TWICE, YES_NO), row("Was it so?", same, YES_NO))
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "modular.json"
    ours.write_text(
        "".join(
            json.dumps(
                {"id": "q", "question": "Is it so?", "options": YES_NO, "country": c, "distribution": d}
            )
            + "\n"
            for c, d in TWICE.items()
        )
    )
    entries = [
        {"question": "Is it so?", "options": YES_NO, "attribute": c, "gold_distribution": d}
        for c, d in TWICE.items()
    ]
    theirs.write_text(json.dumps(entries, indent=0))
    folder = tmp_path / "wvs"
    folder.mkdir()
    (folder / "wvs_questions.json").write_text(
        json.dumps([{"Q_id": "Q1", "question": "Is it so?", "option_lst": YES_NO}])
    )
    (folder / "proportions_group_by_country.json").write_text(
        json.dumps({c: {"Q1": {"1": d[0], "2": d[1]}} for c, d in TWICE.items()})
    )
    for source, where in (
        (csv_file, "survey.csv:2"),
        (ours, "ours.jsonl:2"),
        (theirs, "modular.json:"),
        (folder, ""),
    ):
        survey = load_survey(source)
        assert golds(survey)["KEN"] == [0.4, 0.6]
        assert survey.counts["set aside: country twice, the first counts"] == 1
        (line,) = survey.set_aside
        assert where in line and "KEN: Kenya stands at" in line
        assert survey.counts.get("country rows behind a primary one", 0) == (2 if source == csv_file else 0)


@pytest.mark.parametrize("number", ["nan", "NaN", "inf", "-inf"])
def test_one_countrys_number_that_is_none_costs_that_countrys_row_in_every_format(
    tmp_path: Path, number: str
) -> None:
    printed = number.lower()
    csv_file = write(
        tmp_path, row("Is it so?", f"{{'Kenya': [{printed}, 0.5], 'Brazil': [0.5, 0.5]}}", YES_NO)
    )
    said = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[printed]
    ours, theirs, folder = tmp_path / "ours.jsonl", tmp_path / "modular.json", tmp_path / "wvs"
    asked = '"question": "Is it so?", "options": ["Yes", "No"]'
    line = f'{{{{"id": "q", {asked}, "country": "{{}}", "distribution": [{{}}, 0.5]}}}}\n'
    ours.write_text(line.format("KEN", said) + line.format("BRA", 0.5))
    entry = f'{{{{{asked}, "attribute": "{{}}", "gold_distribution": [{{}}, 0.5]}}}}'
    theirs.write_text(f"[{entry.format('Kenya', said)},\n{entry.format('Brazil', 0.5)}]")
    folder.mkdir()
    (folder / "wvs_questions.json").write_text(
        json.dumps([{"Q_id": "Q1", "question": "Is it so?", "option_lst": YES_NO}])
    )
    (folder / "proportions_group_by_country.json").write_text(
        f'{{"KEN": {{"Q1": {{"1": {said}, "2": 0.5}}}}, "BRA": {{"Q1": {{"1": 0.5, "2": 0.5}}}}}}'
    )
    for source in (csv_file, ours, theirs, folder):
        survey = load_survey(source)
        assert golds(survey) == {"BRA": [0.5, 0.5]}, source
        assert len(survey.set_aside) == 1, survey.set_aside


@pytest.mark.parametrize(
    "printed",
    ["NaN", "-nan", "NAN", "np.nan", "numpy.inf", "Infinity", "-Infinity", "None", "null", "NA", "True",
     "'0.5'", "1e999", "9" * 400, "np.float64(nan)", "float('x')"],
)  # fmt: skip
def test_what_programs_print_for_no_number_costs_one_countrys_row(tmp_path: Path, printed: str) -> None:
    """NaN in other spellings, null, numpy's own: the question's other countries stay."""
    cells = f"{{'Kenya': [{printed}, 0.5], 'Brazil': [0.5, 0.5]}}"
    survey = load_survey(write(tmp_path, row("Is it so?", cells, YES_NO)))
    assert golds(survey) == {"BRA": [0.5, 0.5]} and len(survey.set_aside) == 1


def test_numpys_numbers_are_numbers(tmp_path: Path) -> None:
    cells = "{'Kenya': [np.float64(0.25), float32(0.75)], 'Brazil': array([0.5, 0.5])}"
    survey = load_survey(write(tmp_path, row("Is it so?", cells, YES_NO)))
    assert golds(survey) == {"KEN": [0.25, 0.75], "BRA": [0.5, 0.5]} and not survey.set_aside


@pytest.mark.parametrize("name", ["survey.csv", "survey.json"])
def test_a_survey_in_utf_16_is_named_as_that(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("question,selections\n", encoding="utf-16")
    with pytest.raises(SurveyError, match=f"{name} is UTF-16: save it as UTF-8"):
        load_survey(tmp_path / name)


@pytest.mark.parametrize(
    ("cells", "options", "told"),
    [
        ({"Kenya": [6, 4], "Brazil": [6, 4]}, YES_NO,
         ["survey.csv:2", "Kenya: 6, 4, in all 10", "sum to 1 or to 100"]),
        ({"Kenya": [0.5, 0.5]}, ["Yes", "yes"], ["survey.csv:2", "'yes', stands there already as 'Yes'"]),
        ({"Wakanda": [0.5, 0.5], "Frnace": [0.5, 0.5]}, YES_NO,
         ["survey.csv:2", "Wakanda", "Frnace: did you mean FRA (France)?", "by name or ISO code"]),
        ({"Kenya": [0.2, 0.3, 0.5]}, YES_NO, ["survey.csv:2", "Kenya: 3 shares for 2 options"]),
        ({"Kenya": [0, 0]}, YES_NO, ["survey.csv:2", "all zeros (Kenya"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["floors"], ["plan", "--difference", "1"], ["surveys", "--out", "run"]])
def test_a_survey_of_which_nothing_can_be_used_says_file_line_value_and_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: dict[str, object], options: list[str],
    told: list[str], command: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, row("Is it so?", cells, options))
    done = CliRunner().invoke(main, ["evaluate", *command, "--survey", str(file), "--countries", "all"])
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.output
    for words in (*told, str(file)):
        assert words in done.output, done.output
    assert "more countries" not in done.output and "{'" not in done.output


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--countries", "FRA"], "It has answers of BRA, KEN: name some with --countries."),
        (["--countries", "all", "--max-options", "2"], "1 questions have more options than --max-options"),
    ],
)
def test_a_selection_of_nothing_says_what_there_is(tmp_path: Path, flags: list[str], told: str) -> None:
    file = write(tmp_path, row("So?", {"Kenya": [0.5, 0.3, 0.2], "Brazil": [0.5, 0.3, 0.2]}, ["a", "b", "c"]))
    done = CliRunner().invoke(main, ["evaluate", "floors", "--survey", str(file), *flags])
    assert done.exit_code == 2 and told in done.output


def test_number_options_become_text_and_an_empty_question_is_counted(tmp_path: Path) -> None:
    survey = load_survey(
        write(
            tmp_path,
            row("How much, 1 to 3?", {"Kenya": [0.2, 0.3, 0.5]}, [1.0, 2, 3.5]),
            row("  ", {"Kenya": [0.5, 0.5], "Chile": [0.5, 0.5]}, YES_NO),
            row("Which?", {"Kenya": [0.5, 0.5]}, ["Same", "same "]),
            row("Which of these?", {"Kenya": [1 / 41] * 41}, [f"No. {n}" for n in range(41)]),
        )
    )
    assert [question.options for question in survey.questions] == [("1", "2", "3.5")]
    assert survey.counts["questions: number options"] == 1
    assert survey.counts["set aside: question that can not be asked"] == 3
    assert [line.split(":")[1] for line in survey.set_aside] == ["3", "4", "5"]


def test_substantive_options_are_one_list_with_their_distribution(tmp_path: Path) -> None:
    options = ["Yes", "No", "Don't know anyone (VOL)", "DK/Refused", "No answer/ refused", "Missing; Unknown"]
    file = write(tmp_path, row("Is it so?", {"Kenya": [0.4, 0.2, 0.2, 0.1, 0.05, 0.05]}, options))
    (kept,) = load_survey(file, Selection(options="substantive")).items
    assert kept.question.options == ("Yes", "No", "Don't know anyone (VOL)")
    assert list(kept.gold.probabilities) == pytest.approx([0.5, 0.25, 0.25])  # 0.4, 0.2, 0.2 of 0.8
    (whole,) = load_survey(file).items
    assert len(whole.question.options) == len(whole.gold) == 6
    assert whole.question.id == kept.question.id


def test_a_column_of_totals_is_no_option_whatever_is_kept(tmp_path: Path) -> None:
    # 0.34 of the gold lay on the total; what is left is 0.4 and 0.26 of 0.66
    file = write(tmp_path, row("Is it so?", {"Kenya": [0.4, 0.26, 0.34]}, ["Yes", "No", "Total          N="]))
    for options in ("all", "substantive"):
        survey = load_survey(file, Selection(options=options))
        assert survey.questions[0].options == ("Yes", "No")
        assert golds(survey)["KEN"] == pytest.approx([0.606, 0.394], abs=1e-3)
    assert survey.counts["questions: a column of totals among the options"] == 1


def test_rows_with_an_opinion_from_less_than_half_are_flagged(tmp_path: Path) -> None:
    answers = {"Kenya": [0.2, 0.2, 0.6], "Brazil": [0.3, 0.3, 0.4]}
    survey = load_survey(write(tmp_path, row("Is it so?", answers, ["Yes", "No", "Hard to say"])))
    assert {item.country: item.answered for item in survey.items} == pytest.approx({"KEN": 0.4, "BRA": 0.6})
    assert survey.counts["items under half answered"] == 1


def test_an_answer_of_dont_knows_only_has_no_opinion(tmp_path: Path) -> None:
    file = write(tmp_path, row("So?", {"Kenya": [0, 0, 1], "Chile": [0.5, 0.5, 0]}, ["Yes", "No", "DK"]))
    survey = load_survey(file, Selection(options="substantive"))
    assert list(golds(survey)) == ["CHL"]
    assert survey.counts["set aside: no opinion at all"] == 1


def test_most_options_counts_the_options_that_are_shown(tmp_path: Path) -> None:
    file = write(tmp_path, row("So?", {"Kenya": [0.5, 0.3, 0.2]}, ["Yes", "No", "Don't know"]))
    assert not load_survey(file, Selection(max_options=2)).items
    assert load_survey(file, Selection(max_options=2, options="substantive")).items


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (["Is it?", "not a dictionary", "['Yes', 'No']", "GAS"], "selections"),
        (["Is it?", "defaultdict(list, {'Kenya': [0.5, half]})", "['Yes', 'No']", "GAS"], "selections"),
        (["Is it?", "{'Kenya': [0.5, 0.5]}", "['Yes', 'No'", "GAS"], "options"),
        (["Is it?", "{'Kenya': [0.5, 0.5]}", "['Yes', 'No']"], "3 fields for 4 columns"),
        (["Is it?", "{'Kenya': " + "[" * 5000 + "}", "['Yes', 'No']", "GAS"], "selections"),
    ],
)  # fmt: skip
def test_a_corrupt_row_is_named_and_disturbs_no_other(tmp_path: Path, bad: list[str], told: str) -> None:
    good = row("Before?", {"Kenya": [0.5, 0.5]}, YES_NO), row("After?", {"Kenya": [0.4, 0.6]}, YES_NO)
    survey = load_survey(write(tmp_path, good[0], bad, good[1]))
    assert [question.text for question in survey.questions] == ["Before?", "After?"]
    assert survey.counts["set aside: corrupt row"] == 1
    assert survey.set_aside[0].startswith("survey.csv:3: corrupt row")
    assert told in survey.set_aside[0]


def test_a_country_with_the_wrong_number_of_shares_costs_only_itself(tmp_path: Path) -> None:
    cells = {"Kenya": [0.5, 0.5, 0.0], "Chile": [0.5, 0.5], "China": [-0.1, 1.1], "Japan": ["a", 0.5]}
    survey = load_survey(write(tmp_path, row("So?", cells, YES_NO)))
    assert list(golds(survey)) == ["CHL"]
    assert survey.counts["set aside: corrupt country row"] == 3


def test_a_quote_that_never_closes_costs_its_line_only(tmp_path: Path) -> None:
    file = write(tmp_path, row("Before?", {"Kenya": [0.5, 0.5]}, YES_NO))
    after = "After?,\"{'Kenya': [0.4, 0.6]}\",\"['Yes', 'No']\",GAS\n"
    torn = "Torn?,\"{'Kenya': [0.4, 0.6]}\",\"['Yes', 'N\n"
    file.write_text(file.read_text() + torn + after * 1 + after.replace("After", "Later"))
    survey = load_survey(file)
    assert [question.text for question in survey.questions] == ["Before?", "After?", "Later?"]
    assert [line[:13] for line in survey.set_aside] == ["survey.csv:3:"]


def test_a_question_of_several_lines_is_one_row(tmp_path: Path) -> None:
    survey = load_survey(
        write(tmp_path, row("First line,\nsecond\u2028line?", {"Kenya": [0.5, 0.5]}, YES_NO))
    )
    assert survey.questions[0].text == "First line,\nsecond\u2028line?"


def test_bytes_that_are_not_utf8_cost_their_row_only(tmp_path: Path) -> None:
    file = write(tmp_path, row("Good?", {"Kenya": [0.5, 0.5]}, YES_NO))
    broken = "Caf\xe9?,\"{'Kenya': [0.5, 0.5]}\",\"['Yes', 'No']\",GAS\n".encode("latin-1")
    file.write_bytes(file.read_bytes() + broken)
    survey = load_survey(file)
    assert [question.text for question in survey.questions] == ["Good?"]
    assert survey.counts["set aside: question that can not be asked"] == 1


def test_questions_keep_their_id_whatever_stands_around_them(tmp_path: Path) -> None:
    first = row("Is it so?", {"Kenya": [0.5, 0.5]}, YES_NO)
    other = row("Something else?", {"Kenya": [0.5, 0.5]}, YES_NO)
    alone = load_survey(write(tmp_path, first, name="a.csv")).questions[0].id
    later = load_survey(write(tmp_path, other, first, name="b.csv")).questions[1].id
    assert alone == later == "25c5ca24f1e9"


def test_the_made_up_survey_has_the_traps_of_the_release() -> None:
    survey = load_survey(OPINIONS, Selection(PAPER, max_options=5))
    assert survey.countries == PAPER
    assert survey.counts["set aside: question that can not be asked"] == 1
    assert survey.counts["set aside: all zeros"] == 2
    assert survey.counts["questions: number options"] == 1
    assert survey.counts["country rows behind a primary one"] == 3
    assert survey.counts["items"] == len(survey.items)
    assert not {"NIR", "KOR"} & {item.country for item in survey.items}
    india = [item.label for item in survey.items if item.country == "IND"]
    assert set(india) == {"India (Current national sample)"}
    assert not any(item.question.survey == "WVS" for item in survey.items if item.country == "IND")


def test_a_selection_is_part_of_the_survey_and_has_a_stable_digest() -> None:
    chosen = Selection(PAPER, "substantive", 5, 3, seed=2)
    told = load_survey(OPINIONS, chosen).as_manifest()
    assert told["selection"] == chosen.as_dict()
    assert chosen.digest == Selection(PAPER, "substantive", 5, 3, seed=2).digest
    assert chosen.digest != Selection(PAPER, "substantive", 5, 3, seed=3).digest
    assert json.dumps(told)


@pytest.mark.parametrize(
    "wrong",
    [{"options": "some"}, {"max_options": 1}, {"questions": 0}, {"countries": ("KEN", "KEN")}],
)
def test_a_selection_refuses_nonsense(wrong: dict[str, object]) -> None:
    with pytest.raises(SelectionError):
        Selection(**wrong)  # type: ignore[arg-type]


def test_countries_by_preset_community_name_and_code() -> None:
    continents = load_map("continents")
    assert resolve_countries("paper", continents) == PAPER
    assert len(PAPER) == 18
    assert resolve_countries("all", continents) == ()
    assert resolve_countries("Kenya, S. Korea,KEN", continents) == ("KEN", "KOR")
    assert "NZL" in resolve_countries("Oceania", continents)
    with pytest.raises(SelectionError, match=r"UKA.*community \(africa, .*'paper' or 'all'"):
        resolve_countries("UKA", continents)


def test_every_country_gets_its_number_of_questions_the_same_where_possible() -> None:
    survey = load_survey(OPINIONS, Selection(PAPER, questions=4, seed=1, draw="shared"))
    per_country = {code: [i.question.id for i in survey.items if i.country == code] for code in PAPER}
    assert {len(found) for found in per_country.values()} == {4}
    # India has no World Values Survey rows and Zimbabwe no others: 8 questions at least, and no more
    assert len(survey.questions) == 8
    assert per_country["USA"] == per_country["KEN"]
    assert len(survey.whole) > len(survey.items)
    again = load_survey(OPINIONS, Selection(PAPER, questions=4, seed=1, draw="shared"))
    other = load_survey(OPINIONS, Selection(PAPER, questions=4, seed=5, draw="shared"))
    assert [i.id for i in again.items] == [i.id for i in survey.items] != [i.id for i in other.items]


def test_a_split_parts_no_battery() -> None:
    survey = load_survey(OPINIONS)
    importance = {q.battery for q in survey.questions if q.text.startswith("How important is")}
    assert len(importance) == 1
    for seed in range(8):
        first, second = split(survey, 0.5, seed)
        assert {q.battery for q in first.questions}.isdisjoint(q.battery for q in second.questions)
        assert len(first.questions) + len(second.questions) == len(survey.questions)
        assert abs(len(first.questions) - len(survey.questions) / 2) <= 2
        assert first.selection.digest != second.selection.digest


def test_batteries_share_a_stem_or_most_words(tmp_path: Path) -> None:
    def asked(text: str, *options: str) -> list[str]:
        return row(text, {"Kenya": [1 / len(options)] * len(options)}, list(options))

    survey = load_survey(
        write(
            tmp_path,
            asked("Do you approve of the way the president handles ... the economy?", "Yes", "No"),
            asked(
                "Do you approve of the way the president handles ... health and schools?", "Yes", "No", "DK"
            ),
            asked("Which do you like better, tea or coffee, on an ordinary day?", "Tea", "Coffee"),
            asked("Which do you like better, tea or coffee, on any ordinary day?", "Tea", "Coffee", "Both"),
            asked("Is there life on other planets?", "Yes", "No"),
        )
    )
    batteries = [question.battery for question in survey.questions]
    assert batteries[0] == batteries[1]
    assert batteries[2] == batteries[3]
    assert len(set(batteries)) == 3


def test_items_refuse_what_does_not_fit() -> None:
    question = SurveyQuestion("q", "So?", ("Yes", "No"), "GAS", "q")
    with pytest.raises(ValueError, match="3 probabilities for 2 options"):
        SurveyItem(question, "KEN", Distribution.uniform(3), "Kenya")
    with pytest.raises(ValueError, match="no options"):
        SurveyQuestion("q", "So?", (), "GAS", "q")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "question,options\n", "no column 'selections'"),
        ("a.csv", "question,selections,options,source\n", "no country's answer"),
        ("a.txt", "", "expected a file that ends in"),
        ("a.json", "{", "expected a JSON list"),
        ("a.json", "[{]", "a.json:1: not JSON"),
        ("a.jsonl", "", "no country's answer"),
    ],
)
def test_a_file_that_is_no_survey_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SurveyError, match=told):
        load_survey(tmp_path / name)
    with pytest.raises(SurveyError, match="No survey"):
        load_survey(tmp_path / "nowhere.csv")
    with pytest.raises(SurveyError, match="folder without"):
        load_survey(tmp_path)


def test_each_country_may_draw_its_own_questions() -> None:
    shared = load_survey(OPINIONS, Selection(PAPER, questions=2, seed=4, draw="shared"))
    each = load_survey(OPINIONS, Selection(PAPER, questions=2, seed=4, draw="each"))
    assert len(each.items) == len(shared.items) == 2 * len(PAPER)
    assert len(each.questions) > len(shared.questions)
    # a country's draw does not depend on which others are there
    alone = load_survey(OPINIONS, Selection(("KEN",), questions=2, seed=4, draw="each"))
    assert [i.id for i in alone.items] == [i.id for i in each.items if i.country == "KEN"]
    with pytest.raises(SelectionError, match="stratified, each, shared"):
        Selection(PAPER, questions=2, draw="own")


def uneven(folder: Path) -> Path:
    """60 items of Kenya from two sources: "GAS" with two options, near even, and a few of "WVS" with five,
    one-sided. Brazil was only asked the latter and a third of the others.
    """
    rows = []
    for number in range(50):
        answers = {"Kenya": [0.5, 0.5]} | ({"Brazil": [0.5, 0.5]} if number % 3 == 0 else {})
        rows.append(row(f"Question {number} of the one kind?", answers, YES_NO, "GAS"))
    for number in range(10):
        shares = [0.9, 0.1, 0, 0, 0]
        answers = {"Kenya": shares, "Brazil": shares}
        rows.append(row(f"Statement {number} of the other?", answers, list("ABCDE"), "WVS"))
    return write(folder, *rows)


@pytest.mark.parametrize("draw", ["stratified", "each"])
def test_a_draw_of_questions_is_a_fair_sample_of_the_survey(tmp_path: Path, draw: str) -> None:
    file = uneven(tmp_path)
    # Of 7 of Kenya's 60, 10 / 60 * 7 = 1.17 are of WVS; of Brazil's 27, 10 / 27 * 7 = 2.59.
    share = {"KEN": 10 / 60 * 7, "BRA": 10 / 27 * 7}
    drawn: dict[str, list[int]] = {"KEN": [], "BRA": []}
    times: Counter[str] = Counter()
    for seed in range(150):
        survey = load_survey(file, Selection(("KEN", "BRA"), questions=7, seed=seed, draw=draw))
        for code, counts in drawn.items():
            own = [item for item in survey.items if item.country == code]
            assert len(own) == 7
            counts.append(sum(item.question.survey == "WVS" for item in own))
        times.update(item.id for item in survey.items)
    for code, counts in drawn.items():
        assert set(counts) <= {math.floor(share[code]), math.ceil(share[code])}  # never far from its share
        assert sum(counts) / 150 == pytest.approx(share[code], abs=0.12)
    kenyan = [count for key, count in times.items() if key.endswith("KEN")]
    assert len(kenyan) == 60 and max(kenyan) < 3 * 150 * 7 / 60  # each item has the same chance


def test_a_stratified_draw_shares_questions_and_does_not_depend_on_other_countries(tmp_path: Path) -> None:
    file = uneven(tmp_path)
    shared = own = 0
    for seed in range(20):
        both = load_survey(file, Selection(("KEN", "BRA"), questions=9, seed=seed))
        alone = load_survey(file, Selection(("KEN",), questions=9, seed=seed))
        apart = load_survey(file, Selection(("KEN", "BRA"), questions=9, seed=seed, draw="each"))
        assert [i.id for i in alone.items] == [i.id for i in both.items if i.country == "KEN"]
        shared, own = shared + len(both.questions), own + len(apart.questions)
    assert shared < 0.95 * own


def test_the_shared_draw_is_not_a_fair_sample(tmp_path: Path) -> None:
    # what was asked everywhere comes first: 7 of 7 questions are of WVS or the shared third
    survey = load_survey(uneven(tmp_path), Selection(("KEN", "BRA"), questions=7, draw="shared"))
    assert len(survey.questions) == 7
    assert {item.country for item in survey.items if item.question == survey.questions[0]} == {"KEN", "BRA"}
