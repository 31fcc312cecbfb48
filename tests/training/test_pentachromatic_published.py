"""The authors' published columns, read from every format, and back to what was written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("pyarrow")
pytest.importorskip("datasketch")

from cultural_palette.cli import main
from cultural_palette.training.pentachromatic.build import DatasetSettings, build
from cultural_palette.training.pentachromatic.published import PublishedError, read_published
from cultural_palette.training.pentachromatic.synthesis_run import SynthesisRun
from cultural_palette.training.preferences import read_groups
from tests.training.pentachromatic_runs import COMMUNITIES, write_run

NAMES = {key: (key.capitalize(), f"{key}n") for key in COMMUNITIES}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    run = SynthesisRun(write_run(tmp_path / "run", 3))
    build(run, tmp_path / "ds", DatasetSettings(test_share=0))
    return tmp_path / "ds" / "published" / "train"


def rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv", "json"])
def test_our_export_comes_back_the_same(exported: Path, tmp_path: Path, kind: str) -> None:
    files = []
    for key in COMMUNITIES:
        made = tmp_path / f"{key.capitalize()}_train.{kind}"
        there = rows(exported / f"{key}.jsonl")
        if kind == "csv":
            with made.open("w", encoding="utf-8-sig", newline="") as file:
                table = csv.DictWriter(file, list(there[0]))
                table.writeheader()
                table.writerows(there)
        elif kind == "json":
            made.write_text(json.dumps(there))
        else:
            made = exported / f"{key}.{kind}"
        files.append(str(made))
    done = CliRunner().invoke(main, ["dataset", "read", *files, "--out", str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    assert "60 rows -> 15 answers" in done.output  # 3 queries x 5 communities x 4 rejected; 3 x 5
    build(SynthesisRun(tmp_path / "again"), tmp_path / "ds2", DatasetSettings(test_share=0))
    first, second = tmp_path / "ds" / "groups" / "train", tmp_path / "ds2" / "groups" / "train"
    assert without_places(first) == without_places(second)
    card = (tmp_path / "ds2" / "README.md").read_text(encoding="utf-8")
    assert "`published`" in card and "Kirk et al." not in card


def without_places(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        key: [{name: value for name, value in group.items() if name != "place"} for group in groups]
        for key, groups in read_groups(folder, COMMUNITIES).items()
    }


def test_a_column_names_the_community(exported: Path, tmp_path: Path) -> None:
    one = tmp_path / "all.jsonl"
    lines = [
        json.dumps(each | {"continent": key.capitalize()})
        for key in COMMUNITIES
        for each in rows(exported / f"{key}.jsonl")
    ]
    one.write_text("\n".join(lines))
    found = read_published([one], NAMES)
    assert {key: len(groups) for key, groups in found.groups.items()} == dict.fromkeys(COMMUNITIES, 3)
    assert found.strangers() == 0
    assert [len(group.rejected) for group in found.groups["asia"].values()] == [4, 4, 4]


def test_rejected_answers_of_nobody_and_rows_that_stand_twice_are_counted(
    exported: Path, tmp_path: Path
) -> None:
    there = rows(exported / "asia.jsonl")
    (tmp_path / "asia.jsonl").write_text(
        "\n".join(map(json.dumps, [*there, there[0], there[0] | {"rejected_response": "Who said this?"}]))
    )
    files = [tmp_path / "asia.jsonl", *(exported / f"{key}.jsonl" for key in COMMUNITIES if key != "asia")]
    found = read_published(files, NAMES)
    assert found.repeated == 1
    assert found.strangers() == 1


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("asia.jsonl", "{", r"asia.jsonl:1: not JSON"),
        ("asia.jsonl", '{"query": "q", "response": "r"}', r"asia.jsonl:1: no column 'rejected_response'"),
        (
            "asia.csv",
            "query,response,rejected_response\nq,,x\n",
            r"asia.csv:2: response is '', expected a text",
        ),
        ("some.jsonl", '{"query": "q", "response": "r", "rejected_response": "x"}', "which community"),
        ("asia.txt", "", "expected .jsonl, .json, .csv, .parquet"),
        ("asia.parquet", "no", "no Parquet file"),
        ("asia.json", "{}", "expected a list of rows"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PublishedError, match=says):
        read_published([tmp_path / name], NAMES)


def test_two_responses_of_one_community_to_one_query_are_refused(tmp_path: Path) -> None:
    both = [{"query": "q?", "response": text, "rejected_response": "x"} for text in ("one", "two")]
    (tmp_path / "asia.jsonl").write_text("\n".join(map(json.dumps, both)))
    with pytest.raises(PublishedError, match=r"asia.jsonl:2: a second, different response of asia"):
        read_published([tmp_path / "asia.jsonl"], NAMES)


def test_a_community_without_files_is_named(exported: Path, tmp_path: Path) -> None:
    files = [str(exported / f"{key}.jsonl") for key in COMMUNITIES[:4]]
    done = CliRunner().invoke(main, ["dataset", "read", *files, "--out", str(tmp_path / "again")])
    assert done.exit_code == 2
    assert "No rows of oceania" in done.output
