"""`palette synthesize` as a person runs it; and killed at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cultural_palette.artifacts import RunFolder
from cultural_palette.cli import main
from tests.conftest import ROOT
from tests.fake_server import FakeServer, serve
from tests.training.test_synthesis_run import honest, rows_of

EXAMPLE = f"prism:{ROOT / 'training' / 'synthesis' / 'example'}"
QUERIES = 16


def palette(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["synthesize", *arguments], catch_exceptions=False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve() as fake:
        fake.models, fake.replies["teacher"] = ("teacher",), honest
        yield fake


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    file = tmp_path / "queries.csv"
    lines = [f"Is question {number} asked here?" for number in range(QUERIES)]
    file.write_text("query\n" + "\n".join(lines) + "\n")
    return file


def test_dry_run_at_the_papers_size() -> None:
    done = palette("--dry-run", "--queries-count", "7805", "--teacher", "openai:gpt-4o-2024-08-06")
    assert done.exit_code == 0
    for told in ("7,805 queries", "39,025 answers", "31,220 preference pairs per continent", "117,075 calls"):
        assert told in done.output
    assert "39,025 calls: validation" in done.output and "USD" in done.output
    page = (ROOT / "docs" / "synthesis.md").read_text(encoding="utf-8")
    shown = page.partition("```text\n7,805")[2].partition("\n```")[0].splitlines()
    assert len(shown) == 6 and all(line in done.output for line in shown)


def test_dry_run_over_the_example_as_json() -> None:
    done = palette("--dry-run", "--queries", EXAMPLE, "--teacher", "embedded:nano", "--json")
    told = json.loads(done.output)
    assert told["queries"] == 10  # twelve, of which one repeats another and one greets
    assert told["calls"]["all"] == 10 * 5 * 3 + told["calls"]["further_rounds_expected"]
    assert told["cost_usd"] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--teacher", "openai:m", "--out", "x"], "No queries"),
        (["--queries", EXAMPLE, "--teacher", "openai:m"], "No folder"),
        (["--queries", EXAMPLE, "--out", "x"], "No teacher"),
        (["--queries-count", "5", "--teacher", "openai:m"], "goes with --dry-run"),
        (["--queries", EXAMPLE, "--teacher", "openai:m", "--out", "x", "--budget", "5"], "--prices"),
        (["--queries", EXAMPLE, "--teacher", "openai:m", "--out", "x", "--batch", "read"], "--results FILE"),
        (
            ["--queries", EXAMPLE, "--teacher", "embedded:nano", "--out", "x", "--batch", "write"],
            "not for a model in this process",
        ),
        (["--queries", "nowhere.csv", "--teacher", "openai:m", "--out", "x"], "No file nowhere.csv"),
        (["--queries", EXAMPLE, "--teacher", "opnai:m", "--out", "x"], "Did you mean 'openai'"),
    ],
)
def test_flags_that_do_not_fit(arguments: list[str], told: str) -> None:
    done = palette(*arguments)
    assert done.exit_code == 2 and told in done.output


def test_a_run_its_summary_and_a_second_call(server: FakeServer, queries: Path, tmp_path: Path) -> None:
    flags = ["--queries", str(queries), "--teacher", f"openai:teacher@{server.url}"]
    flags += ["--out", str(tmp_path / "x"), "--limit", "2"]
    done = palette(*flags)
    assert done.exit_code == 0, done.output
    assert "10 answers to 2 queries, 10 ok, 0 set aside" in done.output
    assert "cost unknown" in done.output
    again = palette(*flags)
    assert again.exit_code == 0 and "nothing is left to ask" in again.output
    assert len(server.requests) == 40
    assert palette(*flags, "--json").exit_code == 0


def test_a_preview_is_shown(server: FakeServer, queries: Path, tmp_path: Path) -> None:
    flags = ["--queries", str(queries), "--teacher", f"openai:teacher@{server.url}"]
    done = palette(*flags, "--out", str(tmp_path / "x"), "--preview", "1")
    assert done.exit_code == 0
    for told in ("Is question 0 asked here?", "Africa", "Oceania", "with care", "ok, 1 round"):
        assert told in done.output


def test_an_unfinished_run_exits_with_1_and_says_why(
    server: FakeServer, queries: Path, tmp_path: Path
) -> None:
    server.faults["teacher"] = "500"
    flags = ["--queries", str(queries), "--teacher", f"openai:teacher@{server.url}", "--limit", "1"]
    done = palette(*flags, "--out", str(tmp_path / "x"), "--retries", "0")
    assert done.exit_code == 1
    assert "5 answers got no reply" in done.output and "The same command" in done.output
    assert not RunFolder(tmp_path / "x").finished


def start(queries: Path, out: Path, teacher: str, *more: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "cultural_palette",
        "synthesize",
        "--queries",
        str(queries),
        "--out",
        str(out),
    ]
    command += ["--teacher", teacher, *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ}
    )


def slowly(body: dict[str, Any]) -> str:
    time.sleep(0.004)  # the server's own loop: one reply after the other
    return honest(body)


def wait_for(what: Any, seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.slow
def test_kill_9_repeats_no_finished_call_and_loses_none(
    server: FakeServer, queries: Path, tmp_path: Path
) -> None:
    server.replies["teacher"] = slowly
    teacher, flags = f"openai:teacher@{server.url}", ("--concurrency", "8")
    out = tmp_path / "killed"
    for calls in (100, 200):  # twice, the second time further on
        process = start(queries, out, teacher, *flags)
        wait_for(lambda calls=calls: len(server.requests) >= calls)  # type: ignore[misc]
        process.kill()
        process.wait()
        assert not RunFolder(out).finished
    assert 0 < sum(1 for _ in RunFolder(out).rows()) < 5 * QUERIES
    process = start(queries, out, teacher, *flags)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output.decode()

    asked = Counter(json.dumps(body, sort_keys=True) for body in server.requests)
    assert len(asked) == 20 * QUERIES
    twice = sum(number - 1 for number in asked.values())
    assert twice <= 2 * 8, "more than what was under way at the kills"

    server.replies["teacher"] = honest
    whole = tmp_path / "undisturbed"
    done = palette("--queries", str(queries), "--teacher", teacher, "--out", str(whole))
    assert done.exit_code == 0
    assert rows_of(out) == rows_of(whole)
    counts = [RunFolder(folder).manifest["counts"] for folder in (out, whole)]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_ctrl_c_lets_calls_under_way_end(server: FakeServer, queries: Path, tmp_path: Path) -> None:
    server.replies["teacher"] = slowly
    teacher, out = f"openai:teacher@{server.url}", tmp_path / "x"
    process = start(queries, out, teacher, "--concurrency", "8")
    wait_for(lambda: len(server.requests) >= 60)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 130
    assert b"waiting for" in output and b"The same command goes on" in output and b"Traceback" not in output
    assert start(queries, out, teacher).wait(150) == 0
    assert len(server.requests) == 20 * QUERIES  # not one call twice
    assert len(rows_of(out)) == 5 * QUERIES


def replies_in(out: Path) -> int:
    """Replies that a run has stored so far."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{out / 'calls.sqlite'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM calls").fetchone()[0])
    except sqlite3.Error:
        return 0


@pytest.mark.slow
def test_the_nano_palette_as_teacher_killed_in_the_middle(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    flags = ("--limit", "1", "--max-rounds", "2", "--max-tokens", "40")
    out = tmp_path / "x"
    process = start(Path(EXAMPLE), out, "embedded:nano", *flags)
    wait_for(lambda: replies_in(out) > 0)
    process.kill()
    process.wait()
    process = start(Path(EXAMPLE), out, "embedded:nano", *flags)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output.decode()
    rows = rows_of(out)
    assert len(rows) == 5 and {row["teacher"] for row in rows.values()} == {
        f"embedded:nano/{key[1]}" for key in rows
    }
    assert all(row["response"] for row in rows.values() if row["status"] == "ok")
    manifest = RunFolder(out).manifest
    assert (manifest["validation"], manifest["cost_usd"]) == ("checks", 0.0)
    assert manifest["last_sitting"]["calls_kept"] > 0
