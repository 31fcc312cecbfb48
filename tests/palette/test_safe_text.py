"""Other people's text on a terminal, in Markdown, in spreadsheets, in the shell, and in names."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cultural_palette.cultural_map import Community, CulturalMap, load_map
from cultural_palette.errors import MapError, SettingsError
from cultural_palette.evaluation.report.csv_files import to_csv
from cultural_palette.models import ModelRef
from cultural_palette.safe_text import (
    as_code,
    guarded_cell,
    hidden_in,
    unguarded_cell,
    visible,
    without_html,
)
from cultural_palette.training.merge.report import card

HIDDEN = {
    "an escape sequence": "\x1b[31mred",
    "a C1 escape": "\x9b31m",
    "a bell": "\a",
    "a carriage return": "safe\revil",
    "right to left": "\u202egnp.exe",
    "left to right": "\u202d",
    "isolates": "\u2066\u2069",
    "an Arabic mark": "\u061c",
    "zero width": "Ye\u200bs",
    "a byte order mark": "Yes\ufeff",
    "a word joiner": "Ye\u2060s",
    "a joiner among Latin letters": "Ye\u200ds",
    "a mark among Latin letters": "Ye\u200es",
    "a line separator": "a\u2028b",
    "tags": "a\U000e0041",
    "half a pair": "a\ud83d",
}
SHOWN = ["Yes", "¿Qué?", "می‌خواهم", "क्‍ष", "👩‍👩‍👧", "\u05d0\u200f\u05d1", "日本語", "a\tb\nc", "Türkiye"]


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_hides_or_reorders_is_shown_as_a_sign(kind):
    assert "\ufffd" in visible(HIDDEN[kind])
    assert hidden_in(HIDDEN[kind]).startswith("U+")


@pytest.mark.parametrize("text", SHOWN)
def test_other_scripts_stay_as_they_are(text):
    assert visible(text) == text and hidden_in(text) is None


@pytest.mark.parametrize("kind", HIDDEN)
def test_no_name_holds_it(kind, tmp_path):
    name = f"Afri{HIDDEN[kind]}ca"
    with pytest.raises(MapError, match="which nobody sees"):
        Community("africa", name, "#000000", ("KEN",))
    with pytest.raises(MapError, match="which nobody sees"):
        Community("africa", "Africa", "#000000", ("KEN",), adjective=name)
    pair = (Community("a", "A", "#000000", ("KEN",)), Community("b", "B", "#000001", ("USA",)))
    with pytest.raises(MapError, match="which nobody sees"):
        CulturalMap("m", name, pair)
    with pytest.raises(SettingsError):
        ModelRef.parse(f"openai:{name}")


def test_a_map_names_the_line(tmp_path):
    file = tmp_path / "m.yaml"
    file.write_text(
        'name: M\ncommunities:\n  a: {name: "A\\e[31m", colour: "#000000", countries: [KEN]}\n'
        '  b: {name: B, colour: "#000001", countries: [USA]}\n'
    )
    with pytest.raises(MapError, match=r"m\.yaml:3: .*U\+001B"):
        load_map(file)


@pytest.mark.parametrize("key", ["meta", "base", "joint"])
def test_names_of_parts_are_no_communities(key, tmp_path):
    file = tmp_path / "m.yaml"
    file.write_text(
        f'name: M\ncommunities:\n  {key}: {{name: A, colour: "#000000", countries: [KEN]}}\n'
        '  b: {name: B, colour: "#000001", countries: [USA]}\n'
    )
    with pytest.raises(MapError, match=rf"m\.yaml:3: .*can not be called '{key}'"):
        load_map(file)


TAGS = ["<script>x</script>", "<img src=x onerror=y>", "a `b` <b>", "``<b>", "&lt;", "`<b> <i>", "<!-- x"]


@pytest.mark.parametrize("text", TAGS)
def test_markdown_holds_no_tag(text):
    shown = without_html(f"- {text}\n- more")
    outside = "".join(part for i, part in enumerate(shown.split("`")) if i % 2 == 0)
    assert "<" not in outside
    assert "<script" not in shown and "<img" not in shown
    assert as_code(text).count("`") == 2


def test_code_stays_as_it_is():
    assert without_html("use `a<b>` & <c>") == "use `a<b>` &amp; &lt;c&gt;"


def test_a_cards_folders_are_code():
    member = {"kind": "adapter", "folder": "x` <script>", "changed": 1, "tensors": 2, "relative_change": 0.1}
    report = {
        "method": "ties", "base": "<script>`", "architecture": "<script>", "members": {"africa": member},
        "result": {"relative_change": 0.1},
    }  # fmt: skip
    text = card(report)
    assert text.startswith("---\nlibrary_name: transformers\n") and "(&lt;script&gt;)" in text
    assert "`<script>`" in text and "`x <script>`" in text  # as code, whole


FORMULAS = ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "'"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text):
    (row,) = csv.DictReader(io.StringIO(to_csv([{"error": text, "mean": -0.5}]), newline=""))
    assert row["error"] == guarded_cell(visible(text)) and row["error"][0] in "'\ufffd"
    assert row["mean"] == "-0.5"


@given(st.text())
def test_a_guarded_cell_comes_back(text):
    assert unguarded_cell(guarded_cell(text)) == text


def run_make(root: Path, folder: Path, python: str, arguments: Sequence[str] = (), **environment: str):
    """`make ask` in a copy of the Makefile, with a shell script in the place of Python."""
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(root / file, folder)
    path = folder / ".venv" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\n{python}\nfor word in "$@"; do printf "<%s>\\n" "$word"; done\n')
    path.chmod(0o755)
    for stamp in (".made", ".dev", ".ask"):
        (folder / ".venv" / stamp).touch()
    return subprocess.run(
        ["make", "ask", *arguments],
        cwd=folder, env={"PATH": "/usr/bin:/bin"} | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("name", ["QUESTION", "OPTIONS", "COUNTRY", "MODEL"])
@pytest.mark.parametrize("where", ["command line", "environment"])
def test_make_runs_nothing_that_a_question_says(root, tmp_path, name, where):
    text = "hi $(shell touch made) `touch made` $$(touch made) 'a' \"b\""
    words = {"QUESTION": "Is tea good?"} | {name: text}
    if where == "command line":
        done = run_make(root, tmp_path, "", [f"{key}={value}" for key, value in words.items()])
    else:
        done = run_make(root, tmp_path, "", **words)
    assert f"<{text}>" in done.stdout
    assert not (tmp_path / "made").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("arguments", "there", "model"),
    [
        ([], True, "embedded:small"),
        ([], False, "embedded:nano"),
        (["MODEL=embedded:nano"], False, "embedded:nano"),
        (["MODEL=openai:large"], False, "openai:large"),
    ],
)
def test_make_asks_small_and_nano_where_small_can_not_be_had(root, tmp_path, arguments, there, model):
    absent = 'case "$*" in *"pull small"*) echo "no wheel" >&2; exit 1;; esac'
    done = run_make(root, tmp_path, "" if there else absent, arguments)
    assert done.stdout.startswith(f"<-m>\n<cultural_palette>\n<ask>\n<--model>\n<{model}>\n")
    assert ("The nano palette answers instead." in done.stderr) == (not there and not arguments)
