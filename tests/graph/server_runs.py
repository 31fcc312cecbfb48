"""A server of ours that a test may kill, `palette studio` on a free port; and a real Postgres."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

START_S = 120.0
# Where Debian, Homebrew and the rest keep what starts a Postgres.
POSTGRES_FOLDERS = ("/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Studio:
    """`palette studio` in a folder of its own; started, killed and started again on the same port."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *arguments: str) -> None:
        self.folder = folder
        self.environment = environment
        self.arguments = arguments
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PALETTE_", "OPENAI_", "LANG"))}
        command = [sys.executable, "-m", "cultural_palette", "studio", "--port", str(self.port)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                cwd=self.folder,
                env={**clean, "HF_HUB_OFFLINE": "1", **self.environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]
            try:
                with urllib.request.urlopen(f"{self.url}/ok", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        pytest.fail("the server did not start:\n" + self.log.read_text(errors="replace")[-4000:])

    def kill(self) -> None:
        """As a machine does that runs out of memory: nothing is written any more."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()


def postgres_programs() -> Path | None:
    """The folder with initdb and postgres, None where no Postgres is installed."""
    for folder in POSTGRES_FOLDERS:
        for initdb in sorted(Path(folder).glob("*/bin/initdb"), reverse=True):
            return initdb.parent
    found = shutil.which("initdb")
    return Path(found).parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a Postgres of its own. It refuses to run as root: then as its own user, who may not look
    into pytest's folders.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        yield from _postgres(Path(folder))


def _postgres(folder: Path) -> Iterator[str]:
    programs = postgres_programs()
    assert programs is not None
    data, port = folder / "data", free_port()
    folder.chmod(0o755)
    data.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(data, account.pw_uid, account.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]
    quiet = {"stdout": subprocess.DEVNULL, "check": True, "cwd": "/"}
    subprocess.run(
        [*as_user, str(programs / "initdb"), "-D", str(data), "-U", "palette", "-A", "trust", "--no-sync"],
        **quiet,  # type: ignore[call-overload]
    )
    server = subprocess.Popen(
        [*as_user, str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1",
         "-k", str(data), "-F"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    try:
        end = time.monotonic() + 30
        while subprocess.run(
            [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)], check=False
        ).returncode:
            assert server.poll() is None and time.monotonic() < end, "Postgres did not start"
            time.sleep(0.1)
        yield f"postgresql://palette@127.0.0.1:{port}/postgres"
    finally:
        stop = [*as_user, str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop"]
        subprocess.run(stop, **quiet)  # type: ignore[call-overload]
        server.wait(20)
