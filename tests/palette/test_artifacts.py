"""Run folders: nothing lost, nothing torn, nothing overwritten unasked."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cultural_palette.artifacts import RunFolder, claim, whole_folder, write_whole
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


# -- folders whole or not at all --

FILLER = """
import sys
import threading
import time
from pathlib import Path
from cultural_palette.artifacts import whole_folder
with whole_folder(Path(sys.argv[1])) as part:
    (part / "half").write_text("x" * 1000)
    print("going", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(out: Path, text: str) -> None:
    with whole_folder(out) as part:
        (part / "file").write_text(text)


def test_a_folder_is_there_when_it_is_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    with whole_folder(out) as part:
        (part / "file").write_text("one")
        assert not out.exists()
    assert (names(out.parent), (out / "file").read_text()) == (["out"], "one")
    fill(out, "two")
    assert (names(out.parent), (out / "file").read_text()) == (["out"], "two")


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), ValueError("x")])
def test_a_failure_changes_nothing(tmp_path, error):
    out = tmp_path / "out"
    fill(out, "old")
    with pytest.raises(type(error)), whole_folder(out) as part:
        (part / "file").write_text("new")
        raise error
    assert (names(tmp_path), (out / "file").read_text()) == (["out"], "old")


def test_nothing_is_deleted_that_the_run_did_not_make(tmp_path):
    mine = ["out.old", "out.part", ".out.old", ".out.part", ".out.0123456789abcdef.part", ".other.lock"]
    for name in mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis").write_text("mine")
    fill(tmp_path / "out", "one")
    fill(tmp_path / "out", "two")
    assert names(tmp_path) == sorted(["out", *mine])
    assert all((tmp_path / name / "thesis").read_text() == "mine" for name in mine)


def test_a_file_by_the_name_of_the_lock_stays_as_it_is(tmp_path):
    lock = tmp_path / ".out.lock"
    lock.write_text(".out.0123456789abcdef.part\n")
    (tmp_path / ".out.0123456789abcdef.part").mkdir()
    fill(tmp_path / "out", "one")
    assert lock.read_text() == ".out.0123456789abcdef.part\n"
    assert (tmp_path / ".out.0123456789abcdef.part").is_dir()
    with claim(tmp_path / "out"), pytest.raises(ArtifactError, match="in use"):
        fill(tmp_path / "out", "two")


def test_two_writers(tmp_path):
    out = tmp_path / "out"
    with whole_folder(out) as part:
        (part / "file").write_text("first")
        with pytest.raises(ArtifactError, match="out is in use by another run: wait for it"):
            fill(out, "second")
        fill(tmp_path / "other", "free")
    assert (names(tmp_path), (out / "file").read_text()) == (["other", "out"], "first")


def test_kill_9_leaves_a_folder_that_the_next_run_clears(tmp_path):
    out = tmp_path / "out"
    fill(out, "old")
    writer = subprocess.Popen(
        [sys.executable, "-c", FILLER, str(out)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "going\n"
        with pytest.raises(ArtifactError, match="in use"):
            fill(out, "new")
        writer.send_signal(signal.SIGKILL)
    assert len(names(tmp_path)) == 3  # the folder, the lock, and what was begun
    assert (out / "file").read_text() == "old"
    fill(out, "new")
    assert (names(tmp_path), (out / "file").read_text()) == (["out"], "new")


def test_a_kill_in_the_middle_of_the_swap_is_undone(tmp_path, monkeypatch):
    """The old folder is aside, the new one not in its place: the next run begins with the old one there."""
    out = tmp_path / "out"
    fill(out, "old")
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            os._exit(9)
        return rename(self, target)

    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(Path, "rename", killed)
            fill(out, "new")
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert not out.exists()
    with claim(out):
        assert (out / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big disk" / "out")
    for text in ("one", "two"):
        fill(tmp_path / "out", text)
        assert (tmp_path / "out").is_symlink()
        assert (tmp_path / "big disk" / "out" / "file").read_text() == text
    assert (names(tmp_path), names(tmp_path / "big disk")) == (["big disk", "out"], ["out"])


def test_places_where_nothing_can_be_written(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "a", tmp_path / "a" / "x", tmp_path / "file" / "x"):
        with pytest.raises(ArtifactError, match="can not be written"):
            fill(out, "x")
        with pytest.raises(ArtifactError, match="can not be written"):
            write_whole(out / "y", "x")


def test_waiting_for_a_place(tmp_path):
    out, seen = tmp_path / "out", []

    def second() -> None:
        with claim(out, wait=True):
            seen.append((out / "file").read_text())

    with claim(out) as place:
        thread = threading.Thread(target=second)
        thread.start()
        with place.whole_folder() as part:
            time.sleep(0.1)
            (part / "file").write_text("first")
    thread.join(timeout=30)
    assert seen == ["first"]
    assert names(tmp_path) == ["out"]
