"""Processes that outlive the command that started them: recognised by number and start, ended with all their
children.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")
GUARD = Path(__file__).with_name("guard.py")
POLL_S = 0.1


@dataclass(frozen=True)
class Process:
    """A process that leads a group of its own. `began` tells it from a later one with the same number."""

    pid: int
    began: str

    @property
    def alive(self) -> bool:
        """Whether this very process runs."""
        _reap(self.pid)
        return began_at(self.pid) == self.began

    @property
    def members(self) -> list[int]:
        """Processes of its group that run, itself or what it left behind; none when the number is another's
        now.
        """
        _reap(self.pid)
        if began_at(self.pid) not in (self.began, None):
            return []
        return _group(self.pid)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, if there still is one."""
        if self.members:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, guarded: bool = False
) -> Process:
    """Start a command in a session of its own, its output appended to `log`. Raises OSError.

    `guarded`: it ends with this process, even when that is killed without a word.
    """
    guard = [sys.executable, str(GUARD), str(os.getpid())] if guarded else []
    with log.open("ab") as output:
        child = subprocess.Popen(
            [*guard, *command], env=dict(environment), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    _CHILDREN[child.pid] = child
    began = began_at(child.pid)
    return Process(child.pid, began or "ended at once")


def exit_code(process: Process) -> int | None:
    """How our own child ended, negative for a signal; None while it runs, and for another's child."""
    child = _CHILDREN.get(process.pid)
    return child.poll() if child else None


def end(processes: Sequence[Process], grace_s: float) -> list[Process]:
    """End whole groups together: SIGTERM, after `grace_s` SIGKILL. Those that had to be killed."""
    for process in processes:
        process.send(signal.SIGTERM)
    _wait_until_gone(processes, grace_s)
    stubborn = [process for process in processes if process.members]
    for process in stubborn:
        process.send(signal.SIGKILL)
    _wait_until_gone(stubborn, grace_s)
    return stubborn


def began_at(pid: int) -> str | None:
    """When a process began, as an opaque text; None when there is none, or only its exit code is left."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    if fields is not None:
        return None if fields[0] in "ZX" else f"{_boot()}:{fields[19]}"
    done = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, when = done.stdout.strip().partition(" ")
    return when.strip() if when and not state.startswith("Z") else None


_CHILDREN: dict[int, subprocess.Popen[Any]] = {}
"""Kept, so that an ended child is taken off the process table, and its exit code is known."""


def _wait_until_gone(processes: Sequence[Process], seconds: float) -> None:
    until = time.monotonic() + seconds
    while any(process.members for process in processes) and time.monotonic() < until:
        time.sleep(POLL_S)


def _reap(pid: int) -> None:
    if child := _CHILDREN.get(pid):
        child.poll()


def _group(pgid: int) -> list[int]:
    """Members of a process group that run; those that ended and wait for their parent do not count."""
    if not PROC.is_dir():
        done = subprocess.run(["ps", "-axo", "pid=,pgid=,stat="], capture_output=True, text=True, check=False)
        rows = [line.split() for line in done.stdout.splitlines()]
        return [int(pid) for pid, group, state in rows if int(group) == pgid and not state.startswith("Z")]
    members = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = _stat(int(entry.name))
                if fields is not None and int(fields[2]) == pgid and fields[0] not in "ZX":
                    members.append(int(entry.name))
    return members


def _stat(pid: int) -> list[str] | None:
    """/proc's line on a process, from its state on (state, ppid, pgrp, ..., start time as field 19); None
    without /proc. The name before may hold spaces and brackets. Raises OSError when there is no such process.
    """
    if not PROC.is_dir():
        return None
    return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _boot() -> str:
    """This start of the machine: after another, numbers and clocks begin anew."""
    try:
        return (PROC / "sys" / "kernel" / "random" / "boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return ""
