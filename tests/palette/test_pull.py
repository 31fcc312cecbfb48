"""`palette pull` and `palette examples`: what is listed can be asked, what is not there is named."""

from __future__ import annotations

import json
import shlex

import pytest
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.countries import find_country
from cultural_palette.embedded.examples import examples_of, with_examples
from cultural_palette.embedded.manifest import BUILT_IN, read_manifest
from cultural_palette.embedded.scope import scope_notes
from cultural_palette.questions import Question


def test_every_built_in_palette_has_examples_that_can_be_asked() -> None:
    assert set(with_examples()) == set(BUILT_IN)
    for name in BUILT_IN:
        for row in examples_of(name):
            assert find_country(row["country"]).iso3 == row["country"]
            Question(row["question"], tuple(row.get("options", ())))


def test_nanos_examples_lie_within_its_atlas() -> None:
    manifest = read_manifest("nano")
    for row in examples_of("nano"):
        assert scope_notes(manifest, row["question"], row["country"], row.get("options", ())) == []


def test_a_note_names_the_country_and_not_its_code() -> None:
    note = scope_notes(read_manifest("nano"), "What do people eat?", "ATA")[0]
    assert "Antarctica" in note and "ATA" not in note


def test_examples_are_commands_to_copy() -> None:
    lines = CliRunner().invoke(main, ["examples", "nano"]).stdout.splitlines()
    rows = json.loads(CliRunner().invoke(main, ["examples", "nano", "--json"]).stdout)["nano"]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        words = shlex.split(line)
        assert words[:4] == ["palette", "ask", "--model", "embedded:nano"] and words[-1] == row["question"]
        assert [words[i + 1] for i, word in enumerate(words) if word == "--option"] == row.get("options", [])


def test_pull_says_what_is_there_and_how_big() -> None:
    result = CliRunner().invoke(main, ["pull", "nano"])
    assert result.exit_code == 0 and "nano is ready:" in result.stdout
    assert all(f"adapter {key}" in result.stdout for key in read_manifest("nano").communities)


@pytest.mark.parametrize("command", [["examples", "smal"], ["pull", "smal"]])
def test_a_palette_that_is_not_there_is_named(command: list[str]) -> None:
    result = CliRunner().invoke(main, command)
    assert result.exit_code != 0 and "smal" in result.stderr and "small" in result.stderr
