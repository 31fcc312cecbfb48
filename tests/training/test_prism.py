"""PRISM and other files of queries: every row is kept, counted away, or named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cultural_palette.cultural_map import load_map
from cultural_palette.errors import UsageError
from cultural_palette.training import queries
from cultural_palette.training.prism import load_prism
from cultural_palette.training.queries import Filters, normalised, read_queries

DATA = Path(__file__).parent / "data" / "prism"
CONTINENTS = load_map("continents")


def test_prism_every_row_is_accounted_for():
    found = load_prism(CONTINENTS, DATA)
    assert [query.id for query in found.items] == ["c0", "c4", "c5", "c6", "c7"]
    counts = found.counts
    # 9 rows parse: 5 kept, 1 empty, 1 repeats another, 1 greets, 1 has a number for its prompt
    assert counts["rows"] == 9
    assert (counts["kept"], counts["empty"], counts["duplicates"], counts["greetings"]) == (5, 1, 1, 1)
    assert counts["unreadable"] == 3  # two lines that are no object, and the number
    assert counts["rows"] + 2 == counts["kept"] + counts["unreadable"] + 3
    assert counts["unique_by_exact_text"] == 7
    assert counts["non_english"] == 1  # counted, and kept unless asked otherwise
    assert found.origin["licence"].startswith("prompts CC-BY-4.0")


def test_a_corrupt_row_is_named_by_file_and_line():
    faults = load_prism(CONTINENTS, DATA).faults
    places = [fault.partition(": ")[0] for fault in faults]
    file = DATA / "conversations.jsonl"
    assert places == [f"{file}:3", f"{file}:5", f"{file}:11"]
    assert "not JSON" in faults[0] and "found list" in faults[1] and "opening_prompt" in faults[2]


def test_birth_country_and_community_are_joined_on():
    found = load_prism(CONTINENTS, DATA)
    where = {q.id: (q.source.birth_country, q.source.community) for q in found.items}
    assert where == {
        "c0": ("KEN", "africa"),
        "c4": (None, None),  # prefers not to say
        "c5": ("GBR", "europe"),
        "c6": (None, None),  # not in the survey
        "c7": (None, None),  # no country
    }
    told = ("birth_not_told", "birth_not_in_survey", "birth_unknown_country")
    assert [found.counts[name] for name in told] == [1, 1, 1]
    assert found.items[0].source.user_id == "user0"


def test_another_map_gives_other_communities():
    found = load_prism(load_map("inglehart_welzel"), DATA)
    assert found.items[2].source.community == "english_speaking"


def test_filters_are_a_choice():
    greeting = load_prism(CONTINENTS, DATA, filters=Filters(greetings=False))
    assert greeting.counts["kept"] == 6 and greeting.counts["greetings"] == 0
    english = load_prism(CONTINENTS, DATA, filters=Filters(english_only=True))
    assert "c4" not in [query.id for query in english.items] and english.counts["kept"] == 4


def test_without_lingua_languages_are_not_counted(monkeypatch):
    monkeypatch.setattr(queries, "language_detector", lambda: None)
    assert "non_english" not in load_prism(CONTINENTS, DATA).counts
    with pytest.raises(UsageError, match="needs lingua"):
        load_prism(CONTINENTS, DATA, filters=Filters(english_only=True))


def test_files_by_other_names_and_missing_ones(tmp_path):
    for name in ("conversations", "survey"):
        (tmp_path / f"my_{name}.jsonl").write_bytes((DATA / f"{name}.jsonl").read_bytes())
    assert load_prism(CONTINENTS, tmp_path).counts["kept"] == 5
    with pytest.raises(UsageError, match=r"PRISM needs conversations\.jsonl and survey\.jsonl in one folder"):
        load_prism(CONTINENTS, tmp_path / "nowhere")


def test_the_hub_out_of_reach_says_the_way_out(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(UsageError, match=r"can not be loaded from the hub .*prism:FOLDER"):
        load_prism(CONTINENTS)


def test_the_hub_files_and_revision(monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo, name, *, repo_type, revision):
        asked.append((repo, name, repo_type, revision))
        return str(DATA / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = load_prism(CONTINENTS, revision="abc")
    assert asked == [
        ("HannahRoseKirk/prism-alignment", name, "dataset", "abc")
        for name in ("conversations.jsonl", "survey.jsonl")
    ]
    assert found.origin["revision"] == "abc" and found.counts["kept"] == 5


def test_csv_with_ids_countries_and_faults(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(
        'id,query,country\na,"What is, in short, a good life?",S. Korea\nb,Is tea good?,Atlantis\n'
        "a,Who may lead a village?,\n,Should one obey the law?,\nd,one,two,three\n",
        encoding="utf-8",
    )
    found = read_queries(file, CONTINENTS)
    assert [(q.text, q.source.birth_country, q.source.community) for q in found.items] == [
        ("What is, in short, a good life?", "KOR", "asia"),
        ("Should one obey the law?", None, None),
    ]
    assert found.items[0].id == "a" and found.items[1].id.startswith("q-")
    assert [fault.partition(": ")[0] for fault in found.faults] == [f"{file}:{line}" for line in (3, 4, 6)]
    assert "Unknown country 'Atlantis'" in found.faults[0] and "stands above already" in found.faults[1]
    assert found.counts["kept"] == 2 and found.counts["unreadable"] == 3


def test_jsonl_and_the_hash_of_the_file(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [{"query": "Is tea good?"}, {"query": "is tea GOOD"}, {"question": "?"}]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    found = read_queries(file, CONTINENTS)
    assert [q.text for q in found.items] == ["Is tea good?"]
    assert found.counts["duplicates"] == 1 and found.counts["unreadable"] == 1
    assert len(found.origin["sha256"]) == 64


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "question\nIs tea good?\n", "no 'query' column; it has question"),
        ("a.txt", "x", r"read from \.csv or \.jsonl"),
        ("a.jsonl", "{}\n", "no query to answer"),
    ],
)
def test_a_file_that_is_no_queries(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_queries(tmp_path / name, CONTINENTS)


def test_normalised_folds_what_is_the_same_question():
    assert normalised("  What’s  a GOOD\nlife?? ") == normalised("what's a good life")
    assert normalised("???") == "???"
    assert normalised("Is tea good?") != normalised("Is tea bad?")
