from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cultural_palette.cli import dataset_measure
from cultural_palette.cli.dataset_measure import measure
from cultural_palette.cultural_map import load_map
from cultural_palette.errors import MapError, UsageError
from cultural_palette.training.pentachromatic.separation import embeddings, topic_classifier
from cultural_palette.training.pentachromatic.separation.tables import TableError
from cultural_palette.training.pentachromatic.separation.texts import (
    Labelled,
    NothingToMeasure,
    TextSet,
    read_answers,
    read_second,
    without_names,
)
from tests.training.separation_models import IPTC_LABELS, answers, sentence_model, topic_model, write_rows

CONTINENTS = load_map("continents")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [row["response"] for marked in (True, False) for row in answers(30, marked=marked)]
    return sentence_model(tmp_path_factory.mktemp("minilm"), texts)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = answers(30, born=("KEN", "GBR", "GBR", "NZL", None))
    return write_rows(tmp_path / "data" / "answers.jsonl", rows).parent


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(measure, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def prism(folder: Path) -> Path:
    """Made up, in PRISM's form: two that count; one not told, one unknown, one without an answer."""
    born = {"u1": "KEN", "u2": "GBR", "u3": "Prefer not to say", "u4": "KEN"}
    write_rows(
        folder / "survey.jsonl",
        [{"user_id": user, "location": {"birth_countryISO": iso3}} for user, iso3 in born.items()],
    )
    turns = [
        ("c1", "u1", "Is rain good?", "rain is good"),
        ("c2", "u2", "is rain good", "rain is wet"),
        ("c3", "u3", "What?", "that"),
        ("c4", "nobody", "What?", "this"),
        ("c5", "u4", "Why?", None),
    ]
    write_rows(
        folder / "conversations.jsonl",
        [
            {
                "conversation_id": name,
                "user_id": user,
                "opening_prompt": prompt,
                "conversation_history": [
                    {"turn": 0, "role": "user", "content": prompt},
                    {"turn": 0, "role": "model", "content": "not chosen", "if_chosen": False},
                    {"turn": 0, "role": "model", "content": answer, "if_chosen": True},
                    {"turn": 1, "role": "model", "content": "later", "if_chosen": True},
                ],
            }
            for name, user, prompt, answer in turns
        ],
    )
    return folder


def test_the_defaults_are_those_of_training() -> None:
    assert dataset_measure.MINILM == embeddings.MINILM
    assert dataset_measure.IPTC == topic_classifier.IPTC


def test_figure_3_and_its_numbers(dataset: Path, model: Path, tmp_path: Path) -> None:
    plain = [
        {**row, "country": "Kenya" if n % 2 else "Britain"} for n, row in enumerate(answers(20, marked=False))
    ]
    for row in plain:
        del row["community"]
    second = write_rows(tmp_path / "plain.jsonl", plain)
    result = run("separation", dataset, "--model", model, "--beside", second, "--label-column", "country")
    assert "probe, balanced accuracy" in result.output and "chance 0.200" in result.output

    report = json.loads((dataset / "separation.json").read_text())
    ours, theirs = report["sets"]
    assert (ours["name"], theirs["name"]) == ("ours", "plain")
    assert ours["as_is"]["texts"] == 150 and ours["as_is"]["queries"] == 30
    assert ours["as_is"]["probe"]["balanced_accuracy"]["value"] > 0.9  # each community has words of its own
    assert ours["query_centred"]["silhouette_cosine"]["value"] > ours["as_is"]["silhouette_cosine"]["value"]
    chance = theirs["as_is"]["probe"]
    assert chance["balanced_accuracy"]["low"] < 0.5 + 0.1 and chance["balanced_chance"] == 0.5
    assert report["silhouette_cosine"] == ours["as_is"]["silhouette_cosine"]["value"]
    assert str(tmp_path) not in (dataset / "separation.json").read_text()

    with (dataset / "figures" / "separation_points.csv").open() as file:
        points = list(csv.DictReader(file))
    assert sum(row["set"] == "ours" and row["view"] == "as_is" for row in points) == 150
    for name in report["files"]:
        assert (dataset / name).stat().st_size > 1000
    assert (dataset / "figures" / "separation.png").read_bytes().startswith(b"\x89PNG")
    drawn = (dataset / "figures" / "separation.svg").read_text()
    assert "Oceania" in drawn and "150 answers to 30 queries" in drawn


def test_measured_again_it_gives_the_same_and_computes_nothing(
    dataset: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("separation.json", "figures/separation.svg", "figures/separation_points.csv")
    run("separation", dataset, "--model", model)
    first = [(dataset / name).read_bytes() for name in files]
    monkeypatch.setattr(embeddings.SentenceEncoder, "encode", None)
    run("separation", dataset, "--model", model)
    assert [(dataset / name).read_bytes() for name in files] == first


def test_a_split_goes_to_a_folder_of_its_own(dataset: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "test-part"
    result = run("separation", dataset, "--model", model, "--split", "test", "--out", out, "--json")
    assert json.loads(result.stdout)["sets"][0]["as_is"]["queries"] == 8  # of 30, every fourth
    assert not (dataset / "separation.json").exists() and (out / "figures" / "separation.png").exists()


def test_figure_8_and_its_counts(dataset: Path, tmp_path: Path) -> None:
    classifier = topic_model(tmp_path / "iptc", [row["query"] for row in answers(30)])
    result = run("topics", dataset, "--model", classifier, "--confidence", "0.5")
    assert "30 queries: " in result.output and "not told 6" in result.output
    report = json.loads((dataset / "topics.json").read_text())
    assert set(report["topics"]) == set(IPTC_LABELS)
    assert sum(n for row in report["topics"].values() for n in row.values()) == 30
    assert report["confident"] + report["uncertain"] == report["short"] == 30
    assert report["born"]["europe"] == 12 and report["born"]["africa"] == 6
    with (dataset / "figures" / "topics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert sum(float(row["confidence"]) >= 0.5 for row in rows) == report["confident"]
    assert "n = 30 queries" in (dataset / "figures" / "topics.svg").read_text()


def test_birthplaces_need_no_model(dataset: Path) -> None:
    run("topics", dataset, "--no-topics")
    assert "topics" not in json.loads((dataset / "topics.json").read_text())
    assert (dataset / "figures" / "topics.png").exists()


def test_a_synthesis_run_is_read_without_what_was_set_aside(tmp_path: Path) -> None:
    rows = answers(4)
    rows[3] |= {"status": "set_aside", "response": None}
    rows.append({**rows[0], "response": "said again"})
    file = write_rows(tmp_path / "run" / "rows.jsonl", rows)
    file.write_bytes(file.read_bytes() + b'{"query_id": "cut sh')  # killed while it wrote
    read = read_answers(file.parent)
    assert len(read.items) == 19 and read.counts == {"rows": 21, "set_aside": 1}
    assert next(each.response for each in read.items if each.query_id == "q0") == "said again"
    with pytest.raises(UsageError, match="has no splits"):
        read_answers(file.parent, "train")


def test_folders_that_hold_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(NothingToMeasure, match=r"neither answers\.jsonl nor rows\.jsonl"):
        read_answers(tmp_path)
    write_rows(tmp_path / "answers.jsonl", [{**answers(1)[0], "split": "train"}])
    with pytest.raises(NothingToMeasure, match="no answer that is ok in the split 'test'"):
        read_answers(tmp_path, "test")
    (tmp_path / "answers.jsonl").write_text('{"query_id": "q"}\n')
    with pytest.raises(UsageError, match=r'answers.jsonl:1: "query" is None'):
        read_answers(tmp_path)


def test_the_map_is_the_manifests(dataset: Path, model: Path) -> None:
    (dataset / "manifest.json").write_text('{"map": {"key": "inglehart_welzel"}}')
    with pytest.raises(MapError, match="'inglehart_welzel' has no community 'africa'"):
        run("separation", dataset, "--model", model)
    run("separation", dataset, "--model", model, "--map", "continents")


def test_prism_answers_stand_under_their_readers_birthplace(tmp_path: Path) -> None:
    for given in (prism(tmp_path), tmp_path / "conversations.jsonl"):
        read = read_second(str(given), CONTINENTS)
        assert [(each.id, each.label, each.text) for each in read.texts] == [
            ("c1", "africa", "rain is good"),
            ("c2", "europe", "rain is wet"),
        ]
        assert read.texts[0].query == read.texts[1].query  # the same prompt but for case and marks
        assert read.counts == {"rows": 5, "not_told": 1, "not_in_survey": 1, "no_chosen_answer": 1}
        assert read.name == "PRISM"


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"community": "asia", "response": "x"}, "asia"),
        ({"label": "Oceania", "text": "x"}, "oceania"),
        ({"country": "S. Korea", "answer": "x"}, "asia"),
    ],
)
def test_a_table_is_labelled_by_community_or_country(row: dict[str, Any], label: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "t.jsonl", [row, {**row, next(iter(row)): "Atlantis"}])
    read = read_second(str(file), CONTINENTS)
    assert [each.label for each in read.texts] == [label]
    assert read.counts == {"rows": 2, "unknown_label": 1}


def test_tables_that_can_not_be_used(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "t.jsonl", [{"community": "asia", "said": "x"}])
    with pytest.raises(TableError, match=r"t.jsonl:1: no column 'response' or .* there are community, said"):
        read_second(str(file), CONTINENTS)
    assert read_second(str(file), CONTINENTS, text="said").texts[0].text == "x"
    with pytest.raises(TableError, match="no column 'asked' for the query"):
        read_second(str(file), CONTINENTS, text="said", query="asked")
    file = write_rows(tmp_path / "u.jsonl", [{"community": "Atlantis", "text": "x"}])
    with pytest.raises(NothingToMeasure, match="u has no text with a community: 1 rows, 1 unknown label"):
        read_second(str(file), CONTINENTS)
    (tmp_path / "v.csv").write_text("text,community\nx\n")
    with pytest.raises(TableError, match=r"v.csv:2: expected 2 columns"):
        read_second(str(tmp_path / "v.csv"), CONTINENTS)
    with pytest.raises(TableError, match=r"No file nowhere\.csv"):
        read_second("nowhere.csv", CONTINENTS)


def test_names_can_be_hidden() -> None:
    said = (
        "In South Africa, as in Africa and Guinea-Bissau, African people eat. Africans in Papua New Guinea."
    )
    given = TextSet("x", (Labelled("q", "h", "africa", said),), {})
    (text,) = without_names(given, CONTINENTS).texts
    assert text.text == "In ..., as in ... and ..., ... people eat. Africans in ...."


def test_hidden_names_leave_nothing_to_see_where_names_are_all_there_is(tmp_path: Path) -> None:
    names = {c.key: c.name for c in CONTINENTS.communities}
    rows = [{**row, "response": f"People in {names[row['community']]} eat"} for row in answers(10)]
    folder = write_rows(tmp_path / "run" / "rows.jsonl", rows).parent
    encoder = sentence_model(tmp_path / "m", [row["response"] for row in rows])
    run("separation", folder, "--model", encoder)
    assert json.loads((folder / "separation.json").read_text())["probe_balanced_accuracy"] == 1.0
    run("separation", folder, "--model", encoder, "--hide-names")
    report = json.loads((folder / "separation.json").read_text())
    assert report["names_hidden"] and report["sets"][0]["different_texts"] == 1
    assert report["probe_balanced_accuracy"] == pytest.approx(0.2)


def test_two_sets_of_one_name_are_refused(dataset: Path, model: Path) -> None:
    with pytest.raises(UsageError, match="Both sets are called 'ours'"):
        run("separation", dataset, "--model", model, "--beside", dataset, "--beside-name", "ours")
