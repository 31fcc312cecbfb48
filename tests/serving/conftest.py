"""A real vLLM server on the nano palette, started once for the whole session by `palette.serving` itself.

`vllm_servers` gives its address, and lets a test kill it and have it back. The CPU build lives in .venv-
vllm, which `make test` makes on Linux; without it these tests fail in CI, and are skipped with the reason
elsewhere.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cultural_palette.serving.fleet import Fleet
    from cultural_palette.serving.processes import Process

from tests.conftest import ROOT

START_S = 600.0
PATIENCE_S = 1500  # a test's own time begins with the servers' start


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "vllm_servers" in getattr(item, "fixturenames", ()) or "vllm_python" in getattr(
            item, "fixturenames", ()
        ):
            item.add_marker(pytest.mark.slow)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(PATIENCE_S))


@dataclass
class VllmServers:
    """The nano palette's server, called "palette". `refs`: part -> model, as `--set` takes it. `checkpoints`:
    what is served, for transformers: "base", each community's adapter.
    """

    folder: Path
    python: Path
    refs: Mapping[str, str]
    url: str
    checkpoints: Mapping[str, Path]
    settings: Path
    seconds_to_start: float = 0.0

    @property
    def fleet(self) -> Fleet:
        from cultural_palette.serving.fleet import Fleet

        return Fleet(self.folder)

    def pid(self, name: str) -> int:
        """The process that leads a server's group."""
        return self._process(name).pid

    def kill(self, name: str) -> None:
        """kill -9 of a server with all its processes."""
        process = self._process(name)
        process.send(signal.SIGKILL)
        until = time.monotonic() + 30
        while process.members and time.monotonic() < until:
            time.sleep(0.05)
        assert not process.members, f"{name} does not die"

    def restart(self) -> None:
        """Start what does not run at its old address, and wait."""
        self.command("up", "nano", "--port", "0", "--python", str(self.python), "--write", str(self.settings))

    def command(self, *words: str, fine: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """`palette serve ...` on these servers' folder."""
        line = [sys.executable, "-m", "cultural_palette", "serve", *words, "--out", str(self.folder)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=START_S, check=False)
        assert done.returncode in fine, f"{' '.join(line)}\n{done.stdout}\n{done.stderr}"
        return done

    def _process(self, name: str) -> Process:
        return next(record.process for record in self.fleet.records() if record.name == name)


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python with vLLM's CPU build."""
    from cultural_palette.serving.install import inspect_python

    python = Path(os.environ.get("VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python")
    if inspect_python(python) is not None:
        return python
    reason = f"no vLLM at {python}: 'make vllm' installs it"
    able = sys.platform == "linux" and platform.machine() == "x86_64"
    if os.environ.get("CI") and able:
        pytest.fail(reason)
    pytest.skip(reason if able else f"vLLM's CPU build is for Linux on x86_64; this is {platform.platform()}")


@pytest.fixture(scope="session")
def _vllm_started(vllm_python: Path) -> Iterator[VllmServers]:
    """As a person starts and stops them."""
    from cultural_palette.serving.manifest import read_palette

    home = Path(tempfile.mkdtemp(prefix="palette-vllm-"))
    servers = VllmServers(home / "serve", vllm_python, {}, "", {}, home / "palette.toml")
    began = time.perf_counter()
    try:
        servers.restart()
        palette = read_palette("nano")
        (record,) = servers.fleet.records()
        yield replace(
            servers,
            refs=tomllib.loads(servers.settings.read_text())["models"],
            url=record.url,
            checkpoints={"base": Path(palette.base), **palette.adapters},
            seconds_to_start=time.perf_counter() - began,
        )
    finally:
        processes = [record.process for record in servers.fleet.records()]
        servers.command("stop", "--grace", "10")
        left = [pid for process in processes for pid in process.members]
        shutil.rmtree(home, ignore_errors=True)
        assert left == [], "palette serve stop left processes behind"


@pytest.fixture
def vllm_servers(_vllm_started: VllmServers) -> VllmServers:
    """The server, up; one that an earlier test killed is started again."""
    healths = _vllm_started.fleet.status()
    for health in healths:
        if health.state == "silent":
            _vllm_started.kill(health.name)
    if any(health.state != "up" for health in healths):
        _vllm_started.restart()
    return _vllm_started
