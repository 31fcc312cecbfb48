"""Other people's text on a terminal, in Markdown, in spreadsheets, in the shell, and in names."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cultural_palette.cli import main
from cultural_palette.cultural_map import Community, CulturalMap, load_map
from cultural_palette.errors import MapError, SettingsError
from cultural_palette.evaluation.report.csv_files import to_csv
from cultural_palette.evaluation.report.layout import (
    Cell,
    Column,
    Line,
    Section,
    Table,
    to_html,
    to_latex,
    to_markdown,
)
from cultural_palette.evaluation.report.page import facts_html
from cultural_palette.models import ModelRef
from cultural_palette.safe_text import (
    as_code,
    escaped,
    guarded_cell,
    hidden_in,
    unguarded_cell,
    visible,
    without_html,
)
from cultural_palette.training.merge.palette_folder import _card as palette_card
from cultural_palette.training.merge.report import card
from cultural_palette.training.pentachromatic.separation.measure import _csv as write_csv

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


@given(st.recursive(st.text() | st.none() | st.floats(allow_nan=False), st.lists, max_leaves=5))
def test_printed_json_says_the_same_and_hides_nothing(value):
    text = escaped(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value and hidden_in(text) is None


PRINTERS = {"click.echo": ("text.py", "page.py", "up.py", "lookup.py", "synthesize.py"), "print(": ()}
"""Who prints without `echo`: it itself, files (a page, configurations), a picture, a line written over."""


@pytest.mark.parametrize("call", PRINTERS)
def test_commands_print_by_one_function(root, call):
    used = {
        path.name
        for path in (root / "palette" / "cli").rglob("*.py")
        if re.search(rf"(?<![\w.]){re.escape(call)}", path.read_text(encoding="utf-8"))
    }
    assert used == set(PRINTERS[call])


NASTY = "\x1b[2Jtea\u202e\u009b31m"
ODD_NAMES = {
    "evaluate floors": ["evaluate", "floors", "--survey", "{survey}"],
    "evaluate floors --json": ["evaluate", "floors", "--survey", "{survey}", "--json"],
    "evaluate items": ["evaluate", "items", "--survey", "{survey}"],
    "evaluate surveys": [
        "evaluate",
        "surveys",
        "--survey",
        "{survey}",
        "--methods",
        "floors",
        "--out",
        "{out}",
    ],
    "synthesize --dry-run": ["synthesize", "--queries", "{queries}", "--teacher", "openai:x", "--dry-run"],
    "report": ["report", "{run}", "--partial"],
    "an unknown country": ["ask", "Is tea good?", "--country", NASTY],
    "an unknown file": ["review", "import", NASTY, NASTY, "--out", NASTY],
    "serve status": ["serve", "status", "{run}"],
}


@pytest.mark.parametrize("command", ODD_NAMES)
def test_no_name_in_a_file_reaches_the_terminal_raw(command, tmp_path):
    survey, queries, run = tmp_path / "s.jsonl", tmp_path / "q.jsonl", tmp_path / "run"
    row = {
        "id": f"q{NASTY}",
        "question": f"Is {NASTY} good?",
        "options": ["Yes", NASTY],
        "distribution": [0.5, 0.5],
    }
    survey.write_text("".join(json.dumps(row | {"country": name}) + "\n" for name in ("Kenya", NASTY)))
    queries.write_text(
        json.dumps({"query": "Is tea good?"}) + "\n" + json.dumps({"query": 1, NASTY: NASTY}) + "\n"
    )
    run.mkdir()
    (run / "rows.jsonl").write_text(json.dumps({"method": NASTY, NASTY: 1}) + "\n")
    server = {"name": NASTY, "log": NASTY, "models": [NASTY], "began": NASTY, "url": "http://127.0.0.1:9"}
    server |= {"pid": 2**22, "started": "2026-01-01T00:00:00+00:00", "command": [], "environment": {}}
    servers = {"x": server | {"asks_key": False, "ready": None}}
    (run / "state.json").write_text(json.dumps({"format": "cultural-palette-serve/1", "servers": servers}))
    places = {"survey": survey, "queries": queries, "run": run, "out": tmp_path / "out"}
    done = CliRunner().invoke(main, [word.format(**places) for word in ODD_NAMES[command]])
    assert done.output and hidden_in(done.output) is None, done.output
    assert not done.exception or isinstance(done.exception, SystemExit), done.exception


def test_tables_pages_and_spreadsheets_hide_nothing(tmp_path):
    table = Table(
        "t", NASTY, (Column(NASTY, NASTY),), (Section(NASTY, (Line(NASTY, (Cell(NASTY),)),)),), (NASTY,)
    )
    for text in (to_markdown(table), to_latex(table), to_html(table), facts_html({NASTY: NASTY})):
        assert hidden_in(text) is None and "tea" in text
    write_csv(tmp_path / "x.csv", ("a", "b"), [("=1+1", "-0.5"), (NASTY, "-x")])
    assert (tmp_path / "x.csv").read_text() == "a,b\n'=1+1,-0.5\n" + f"{visible(NASTY)},'-x\n"


def test_a_palettes_card_runs_nothing():
    manifest = {"name": "<script>x</script>", "map": "`<img>", "base": "<b>`"}
    text = palette_card(manifest, {"members": {}})
    assert "&lt;script&gt;" in text and "<script>" not in text and "`<b>`" in text
