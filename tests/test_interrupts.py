"""Ctrl-C on every long command that asks models, embedded or served: 130, a word, no traceback, no child.

`palette ask`: tests/palette/test_cli.py. A synthesis in one process: tests/training/test_synthesis_cli.py.
Jobs of `palette train`: tests/training/test_train.py. Servers: tests/serving/test_fleet.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cultural_palette.__main__ import run
from tests.conftest import ROOT
from tests.evaluation.test_nli import tiny_classifier
from tests.fake_server import serve
from tests.training.test_train import children_of, status_of, wait_for

SURVEY = ["--survey", str(ROOT / "evaluation/data/made_up.jsonl"), "--countries", "KEN,BRA"]
SERVED = ["--methods", "vanilla", "--base-url", "{url}", "--model", "openai:base"]
COMMANDS = {
    "evaluate surveys, embedded": ["evaluate", "surveys", *SURVEY, "--methods", "vanilla"],
    "evaluate surveys, served": ["evaluate", "surveys", *SURVEY, *SERVED],
    "evaluate elicitation": ["evaluate", "elicitation", *SURVEY],
    "evaluate semantic, embedded": ["evaluate", "semantic", "--dataset", "{gold}", "--nli", "{nli}"],
    "evaluate semantic, served": [
        "evaluate", "semantic", "--dataset", "{gold}", "--nli", "{nli}", "--methods", "joint",
        "--model-of", "joint=openai:base@{url}",
    ],
    "synthesize, embedded": ["synthesize", "--queries", "{queries}", "--teacher", "embedded:nano/base"],
    "synthesize in processes": [
        "synthesize", "--queries", "{queries}", "--teacher", "openai:base@{url}", "--processes", "2",
    ],
}  # fmt: skip


def hear_interrupts() -> None:
    """As in a shell's foreground, whoever runs these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are read off /proc")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_long_command_that_is_ended(name: str, ending: signal.Signals, tmp_path: Path) -> None:
    if ending == signal.SIGKILL and name != "synthesize in processes":
        pytest.skip("it has no children")
    (tmp_path / "q.csv").write_text("query\n" + "".join(f"Is thing {n} good for you?\n" for n in range(9)))
    gold = [{"query": f"Is thing {n} good?", "community": "africa", "response": "Yes."} for n in range(40)]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    if "{nli}" in COMMANDS[name]:
        tiny_classifier(tmp_path / "nli")
    out = tmp_path / "out"
    with serve() as server, (tmp_path / "log").open("wb") as log:
        server.models = ("base",)
        server.latency_s = 60 if name.endswith(", served") else 0.5  # nothing ends before the signal
        places = {"url": server.url, "queries": tmp_path / "q.csv", "gold": tmp_path / "gold.jsonl"}
        words = [word.format(**places, nli=tmp_path / "nli") for word in COMMANDS[name]]
        process = subprocess.Popen(
            [sys.executable, "-m", "cultural_palette", *words, "--out", str(out)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=hear_interrupts,
        )  # fmt: skip
        served = "{url}" in " ".join(COMMANDS[name])
        begun = (lambda: server.requests) if served else (lambda: (out / "config.json").exists())
        if name == "synthesize in processes" and ending == signal.SIGINT:
            begun = lambda: len(children_of(process.pid)) > 1  # noqa: E731  while they import
        assert wait_for(begun), (tmp_path / "log").read_text()
        time.sleep(0.5)
        children = children_of(process.pid)
        os.killpg(process.pid, ending) if ending == signal.SIGINT else process.send_signal(ending)
        assert process.wait(120) == (130 if ending == signal.SIGINT else -ending)
        assert wait_for(lambda: all("(zombie)" in status_of(child) for child in children), 30)
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said and "terminate called" not in said, said
    assert ending == signal.SIGKILL or "Interrupted." in said


class Commands(ModuleType):
    """The commands' module; Ctrl-C comes while it is imported, or runs."""

    def __init__(self, where: str) -> None:
        super().__init__("cultural_palette.cli")
        self.where = where

    def __getattr__(self, name: str) -> Any:
        if self.where == "while it imports":
            raise KeyboardInterrupt
        return self.ended

    def ended(self, prog_name: str) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["while it imports", "while it runs"])
def test_a_command_that_is_interrupted_early(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cultural_palette.cli", Commands(where))
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 130 and capsys.readouterr().err == "Interrupted.\n"


IN_AN_EXEC = """
import sys, types
from cultural_palette.__main__ import run

def main(prog_name):
    try:
        exec("raise KeyboardInterrupt")  # as within dataclasses, which write their methods so
    except KeyboardInterrupt:
        sys.exit(130)

sys.modules["cultural_palette.cli"] = types.SimpleNamespace(main=main)
run()
"""


def test_an_interrupt_anywhere_has_one_exit_code(tmp_path: Path) -> None:
    """CPython ended `python -m` by SIGINT where the interrupt fell into an exec()."""
    (tmp_path / "in_an_exec.py").write_text(IN_AN_EXEC)
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    done = subprocess.run([sys.executable, "-m", "in_an_exec"], env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 130
