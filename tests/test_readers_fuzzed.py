"""Every reader, on bytes that nobody would write: a PaletteError in one line or a result, never a traceback.

Each reader gets what is right, bent: bytes taken out and put in, values of another type, deep nesting.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cultural_palette.cultural_map import load_map
from cultural_palette.embedded.manifest import read_manifest
from cultural_palette.errors import PaletteError
from cultural_palette.evaluation.surveys import load_survey
from cultural_palette.serving.manifest import check_folders, lora_rank, lora_targets, read_palette
from cultural_palette.settings import get_settings
from cultural_palette.training.pentachromatic.separation.texts import read_answers
from cultural_palette.training.queries import read_queries
from cultural_palette.training.review.decisions import read_decisions

CONTINENTS = load_map("continents")


def _in(folder: Path, call: Callable[[], Any]) -> Any:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return call()
    finally:
        os.chdir(before)


def _serve(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    palette = folder / "palette.yaml"
    palette.write_text("name: x\nmap: continents\nbase: .\nadapters: {africa: .}\nmoerges: .\n")
    served = read_palette(str(palette))
    lora_targets(served)
    lora_rank(served)
    check_folders(served)


ANSWER = {
    "query_id": "q1", "query": "Is tea good?", "community": "africa", "status": "ok",
    "response": "Yes, it is.", "steps": {}, "rounds": 1, "validation": {"passed": True, "findings": []},
    "teacher": "x",
    "usage": {"input_tokens": 1, "output_tokens": 1}, "error": None, "source": {},
}  # fmt: skip
ADAPTER = {"peft_type": "LORA", "r": 8, "rank_pattern": {}, "target_modules": ["up_proj"], "lora_alpha": 16}
MANIFEST = {"name": "x", "map": "continents", "base": "b", "adapters": {"africa": "a"}, "router": "r"}
SURVEY = {
    "question": "Is tea good?", "options": ["Yes", "No"], "country": "KEN", "distribution": [0.5, 0.5],
    "selections": {"Kenya": [0.5, 0.5]},
}  # fmt: skip
DECISIONS = {
    "format": "cultural-palette-decisions/1", "reviewer": "a", "run": "b",
    "decisions": [{"query_id": "q", "community": "africa", "decision": "approve", "reason": "", "text": ""}],
}  # fmt: skip
MAP = (
    'name: M\ncommunities:\n  a: {name: A, colour: "#000000", countries: [KEN]}\n'
    '  b: {name: B, colour: "#000001", countries: [USA]}\n'
)
Reader = tuple[str, bytes, Callable[[Path], Any]]
READERS: dict[str, Reader] = {
    "queries": ("q.jsonl", b'{"query": "Is tea good?", "id": "1"}\n', lambda p: read_queries(p, CONTINENTS)),
    "queries in CSV": ("q.csv", b"id,query\n1,Is tea good?\n", lambda p: read_queries(p, CONTINENTS)),
    "answers": ("rows.jsonl", json.dumps(ANSWER).encode() + b"\n", lambda p: read_answers(p.parent)),
    "surveys": ("s.jsonl", json.dumps(SURVEY).encode() + b"\n", load_survey),
    "surveys in CSV": (
        "s.csv",
        b'question,selections,options,source\nIs tea good?,"{\'Kenya\': [0.5, 0.5]}","[\'Yes\', \'No\']",G\n',
        load_survey,
    ),
    "decisions": ("d.json", json.dumps(DECISIONS).encode(), read_decisions),
    "decisions in CSV": (
        "d.csv", b"query_id,community,decision,reason,text\nq,africa,approve,,\n", read_decisions
    ),
    "maps": ("m.yaml", MAP.encode(), load_map),
    "settings": ("palette.toml", b'map = "continents"\nseed = 3\n[models]\nafrica = "openai:x"\n',
                 lambda p: _in(p.parent, get_settings)),
    "settings in .env": (
        ".env", b"PALETTE_SEED=3\nPALETTE_MODELS={}\n", lambda p: _in(p.parent, get_settings)
    ),
    "manifests": ("manifest.json", json.dumps(MANIFEST).encode(), lambda p: read_manifest(str(p.parent))),
    "served palettes": (
        "p.yaml", b"name: x\nmap: continents\nbase: b\nadapters: {africa: a, asia: c}\nmoerges: m\n",
        lambda p: read_palette(str(p)),
    ),
    "adapters' configs": ("adapter_config.json", json.dumps(ADAPTER).encode(), lambda p: _serve(p.parent)),
}  # fmt: skip
DEEP = 50_000
PIECES = (
    b"", b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"{}", b"[]", b"null", b"NaN", b"Infinity", b"1e999", b"-1",
    b'""', b"\n", b"\r", b"'", b'"', b"\\ud800", b"\xed\xa0\x80", b"<script>", b"=1+1",
    b"[" * DEEP, b"{" * DEEP,
    b'{"a":' * DEEP, b"a = " + b"[" * DEEP, b"&a [*a]", b"!!python/object:os.system x",
    b"? [a]\n: b\n", b"2001-99-99",
    "\u202e".encode(), b"true", b": ", b"- ", b"9" * 5000,
)  # fmt: skip


def bent(right: bytes) -> st.SearchStrategy[bytes]:
    """What is right with up to three places replaced; or one piece alone."""
    edit = st.tuples(st.integers(0, len(right)), st.integers(0, 12), st.sampled_from(PIECES))
    edits = st.lists(edit, min_size=1, max_size=3)

    def applied(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = right
        for start, gone, piece in changes:
            data = data[:start] + piece + data[start + gone :]
        return data

    return st.one_of(edits.map(applied), st.sampled_from(PIECES), st.binary(max_size=60))


def read(name: str, data: bytes) -> None:
    file, _, reader = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(data)
        try:
            reader(path)
        except PaletteError as error:
            assert str(error) and len(str(error)) < 20_000


@pytest.mark.parametrize("name", READERS)
def test_what_is_right_is_read(name: str, tmp_path: Path) -> None:
    file, right, reader = READERS[name]
    (tmp_path / file).write_bytes(right)
    try:
        reader(tmp_path / file)
    except PaletteError as error:  # a lone adapter is no whole palette, a made-up row lacks what a run has
        assert name in ("adapters' configs", "answers", "surveys", "queries", "decisions"), error


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("piece", range(len(PIECES)))
def test_each_piece_alone_is_read_or_refused(name: str, piece: int) -> None:
    read(name, PIECES[piece])


@pytest.mark.parametrize("name", READERS)
def test_bent_bytes_are_read_or_refused(name: str) -> None:
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(bent(READERS[name][1]))
    def tried(data: bytes) -> None:
        read(name, data)

    tried()


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("answers", "adapters' configs")])
@pytest.mark.parametrize("kind", ["a folder", "a circle of links", "nothing"])
def test_what_is_no_file_is_refused_in_a_line(name: str, kind: str, tmp_path: Path) -> None:
    file, _, reader = READERS[name]
    path = tmp_path / file
    if kind == "a folder":
        path.mkdir()
    elif kind == "a circle of links":
        path.symlink_to(path)
    if kind == "nothing" and name.startswith("settings"):
        reader(path)
        return
    with pytest.raises(PaletteError):
        reader(path)
