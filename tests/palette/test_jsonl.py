"""One strict reader of JSON: byte order marks, places, nesting without an end, half characters."""

from __future__ import annotations

import codecs
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cultural_palette.artifacts import RunFolder
from cultural_palette.cultural_map import load_map
from cultural_palette.errors import ArtifactError, PaletteError, UsageError
from cultural_palette.jsonl import JsonFault, parse_json, parse_object, read_object, read_rows, refuse
from cultural_palette.yaml_files import YamlFault, parse_yaml

BOMB = "[" * 100_000 + "]" * 100_000
MAP = load_map("continents")
COMMUNITIES = tuple(community.key for community in MAP.communities)
ANSWER = {
    "query_id": "q1", "query": "What is a good life?", "community": "asia", "status": "ok",
    "response": "Rice.",
}  # fmt: skip


@pytest.mark.parametrize("raw", [b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}\r\n', '{"a": 1}', '\ufeff{"a": 1}'])
def test_with_and_without_a_mark(raw):
    assert parse_object(raw) == {"a": 1}


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"{torn", "not JSON"),
        (b"", "not JSON"),
        (b'{"a": NaN}', "it holds NaN"),
        (b'{"a": -Infinity}', "it holds -Infinity"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"a": "\xe6\x97"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "looks like UTF-16"),
        (BOMB.encode(), "nested more than 100 deep"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested more than 100 deep"),
        (b'{"a": "\\ud83d"}', r"half a surrogate pair \(\\ud83d\)"),
        (b'{"a": {"\\uDE00": [1]}}', r"half a surrogate pair \(\\ude00\)"),
        ('{"a": "\ud83d"}', "half a surrogate pair"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
    ],
)
def test_what_can_not_be_used_is_said(raw, why):
    with pytest.raises(JsonFault, match=why):
        parse_object(raw)


def test_what_looks_bad_and_is_fine():
    assert parse_json(b'"\\ud83d\\ude00"') == "😀"
    assert parse_json(json.dumps("[{" * 500)) == "[{" * 500  # brackets in a text are text
    assert parse_json(json.dumps([[]] * 500)) == [[]] * 500  # wide, not deep
    assert parse_json(json.dumps({"a": '\\"[' * 300, "b": [[[1]]] * 100}))["b"][0] == [[1]]
    assert parse_json(b'"\\ud83d"', half_pairs=True) == "\ud83d"
    assert parse_json(b"[Infinity]", nan=True) == [float("inf")]


def test_a_text_without_an_end_takes_no_time():
    start = time.perf_counter()
    with pytest.raises(JsonFault):
        parse_json(b"[" * 200 + b'"' + b'\\"' * 1_000_000)
    assert time.perf_counter() - start < 5


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_bytes_give_a_value_or_a_fault(raw):
    try:
        json.dumps(parse_json(raw)).encode("utf-8")
    except JsonFault as error:
        assert str(error)


def test_rows_with_their_places(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"n": 1}\r\n\n{"n": "a\xe2\x80\xa8b"}\n[2]\n\xef\xbb\xbf{"n": 3}\n{"n": 4}'
    )
    faults: list[tuple[str, str]] = []
    rows = list(read_rows(file, lambda place, why: faults.append((place, why))))
    assert rows == [
        ({"n": 1}, f"{file}:1"),
        ({"n": "a\u2028b"}, f"{file}:3"),
        ({"n": 3}, f"{file}:5"),
        ({"n": 4}, f"{file}:6"),
    ]
    assert faults == [(f"{file}:4", "expected a JSON object, found list")]
    with pytest.raises(UsageError, match=r"rows\.jsonl:4: expected .* list, mend it$"):
        list(read_rows(file, refuse(UsageError, ", mend it")))


def test_files_that_can_not_be_read(tmp_path):
    for name, why in (("none.jsonl", "No such file"), (".", "directory")):
        with pytest.raises(UsageError, match=rf"can not be read \(.*{why}"):
            list(read_rows(tmp_path / name, refuse(UsageError)))
    with pytest.raises(OSError):
        read_object(tmp_path / "none.json")


# -- every reader of JSONL, with a mark, and with what it must refuse by place --


def surveys(file: Path) -> int:
    from cultural_palette.evaluation.survey_formats import Answer, SurveyError, jsonl

    rows = list(jsonl.read(file))
    for row in rows:
        if not isinstance(row, Answer):
            raise SurveyError(str(row))
    return len(rows)


def queries(file: Path) -> int:
    from cultural_palette.training.queries import Filters, read_queries

    found = read_queries(file, MAP, Filters())
    if found.faults:
        raise UsageError(found.faults[0])
    return len(found.items)


def preferences(file: Path) -> int:
    from cultural_palette.training.preferences import read_groups

    return len(read_groups(file, COMMUNITIES)["asia"])


def exclusions(file: Path) -> int:
    from cultural_palette.training.pentachromatic.build import read_excluded

    return len(read_excluded(file).reasons)


def tables(file: Path) -> int:
    from cultural_palette.training.pentachromatic.separation.tables import rows_of

    return len(list(rows_of(file)))


def gold(file: Path) -> int:
    from cultural_palette.evaluation.semantic import load_gold

    return len(load_gold(file, MAP).answers)


def run_rows(file: Path) -> int:
    return len(list(RunFolder(file.parent).rows()))


def synthesis_index(file: Path) -> int:
    from cultural_palette.training.pentachromatic.synthesis_run import SynthesisRun

    (file.parent / "manifest.json").write_text(json.dumps({"map": "continents", "communities": COMMUNITIES}))
    run = SynthesisRun(file.parent)
    return sum(len(answers) for _, answers in run.answers(run.index()))


def batch_results(file: Path) -> int:
    from cultural_palette.training.synthesis.batch import ResultsFiles

    found = ResultsFiles((file,))
    if found.faults:
        raise UsageError(found.faults[0])
    return found.counts["read"] - found.counts["unreadable"]


SURVEY_ROW = {
    "id": "family", "question": "How important is family?", "options": ["Very", "Not"], "country": "KEN",
    "distribution": [0.9, 0.1],
}  # fmt: skip
REPLY = {
    "choices": [{"message": {"content": "Rice."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
READERS = {
    surveys: SURVEY_ROW,
    queries: {"query": "What is a good life in your opinion?"},
    preferences: {"prompt": "Q?", "responses": {key: f"{key} says." for key in COMMUNITIES}},
    exclusions: {"query_id": "q1", "reason": "a survey's"},
    tables: {"text": "a", "community": "asia"},
    gold: ANSWER,
    run_rows: ANSWER,
    synthesis_index: ANSWER,
    batch_results: {"custom_id": "a", "response": {"status_code": 200, "body": REPLY}},
}


@pytest.fixture(params=READERS, ids=lambda reader: reader.__name__)
def reader(request):
    return request.param


def test_every_reader_takes_a_byte_order_mark(reader, tmp_path):
    file = tmp_path / "rows.jsonl"
    line = json.dumps(READERS[reader]).encode() + b"\n"
    file.write_bytes(line)
    assert reader(file) == 1
    file.write_bytes(codecs.BOM_UTF8 + line)
    assert reader(file) == 1


@pytest.mark.parametrize(
    "bad",
    [BOMB.encode(), b'{"a": "\xe6\x97"}', b"[1]", b"{torn"],
    ids=["nested", "not UTF-8", "list", "torn"],
)
def test_every_reader_names_the_line_that_it_can_not_take(reader, bad, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(json.dumps(READERS[reader]).encode() + b"\n" + bad + b"\n")
    with pytest.raises(PaletteError, match=r"rows\.jsonl:2"):
        reader(file)


@pytest.mark.parametrize(
    "kind", [surveys, queries, preferences, exclusions, tables, gold], ids=lambda kind: kind.__name__
)
def test_half_a_character_is_refused_where_people_write(kind, tmp_path):
    """Run folders and batch results hold what models wrote: half pairs stay there, escaped."""
    file = tmp_path / "rows.jsonl"
    good = json.dumps(READERS[kind])
    file.write_text(f'{good}\n{{"\\ud83d": 1, {good[1:]}\n')
    with pytest.raises(PaletteError, match=r"rows\.jsonl:2: .*half a surrogate pair"):
        kind(file)


def test_a_manifest_without_an_end(tmp_path):
    (tmp_path / "manifest.json").write_text(BOMB)
    with pytest.raises(ArtifactError, match=r"manifest\.json:1: .*nested"):
        _ = RunFolder(tmp_path).manifest


@pytest.mark.parametrize("text", ['a: "x\\ud800"', '? "\\ud800"\n: 1', 'a: &b [*b, "\\ud800"]'])
def test_yaml_holds_no_half_a_character_either(text):
    with pytest.raises(YamlFault, match=r"half a surrogate pair \(\\ud800\)"):
        parse_yaml(text)


def test_no_number_is_longer_than_a_float_can_hold():
    with pytest.raises(JsonFault, match="a number of 400 digits"):
        parse_json('{"a": ' + "9" * 400 + "}")
    assert parse_json('{"a": "' + "9" * 400 + '", "b": 12}') == {"a": "9" * 400, "b": 12}
