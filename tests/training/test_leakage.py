from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cultural_palette.cli.dataset_measure import measure
from cultural_palette.errors import PaletteError, UsageError
from cultural_palette.training.pentachromatic.separation.leakage import (
    Thresholds,
    TrainingText,
    bands,
    character_shingles,
    jaccard,
    leakage,
    word_shingles,
)
from cultural_palette.training.pentachromatic.separation.stems import forms_of
from cultural_palette.training.pentachromatic.separation.surveys import read_survey, words_of
from cultural_palette.training.pentachromatic.separation.tables import TableError
from tests.training.separation_models import answers, write_rows

ELDERS = "Do you agree that young people should always follow the advice of their elders, even at a cost?"
SURVEY = (
    (ELDERS, "['Agree', 'Disagree']"),
    (
        "How satisfied are you with the way the village council spends the money of the harvest fund?",
        "['1', '2']",
    ),
    ("Is rain good?", "['Yes', 'No']"),
    ("Do you believe in luck?", "['Yes', 'No']"),
)


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    file = tmp_path / "opinions.csv"
    rows = "".join(f'"{question}","{{}}","{options}",MADE\n' for question, options in SURVEY)
    file.write_text("question,selections,options,source\n" + rows, encoding="utf-8")
    return file


def found(text: str, survey: Path, community: str | None = None):
    return leakage([TrainingText(text, community, ("q1",))], [read_survey(survey)])


def test_jaccard_by_hand() -> None:
    # "abcdef" and "abcdeg" in runs of 5: {abcde, bcdef} and {abcde, bcdeg}: 1 of 3.
    first, second = character_shingles(["abcdef"], 5), character_shingles(["abcdeg"], 5)
    assert jaccard(first, second) == pytest.approx(1 / 3)
    assert jaccard(frozenset(), first) == 0
    assert word_shingles(["a", "b"], 3) == frozenset()


def test_the_bands_miss_what_they_say() -> None:
    count, rows, missed = bands(0.5)
    assert missed == pytest.approx((1 - 0.5**rows) ** count) and missed <= 1e-3
    assert count * rows <= 128


@pytest.mark.parametrize(
    "text",
    [
        ELDERS,
        ELDERS.upper().replace(",", " –"),
        ELDERS.replace("always", "never"),
        ELDERS.replace("even at a cost", ""),
    ],
)
def test_a_planted_query_is_found(text: str, survey: Path) -> None:
    pairs = found(text, survey).pairs
    assert [pair.question.text for pair in pairs] == [ELDERS]
    assert pairs[0].jaccard >= 0.5


def test_a_question_quoted_in_a_long_answer_is_found_by_containment(survey: Path) -> None:
    talk = "Across the islands people speak of many things, of weather, boats and the price of fish. " * 12
    result = found(talk + "They were asked: " + ELDERS + " " + talk, survey, "oceania")
    (pair,) = result.pairs
    assert pair.jaccard < 0.5 and pair.containment == 1.0
    assert not result.passed


@pytest.mark.parametrize(
    "text",
    [
        "Must the youth obey what older folk tell them, whatever it takes from them?",  # a free paraphrase
        "What is a good recipe for lentil soup?",
        "Do you agree that young people should be able to vote at sixteen?",  # begins alike
        "Is rain good? Well, is rain good for the fields, people ask, is rain good.",  # too short to quote
        "",
    ],
)
def test_what_is_merely_near_is_not_a_leak(text: str, survey: Path) -> None:
    assert found(text, survey).pairs == ()


def test_short_questions_count_only_when_quoted_whole(survey: Path) -> None:
    assert found("I wonder, do you believe in fate or in chance?", survey).passed
    assert not found("I wonder, do you believe in luck or in chance?", survey).passed
    assert not found("is rain good", survey).passed  # a near-copy all the same


OPTIONS = ("Every day", "Once a week", "Never, or hardly ever")
LISTS = {
    "numbers": "{} 1. {} 2. {} 3. {}",
    "numbers from 0": "{} 0. {} 1. {} 2. {}",
    "numbers in brackets": "{} (1) {} (2) {} (3) {}",
    "numbers with signs": "{} 1 = {}, 2 = {}, 3 = {}",
    "letters": "{}\nA. {}\nB. {}\nC. {}",
    "small letters": "{} a) {} b) {} c) {}",
    "letters in brackets": "{} (A) {} (B) {} (C) {}",
    "bullets": "{}\n- {}\n- {}\n- {}",
    "dots": "{}\n• {}\n• {}\n• {}",
    "lines": "{}\n{}\n{}\n{}",
    "slashes": "{} {} / {} / {}",
    "semicolons": "{} {}; {}; {}",
    "in brackets": "{} ({} / {} / {})",
    "a heading": "{} Answer options: {}, {}, {}",
    "an instruction": "{} Choose one of {}, {}, {}",
    "as a question": "{} {}, {} or {}?",
    "Roman numerals": "{} (i) {} (ii) {} (iii) {}",
    "numbers in circles": "{} ① {} ② {} ③ {}",
    "numbers with dashes": "{} 1 - {} 2 - {} 3 - {}",
    "numbers backwards": "{} 3. {} 2. {} 1. {}",
    "numbers about 0": "{} -1. {} 0. {} 1. {}",
    "letters shuffled": "{} (b) {} (a) {} (c) {}",
    "letters set bold": "{}\n**A** {}\n**B** {}\n**C** {}",
    "letters without a sign": "{}\nA {}\nB {}\nC {}",
    "options by name": "{} Option A: {} Option B: {} Option C: {}",
    "a list of Python": "{} ['{}', '{}', '{}']",
    "quotes": "{} '{}' '{}' '{}'",
    "boxes": "{}\n☐ {}\n☐ {}\n☐ {}",
    "arrows": "{}\n-> {}\n-> {}\n-> {}",
    "HTML lines": "{}<br>{}<br>{}<br>{}",
    "an HTML list": "{}<ul><li>{}</li><li>{}</li><li>{}</li></ul>",
    "after a dash": "{} — {}/{}/{}",
    "bars": "{} {} | {} | {}",
    "an own heading": "{} Your choices are: {}, {}, {}",
    "a scale": "{} Scale: 1 = {}, 2 = {}, 3 = {}",
    "a permission": "{} You may answer {}, {} or {}.",
    "a heading of a line": "{}\nOPTIONS\n{}\n{}\n{}",
    "before the question": "Options: {1}, {2}, {3}. {0}",
    "numbered before the question": "(1) {1} (2) {2} (3) {3}. {0}",
    "commas": "{} {}, {}, {}",
    "commas and a full stop": "{} {}, {}, {}.",
    "commas and an instruction": "{} {}, {}, {}. Explain yourself.",
    "two with a comma": "{} {}, {}",
    "commas before the question": "{1}, {2}, {3}. {0}",
    "commas and a colon before": "{1}, {2}, {3}: {0}",
    "commas on a line of their own": "{}\n{}, {}, {}",
    "commas of Chinese": "{} {}，{}、{}",
    "commas of Arabic": "{} {}، {}، {}",
    "between instructions": "You live in Kenya. A survey comes. {} (a) {} (b) {} (c) {} Explain yourself.",
}


@pytest.mark.parametrize("question", ["Do you pray?", "How often is there singing?", ELDERS])
@pytest.mark.parametrize("kind", LISTS)
def test_options_in_the_text_hide_no_copy(question: str, kind: str, tmp_path: Path) -> None:
    """Whichever of the two has them, the survey's question or the training text."""
    with_options = LISTS[kind].format(question, *OPTIONS)
    for asked, trained in ((question, with_options), (with_options, question), (with_options, with_options)):
        file = write_rows(tmp_path / "s.jsonl", [{"question": asked}])
        assert not found(trained, file).passed, (asked, trained)


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        (f"{ELDERS[:-1]}: every day, once a week, never", f"{ELDERS[:-1]}:"),
        ("Do you pray? Every day of my whole long life, Once in every single week, No", "Do you pray?"),
        ("Tell me how often you pray. Every day, once a week, never.", "Tell me how often you pray."),
        ("您多久祈祷一次？每天，每周一次，从不", "您多久祈祷一次?"),
    ],
)
def test_options_behind_commas_are_no_part_of_the_stem(text: str, stem: str) -> None:
    assert stem in forms_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "Is rain good? Well, is rain good for the fields, people ask, is rain good.",
        "Version 1.2 is out. What is new in 2.0?",
        "Rate it from 1 (bad) to 10 (good): how is life?",
        "Are you very happy, or not?",
        "1. Every day 2. Once a week",  # nothing before the options
        "",
    ],
)
def test_what_lists_no_options_has_no_stem(text: str) -> None:
    assert forms_of(text) == [text]


def test_a_long_list_of_marks_is_read_in_linear_time() -> None:
    start = time.perf_counter()
    for text in ("1. a b? " * 20_000, "x, " * 30_000, "/ x" * 30_000, ". x" * 30_000, "? or x" * 10_000):
        forms_of(text)
    assert time.perf_counter() - start < 5


def test_the_exact_pairs_are_those_of_comparing_everything(survey: Path) -> None:
    """LSH only saves work: brute force over all pairs finds the same."""
    asked = read_survey(survey)
    texts = [
        TrainingText(" ".join(words[start : start + size]), None, (f"q{start}-{size}",))
        for question in asked.questions
        for words in [question.text.split()]
        for start in range(0, 6, 2)
        for size in (4, 8, 12, 16)
    ]
    want = {
        (question.id, text.query_ids)
        for question in asked.questions
        for text in texts
        if jaccard(
            character_shingles(words_of(question.text), 5), character_shingles(words_of(text.text), 5)
        ) >= 0.5
    }  # fmt: skip
    pairs = leakage(texts, [asked], Thresholds(containment=1.0)).pairs
    assert want and want == {(p.question.id, p.text.query_ids) for p in pairs if p.jaccard >= 0.5}


def test_languages_without_spaces_are_compared_too(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "zh.jsonl", [{"question": "您认为年轻人应该永远听从长辈的建议吗？"}])
    assert not found("请问：您认为年轻人应该永远听从长辈的建议吗？谢谢您的回答，祝您今天愉快。", file).passed
    assert found("今天天气很好，我们去公园散步吧，你觉得怎么样？", file).passed


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wvs_questions.json", json.dumps([{"Q_id": "Q7", "question": ELDERS, "option_lst": ["Yes", "No"]}])),
        ("by_id.json", json.dumps({"Q7": {"question_text": ELDERS}, "Q8": {"question_text": ""}})),
        ("list.json", json.dumps([ELDERS])),
        ("rows.jsonl", json.dumps({"id": "Q7", "prompt": ELDERS}) + "\n"),
        ("prism.jsonl", json.dumps({"conversation_id": "c0", "opening_prompt": ELDERS}) + "\n"),
        ("rows.tsv", f"nr\ttext\n1\t{ELDERS}\n2\t{ELDERS}\n"),
    ],
)
def test_every_form_of_survey_is_read(name: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    read = read_survey(file)
    assert [question.text for question in read.questions] == [ELDERS]
    assert read.name == name and len(read.sha256) == 64
    assert (read.repeated, read.empty) == (int(name == "rows.tsv"), int(name == "by_id.json"))


def test_a_survey_that_can_not_be_read_shuts_the_gate(tmp_path: Path) -> None:
    for content, message in (
        ('{"question": "A?"}\n{broken\n', r"s\.jsonl:2: not JSON"),
        ('{"item": "A?"}\n', "no column 'question' or .* there are item"),
        ("", "has no question"),
        ('{"question": 3}\n', "the question is 3, expected a text"),
    ):
        file = tmp_path / "s.jsonl"
        file.write_text(content, encoding="utf-8")
        with pytest.raises(TableError, match=message):
            read_survey(file)


def test_thresholds_that_flag_everything_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--jaccard 0.1: expected 0.3 to 1"):
        Thresholds(jaccard=0.1)


def test_the_gate_on_the_command_line(tmp_path: Path, survey: Path) -> None:
    rows = answers(6)
    for row in rows:
        if row["query_id"] == "q3":
            row["query"] = f"Please tell me. {ELDERS}"
    rows[0]["response"] = f"Some ask: {SURVEY[1][0]} We shrug and go to the lagoon."
    folder = write_rows(tmp_path / "data" / "answers.jsonl", rows).parent
    left_out = tmp_path / "exclusions.jsonl"
    asked = ["leakage", str(folder), "--survey", str(survey), "--write-exclusions", str(left_out)]

    shut = CliRunner().invoke(measure, asked)
    assert isinstance(shut.exception, PaletteError) and shut.exception.exit_code == 1
    assert "2 queries hold questions of the surveys" in str(shut.exception)
    assert "NOT passed" in shut.output

    report = json.loads((folder / "leakage.json").read_text())
    assert report["passed"] is False and report["pairs"] == 2 and report["threshold"] == 0.5
    (told,) = report["surveys"]
    assert (told["name"], told["questions"]) == ("opinions.csv", 4)
    assert (told["pairs_with_queries"], told["pairs_with_answers"]) == (1, 1)
    assert len(told["sha256"]) == 64 and report["dataset"]["file"] == "answers.jsonl"
    assert {pair["kind"]: pair["query_ids"] for pair in report["examples"]} == {
        "query": ["q3"],
        "answer": ["q0"],
    }
    listed = [json.loads(line) for line in (folder / "leakage_pairs.jsonl").read_text().splitlines()]
    assert [pair["question"] for pair in listed] == [pair["question"] for pair in report["examples"]]

    assert CliRunner().invoke(measure, [*asked, "--report-only"]).exit_code == 0
    gone = {json.loads(line)["query_id"] for line in left_out.read_text().splitlines()}
    assert gone == {"q0", "q3"}
    write_rows(folder / "answers.jsonl", [row for row in rows if row["query_id"] not in gone])
    opened = CliRunner().invoke(measure, asked)
    assert opened.exit_code == 0, opened.output
    assert json.loads((folder / "leakage.json").read_text())["passed"] is True
    assert left_out.read_text() == ""
