"""Run folders: nothing lost, nothing torn, nothing overwritten unasked."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cultural_palette.artifacts import RunFolder, write_whole
from cultural_palette.errors import ArtifactError

ROOT = Path(__file__).parents[2]
WRITER = """
import sys, time
from cultural_palette.artifacts import RunFolder
run = RunFolder(sys.argv[1])
for number in range(1_000_000):
    run.append({"number": number, "text": "x" * 2000})
    if number == 20:
        print("going", flush=True)
"""


def test_rows_then_the_manifest(tmp_path):
    run = RunFolder(tmp_path / "runs" / "one")
    assert list(run.rows()) == []
    run.append({"answer": "Ubuntu – 日本", "p": 0.25})
    run.append({"answer": None})
    assert not run.finished
    run.finish({"seed": 7})
    assert run.finished
    assert run.manifest == {"seed": 7}
    assert list(run.rows()) == [{"answer": "Ubuntu – 日本", "p": 0.25}, {"answer": None}]
    assert "Ubuntu – 日本" in (run.path / "rows.jsonl").read_text(encoding="utf-8")


def test_a_stopped_run_goes_on(tmp_path):
    with RunFolder(tmp_path) as run:
        run.append({"n": 1})
    with RunFolder(tmp_path) as run:
        run.append({"n": 2})
    assert [row["n"] for row in RunFolder(tmp_path).rows()] == [1, 2]


def test_an_unfinished_run_has_no_manifest(tmp_path):
    with pytest.raises(ArtifactError, match="not finished"):
        _ = RunFolder(tmp_path).manifest


def test_a_finished_run_is_left_alone_until_cleared(tmp_path):
    run = RunFolder(tmp_path, {"seed": 1})
    run.append({"n": 1})
    run.finish({})
    for write in (lambda: run.append({"n": 2}), lambda: run.finish({"other": 1})):
        with pytest.raises(ArtifactError, match="is finished: take another folder, or clear"):
            write()
    assert [row["n"] for row in run.rows()] == [1]
    (tmp_path / "mine.txt").write_text("kept")
    RunFolder(tmp_path).clear()
    again = RunFolder(tmp_path, {"seed": 2})
    again.append({"n": 3})
    assert [row["n"] for row in again.rows()] == [3]
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("torn", [b'{"n": 3', b'{"text": "\xe6\x97', b"{", b"x" * 200_000])
def test_a_torn_last_row_is_dropped_and_said(tmp_path, torn, caplog):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"n": 1}\n{"n": 2}\n' + torn)
    with caplog.at_level(logging.WARNING):
        assert [row["n"] for row in RunFolder(tmp_path).rows()] == [1, 2]
        assert "cut short" in caplog.text
        caplog.clear()
        RunFolder(tmp_path).append({"n": 3})
        assert f"({len(torn)} bytes)" in caplog.text
    assert file.read_bytes() == b'{"n": 1}\n{"n": 2}\n{"n": 3}\n'


def test_a_file_with_a_torn_row_only(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"n"')
    RunFolder(tmp_path).append({"n": 1})
    assert list(RunFolder(tmp_path).rows()) == [{"n": 1}]


@pytest.mark.parametrize(("line", "why"), [(b"nonsense\n", "not JSON"), (b"[1]\n", "found list")])
def test_a_bad_row_in_the_middle_is_named_by_line(tmp_path, line, why):
    (tmp_path / "rows.jsonl").write_bytes(b'{"n": 1}\n' + line + b'{"n": 3}\n')
    with pytest.raises(ArtifactError, match=rf"rows\.jsonl:2: .*{why}"):
        list(RunFolder(tmp_path).rows())


def test_the_second_writer_is_refused(tmp_path):
    with RunFolder(tmp_path) as first:
        first.append({"n": 1})
        with pytest.raises(ArtifactError, match="in use by another run"):
            RunFolder(tmp_path).append({"n": 2})
        with pytest.raises(ArtifactError, match="in use by another run"):
            RunFolder(tmp_path).clear()
        assert [row["n"] for row in RunFolder(tmp_path).rows()] == [1]  # reading is free
    RunFolder(tmp_path).append({"n": 2})


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_kill_9_loses_no_row_and_frees_the_lock(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer.stdout as said:
        assert said.readline() == "going\n"
        with pytest.raises(ArtifactError, match="in use"):
            RunFolder(tmp_path).open()
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=30)
    with RunFolder(tmp_path) as run:
        numbers = [row["number"] for row in run.rows()]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 20
        run.append({"number": len(numbers)})


def test_a_run_goes_on_with_the_same_config_only(tmp_path):
    with RunFolder(tmp_path, {"seed": 1, "model": "nano", "order": (1, 2)}) as run:
        run.append({"n": 1})
    with RunFolder(tmp_path, {"model": "nano", "seed": 1, "order": [1, 2]}) as run:
        run.append({"n": 2})
    with pytest.raises(ArtifactError, match="begun with another config: seed 1, now 2"):
        RunFolder(tmp_path, {"seed": 2, "model": "nano", "order": [1, 2]}).open()
    RunFolder(tmp_path).append({"n": 3})  # the refused one let the folder go


@pytest.mark.parametrize("row", [{"p": float("nan")}, {"x": {1, 2}}, {"x": Path()}])
def test_a_row_that_json_can_not_hold_leaves_nothing(tmp_path, row):
    run = RunFolder(tmp_path)
    run.append({"n": 1})
    with pytest.raises(ArtifactError, match="does not fit into JSON"):
        run.append(row)
    assert list(run.rows()) == [{"n": 1}]


def test_a_row_that_the_disk_does_not_take_leaves_nothing(tmp_path, monkeypatch):
    import os

    run = RunFolder(tmp_path)
    run.append({"n": 1})
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:3]))
    with pytest.raises(ArtifactError, match="is it full"):
        run.append({"n": 2})
    monkeypatch.undo()
    run.append({"n": 3})
    assert [row["n"] for row in run.rows()] == [1, 3]


def test_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="can not be written"):
        RunFolder(tmp_path / "file" / "run").append({})


def test_write_whole_replaces_at_once(tmp_path):
    file = tmp_path / "deep" / "manifest.json"
    write_whole(file, "old")
    write_whole(file, "new – ü")
    assert file.read_text(encoding="utf-8") == "new – ü"
    write_whole(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    assert [path.name for path in file.parent.iterdir()] == ["manifest.json"]


def test_write_whole_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    file = tmp_path / "manifest.json"
    write_whole(file, "old")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.text(), TREES, max_size=3), max_size=4), st.text())
def test_rows_come_back_as_they_went(tmp_path_factory, rows, text):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    lines = [*rows, {"line breaks": "a\u2028b\x85c\rd\ne", "text": text, "half": "\ud83d"}]
    for row in lines:
        run.append(row)
    run.close()
    assert list(run.rows()) == lines
    raw = (run.path / "rows.jsonl").read_bytes()
    assert [json.loads(line) for line in raw.split(b"\n")[:-1]] == lines
