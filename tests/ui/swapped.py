"""The clone of docs/swap-a-node.md: a copy of this one with the page's commands run in it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import ROOT
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "swap-a-node.md"
ROOMS = ("palette", "nodes", "graph", "training", "evaluation", "src", "examples", "langgraph.ablations.json")


def copied(folder: Path) -> Path:
    """What the commands need of the repository, copied to `folder`."""
    folder.mkdir()
    for name in ROOMS:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


def commands(beginning: str = "") -> list[str]:
    """The page's commands, in its order; those whose block begins so."""
    found = [
        block for block in blocks(PAGE.read_text(encoding="utf-8"), "bash") if block.startswith(beginning)
    ]
    assert found, f"no block of {PAGE.name} begins with {beginning!r}"
    return found


def run(commands: str, clone: Path, environment: Mapping[str, str]) -> str:
    """The output of shell commands in the clone, as its own `palette` and `python` run them."""
    programs = clone / ".programs"
    programs.mkdir(exist_ok=True)
    python = shlex.quote(sys.executable)
    source = f'PYTHONPATH="{clone / "src"}:$PYTHONPATH"'
    for name, what in (("palette", "-m cultural_palette"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\n{source} exec {python} {what} "$@"\n')
        (programs / name).chmod(0o755)
    plain = {k: v for k, v in os.environ.items() if not re.match("PALETTE_|OPENAI_|PYTHONPATH", k)}
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "GIT_CEILING_DIRECTORIES": str(clone.parent)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=clone,
        env={**plain, **path, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout
