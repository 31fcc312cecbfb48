"""The World Values Survey in CultureSPA's form, Modular Pluralism's JSON, and our own JSONL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cultural_palette.evaluation.surveys import MADE_UP, Survey, load_survey


def wvs(folder: Path, questions: list[object], proportions: object) -> Survey:
    (folder / "wvs_questions.json").write_text(json.dumps(questions, indent=1))
    (folder / "proportions_group_by_country.json").write_text(json.dumps(proportions))
    return load_survey(folder)


def asked(key: str, *options: str) -> dict[str, object]:
    return {"Q_id": key, "question": f"What of {key}?", "option_lst": list(options)}


def shares(survey: Survey) -> dict[tuple[str, str], list[float]]:
    return {
        (i.question.text[8:-1], i.country): [round(p, 3) for p in i.gold.probabilities] for i in survey.items
    }


def test_codes_count_from_one_and_missing_answers_are_left_out(tmp_path: Path) -> None:
    table = {"KEN": {"Q1": {"2": 0.2, "1": 0.6, "-1": 0.2}}, "BRA": {"Q1": {}}, "CHL": {}}
    survey = wvs(tmp_path, [asked("Q1", "Yes", "No")], table)
    assert shares(survey) == {("Q1", "KEN"): [0.75, 0.25]}  # 0.6 and 0.2 of 0.8


def test_codes_from_zero_are_seen_in_the_data_or_known_by_the_question(tmp_path: Path) -> None:
    member = ("Don't belong", "Inactive", "Active")
    questions = [asked("Q94", *member), asked("Q95", *member), asked("Q1", *member)]
    table = {
        "KEN": {"Q94": {"0": 0.5, "2": 0.5}, "Q95": {"1": 1.0}, "Q1": {"1": 1.0}},
        "BRA": {"Q94": {"2": 1.0}, "Q95": {"2": 1.0}, "Q1": {"2": 1.0}},
    }
    assert shares(wvs(tmp_path, questions, table)) == {
        ("Q94", "KEN"): [0.5, 0, 0.5],  # Kenya's 0 says so
        ("Q94", "BRA"): [0, 0, 1],
        ("Q95", "KEN"): [0, 1, 0],  # nobody uses 0 or 3: Q95 counts from 0
        ("Q95", "BRA"): [0, 0, 1],
        ("Q1", "KEN"): [1, 0, 0],  # Q1 does not
        ("Q1", "BRA"): [0, 1, 0],
    }


def test_options_that_are_numbers_are_their_own_codes(tmp_path: Path) -> None:
    scale = [str(n) for n in range(11)]
    survey = wvs(tmp_path, [asked("Q241", *scale)], {"AUS": {"Q241": {"10": 0.75, "1": 0.25}}})
    (item,) = survey.items
    assert item.gold.probabilities[10] == 0.75
    assert item.gold.probabilities[1] == 0.25
    assert item.question.ordered


def test_codes_from_zero_and_from_one_at_once_can_not_be_read(tmp_path: Path) -> None:
    table = {"KEN": {"Q2": {"0": 0.5, "1": 0.5}, "Q1": {"1": 1.0}}, "BRA": {"Q2": {"2": 1.0}}}
    survey = wvs(tmp_path, [asked("Q2", "Yes", "No"), asked("Q1", "Yes", "No")], table)
    assert [question.text for question in survey.questions] == ["What of Q1?"]
    assert survey.counts["set aside: codes from 0 and from 1"] == 1


def test_questions_about_the_person_and_broken_entries_are_set_aside_with_their_line(tmp_path: Path) -> None:
    table = {"KEN": {"Q260": {"1": 1.0}, "Q1": {"1": 1.0}, "Q3": {"1": "many"}, "Q4": [1.0]}}
    questions = [asked("Q260", "Man", "Woman"), {"Q_id": "Q2"}, asked("Q262"), asked("Q1", "Yes", "No"),
                 asked("Q3", "Yes", "No"), asked("Q4", "Yes", "No")]  # fmt: skip
    survey = wvs(tmp_path, questions, table)
    assert list(shares(survey)) == [("Q1", "KEN")]
    assert [line.partition(": ")[0] for line in survey.set_aside[:3]] == [
        "wvs_questions.json:2", "wvs_questions.json:10", "wvs_questions.json:13",
    ]  # fmt: skip
    assert survey.counts["set aside: corrupt row"] == 1
    assert survey.counts["set aside: corrupt country row"] == 2


def test_the_made_up_world_values_survey() -> None:
    survey = load_survey(MADE_UP / "made_up_wvs")
    assert len(survey.questions) == 7
    assert len(survey.countries) == 12
    assert ("CHN" in {i.country for i in survey.items if "religion" in i.question.text}) is False


def test_modular_pluralism_holds_whole_prompts(tmp_path: Path) -> None:
    entry = {
        "question": "Question: Is it so?\n\nSay why.\nOptions: A. Yes B. No\nAnswer:",
        "options": ["Yes", "No"],
        "attribute": "S. Korea",
        "gold_distribution": [0.25, 0.75],
        "pred_distribution": None,
        "id": 7,
    }
    moral = {**entry, "question": "Which is more moral?", "attribute": "high_ambiguity"}
    short = {**entry, "gold_distribution": [1.0]}
    (tmp_path / "test.json").write_text(json.dumps([entry, moral, short, "x"], indent=2))
    survey = load_survey(tmp_path / "test.json")
    (item,) = survey.items
    assert (item.question.text, item.country) == ("Is it so?\n\nSay why.", "KOR")
    assert survey.counts["set aside: unknown country"] == 1
    assert survey.counts["set aside: corrupt row"] == 2
    assert survey.set_aside[1].startswith("test.json:")


def test_our_own_jsonl_keeps_its_ids_batteries_and_scales(tmp_path: Path) -> None:
    line = {
        "id": "a",
        "question": "So?",
        "options": ["Yes", "No"],
        "country": "Kenya",
        "distribution": [0.5, 0.5],
    }
    rows = [
        {**line, "battery": "pair", "ordered": True},
        {**line, "country": "BRA", "battery": "pair", "ordered": True},
        {**line, "id": "b", "question": "Or so?", "battery": "pair"},
        {**line, "country": "CHL", "options": ["No", "Yes"]},  # another question under the same id
        {**line, "id": "a b"},
        {**line, "weight": 3},
        {**line, "distribution": [0.5, 0.4]},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "\n{torn"
    (tmp_path / "own.jsonl").write_text(text)
    survey = load_survey(tmp_path / "own.jsonl")
    assert [item.id for item in survey.items] == ["a/BRA", "a/KEN", "b/KEN"]
    assert {question.battery for question in survey.questions} == {"pair"}
    assert survey.questions[0].ordered is True
    assert [line.split(":")[1] for line in survey.set_aside] == ["4", "5", "6", "7", "9"]
    assert survey.counts["set aside: corrupt row"] == 4


@pytest.mark.parametrize("revision", [None, "abc123"])
def test_the_hub_gives_a_file_and_the_commit_it_is_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, revision: str | None
) -> None:
    import huggingface_hub

    sent = {}
    folder = tmp_path / "snapshots" / "0f0f0f" / "data"
    folder.mkdir(parents=True)
    there = folder / "global_opinions.csv"
    there.write_bytes((MADE_UP / "made_up_opinions.csv").read_bytes())

    def fetch(repo: str, file: str, **more: object) -> str:
        sent.update(more, repo=repo, file=file)
        return str(there)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    survey = load_survey("global-opinions" + (f"@{revision}" if revision else ""))
    assert survey.source == "Anthropic/llm_global_opinions@0f0f0f"
    assert sent == {
        "repo": "Anthropic/llm_global_opinions", "file": "data/global_opinions.csv", "repo_type": "dataset",
        "revision": revision,
    }  # fmt: skip
