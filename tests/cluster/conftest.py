"""A real Ray cluster on this machine: a head that schedules, and nodes of one CPU each, on the loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

# Ray puts the machine's outer address in the place of 127.0.0.1; all of 127/8 is the loopback, on Linux.
LOOPBACK = "127.0.0.2"
# A node is lost by default after 5 checks of 10 s; on a machine with others' work on it a living one may miss
# these. Nothing here waits for a node to be lost by silence: a removed one closes its connection.
PATIENT = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 10}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": LOOPBACK}


class RayNodes:
    """Head and nodes; processes are known by their parents, so that no one else's is ever touched."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Ray's own is 15: beside other tests workers hardly run
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                **NODE, "num_cpus": 0, "include_dashboard": False, "_system_config": PATIENT,
            },
        )  # fmt: skip
        self.nodes = [self.add(), self.add()]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, **more: Any) -> Any:
        return self.cluster.add_node(**{**NODE, **more})

    def remove(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)

    def working(self, task: str, nodes: list[Any] | None = None) -> list[int]:
        """Process ids of the workers that run a task of that name now."""
        raylets = {
            process.process.pid
            for node in (nodes or self.nodes)
            for kind, processes in node.all_processes.items()
            if kind == "raylet"
            for process in processes
        }
        return [pid for pid in _processes() if _parent(pid) in raylets and task in _title(pid)]

    def environment(self) -> dict[str, str]:
        mine = {"RAY_ADDRESS": self.address, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        return {**os.environ, **mine}

    def driver(self, *arguments: str) -> subprocess.Popen[str]:
        """`palette ...` in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "cultural_palette", *arguments],
            cwd=ROOT, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def wait_for(
    what: Callable[[], Any], driver: subprocess.Popen[str] | None = None, seconds: float = 90
) -> Any:
    """What it gives, once that is true; fails when the driver has ended before, with its words."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        if driver is not None and driver.poll() is not None:
            pytest.fail(f"the driver ended first, with {driver.returncode}: {driver.communicate()[0]}")
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


def ended(driver: subprocess.Popen[str], seconds: float = 150) -> str:
    """What a driver printed; it ended well."""
    try:
        printed, _ = driver.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGKILL)
        pytest.fail(f"the driver did not end: {driver.communicate()[0]}")
    assert driver.returncode == 0, printed
    return printed


@pytest.fixture(scope="package")
def ray_nodes() -> Iterator[RayNodes]:
    pytest.importorskip("ray")
    if not sys.platform.startswith("linux"):
        pytest.skip("needs 127.0.0.2 and /proc")
    nodes = RayNodes()
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()
