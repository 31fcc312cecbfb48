"""The field's other surveys: each format's made-up file, read by the one function, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cultural_palette.evaluation.selection import Selection, SelectionError
from cultural_palette.evaluation.survey_formats import Population, SurveyError
from cultural_palette.evaluation.survey_formats.known import read_answers
from cultural_palette.evaluation.surveys import MADE_UP, Survey, SurveyItem, load_survey, survey_rows

HERE = Path(__file__).parent / "made_up_surveys"


def shares(item: SurveyItem) -> list[float]:
    return [round(p, 6) for p in item.gold.probabilities]


def table(name: str, selection: Selection | None = None) -> dict[str, list[float]]:
    survey = load_survey(HERE / name, selection)
    return {item.id.partition("/")[2]: shares(item) for item in survey.items}


def test_simbench_has_groups_beside_the_country_and_percent_shares() -> None:
    survey = load_survey(HERE / "simbench.csv")
    whole, group = survey.items
    assert (whole.country, shares(whole), whole.respondents) == ("FIN", [0.5, 0.3, 0.2], 400)
    assert whole.question.text == "How good is tea?"
    assert group.population == Population("age: 30-49", "R9")
    assert group.text_and_options[0] == "(Asked of these people only: age: 30-49.) How good is tea?"
    assert survey.counts["set aside: names no country"] == 1  # the jokes are of nobody's country


def test_subpop_leaves_refusals_out_of_the_responses() -> None:
    # 0.8 of the women answered: 0.5, 0.25, 0.25 of those, and 0.2 refused
    assert table("subpop.jsonl") == {
        "USA~sex-female.w82": [0.4, 0.2, 0.2, 0.2],
        "USA~sex-male.w82": [0.2, 0.4, 0.3, 0.1],
    }
    assert table("subpop.jsonl", Selection(options="substantive"))["USA~sex-female.w82"] == [0.5, 0.25, 0.25]


def test_opinionqas_options_that_were_cut_at_commas_are_whole_again() -> None:
    survey = load_survey(HERE / "SEX_data.json")
    women, men = survey.items
    assert women.question.options == ("Yes, I drink tea", "No, I don't drink any", "Refused")
    assert (shares(women), women.respondents) == ([0.6, 0.3, 0.1], 100)
    assert (shares(men), men.population) == ([0.2, 0.8, 0.0], Population("SEX: Male", "W82"))


def test_the_distributional_alignment_set_in_its_two_other_shapes() -> None:
    assert table("books.json") == {
        "USA~democrat": [0.25, 0, 0, 0.75],
        "USA~republican": [0.5, 0.5, 0, 0],
    }
    assert load_survey(HERE / "books.json").items[0].question.topic == "Fiction"
    assert table("global_values.json") == {"IDN": [0.6, 0.3, 0.1], "JPN": [0.5, 0.5, 0]}


def test_blends_votes_are_shares_in_an_order_that_gives_nothing_away() -> None:
    survey = load_survey(HERE / "West_Java_data.json")
    (item,) = survey.items  # one answer by all is no question with options
    assert item.question.options == ("tea", "water")  # not by votes; "Tea" is "tea"
    assert (shares(item), item.respondents) == ([0.8, 0.2], 5)
    assert (item.country, item.population.group) == ("IDN", "West Java")
    assert item.local == ("Naon nu diinum di Jawa Barat?", ("enteh", "cai"))
    (own,) = load_survey(HERE / "West_Java_data.json", Selection(language="local")).items
    assert own.id == item.id
    assert own.text_and_options[1] == ("enteh", "cai")


def test_normads_labels_are_one_right_answer_and_its_stories_of_one_background_a_battery() -> None:
    survey = load_survey(HERE / "normad.csv")
    assert [(item.country, shares(item), item.labelled) for item in survey.items] == [
        ("NZL", [0, 1, 0], True),
        ("NZL", [1, 0, 0], True),
    ]
    assert len({item.question.battery for item in survey.items}) == 1
    assert survey.counts["set aside: corrupt row"] == 1  # "maybe" is no label
    assert "shoes off" not in survey.items[0].question.text  # the rule would give the label away


def test_culturalbench_easy_and_hard() -> None:
    easy = load_survey(HERE / "culturalbench_easy.csv")
    assert [(item.country, shares(item)) for item in easy.items] == [("KEN", [1, 0, 0, 0])]
    assert easy.counts["set aside: corrupt row"] == 1  # E is none of the four
    hard = load_survey(HERE / "culturalbench_hard.csv")
    assert [shares(item) for item in hard.items] == [[1, 0], [0, 1], [0, 1], [0, 1]]
    assert {item.question.battery for item in hard.items} == {"culturalbench-0"}


def test_vital_reads_as_modular_pluralisms_form_does() -> None:
    survey = load_survey(HERE / "vital.json")
    assert [(i.country, i.question.text, shares(i)) for i in survey.items] == [
        ("ARG", "Is tea healthy?", [0.7, 0.3])
    ]
    assert survey.counts["set aside: unknown country"] == 1  # low_ambiguity


def test_multiagent_diversitys_wvs_json() -> None:
    survey = load_survey(HERE / "multiagent_diversity")
    assert {item.country: shares(item) for item in survey.items} == {
        "BRA": [0.5, 0.5],
        "KEN": [0.777778, 0.222222],
    }
    assert survey.items[0].question.text == "How important is tea in your life?"


def test_the_users_own_world_values_survey_is_weighted_and_knows_its_respondents() -> None:
    survey = load_survey(HERE / "own_wvs")
    brazil, kenya = survey.items
    # weights 1, 1 and 2 of 4; the fourth did not answer; effective number 4**2 / (1 + 1 + 4)
    assert shares(kenya) == [0.5, 0, 0.5]
    assert kenya.respondents == pytest.approx(16 / 6)
    assert kenya.population == Population(None, "7", 2018)
    assert shares(brazil) == [0, 1, 0]
    assert survey.counts["set aside: respondent without a weight"] == 1
    assert {q.text for q in survey.questions} == {"How important is tea in your life?"}  # sex is no opinion


FILES = sorted(path.name for path in HERE.iterdir() if path.suffix != ".md")


@pytest.mark.parametrize("name", FILES)
def test_every_format_becomes_rows_of_our_own_and_reads_back_the_same(name: str, tmp_path: Path) -> None:
    survey = load_survey(HERE / name)
    again = _again(survey, tmp_path)
    assert [item.id for item in again.items] == [item.id for item in survey.items]
    for one, other in zip(survey.items, again.items, strict=True):
        assert other.gold.probabilities == pytest.approx(one.gold.probabilities)
        assert (other.population, other.respondents) == (one.population, one.respondents)
        assert (other.labelled, other.local, other.question) == (one.labelled, one.local, one.question)


def test_the_made_up_files_of_the_package_do_too(tmp_path: Path) -> None:
    survey = load_survey(MADE_UP / "made_up_opinions.csv")
    assert [item.id for item in _again(survey, tmp_path).items] == [item.id for item in survey.items]


def _again(survey: Survey, folder: Path) -> Survey:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in survey_rows(survey)))
    return load_survey(file)


def test_a_pinned_list_takes_its_items_alone_and_names_what_is_lacking() -> None:
    ids = [item.id for item in load_survey(MADE_UP / "made_up.jsonl").items]
    some = load_survey(MADE_UP / "made_up.jsonl", Selection(items=tuple(ids[3:6])))
    assert [item.id for item in some.items] == ids[3:6]
    assert len(some.whole) == len(ids)  # floors still learn from all
    assert some.selection.digest != Selection().digest
    with pytest.raises(SurveyError, match="names 2 items, and 1 of them are not in this selection, such as"):
        load_survey(MADE_UP / "made_up.jsonl", Selection(items=(ids[0], "x/KEN")))
    with pytest.raises(SelectionError, match="leave --questions out"):
        Selection(items=(ids[0],), questions=3)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "SimBenchPop.pkl"
    file.write_bytes(b"")
    with pytest.raises(SurveyError, match="would run code: save it as CSV"):
        read_answers(file)
