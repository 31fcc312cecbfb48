"""A process that ends with its parent, by whatever signal that one goes.

    python -m cultural_palette.training.tethered PARENT_PID COMMAND ...

becomes COMMAND, tethered to PARENT_PID. Linux sends the signal when the parent dies (prctl(2),
PR_SET_PDEATHSIG); on other systems only a parent that ends in order takes its jobs along.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
TETHERED = "CULTURAL_PALETTE_TETHERED"  # set for what a tethered command starts


def tether(parent: int) -> None:
    """Have this process get SIGTERM when `parent`, its parent, dies; exit now if it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


def tether_if_told() -> None:
    """Tether this process to its own parent, when a tethered command (such as a launcher) started it."""
    if os.environ.get(TETHERED):
        tether(os.getppid())


def main() -> None:
    """Tether, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    tether(parent)
    os.environ[TETHERED] = "1"
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
