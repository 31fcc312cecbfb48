"""`python guard.py PID COMMAND...`: run a command, and end its whole process group once process PID is gone.

For a server whose parent may be killed without a word, as Ray kills an actor, or a supervisor `palette serve
up --foreground`: it must not keep its GPU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

POLL_S = 0.5


def main(parent: int, command: list[str]) -> int:
    """The command's exit code."""
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    while child.poll() is None:
        time.sleep(POLL_S)
        if os.getppid() != parent:
            os.killpg(os.getpgrp(), signal.SIGKILL)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
