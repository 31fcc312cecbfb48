"""Runs on a real cluster, with a worker or the driver killed and a node added: the same bytes as on one
machine, and no call made twice but those that were under way.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
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

from cultural_palette.cli import main
from cultural_palette.evaluation.predictions import BY_THE_CLOCK
from tests.cluster.conftest import RayNodes, ended, wait_for
from tests.conftest import ROOT
from tests.fake_server import FakeServer, serve

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(420)]

CONCURRENCY = 4
LATENCY_S = 0.2
SETTLED_S = 2.0  # a call begun so long before a kill had its reply, and that was kept
MADE_UP = ROOT / "evaluation/data/made_up.jsonl"
METHODS = "vanilla,prompting,own-draft,best-single-draft,without-self-regulation"
PASSED = '{"passed": true, "findings": []}'


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve() as fake:
        fake.models, fake.replies["*"] = ("teacher",), worded
        yield fake


def worded(body: dict[str, Any]) -> str:
    """Another text for every prompt and seed, so that a row made of another call's reply would show."""
    if '"passed"' in body["messages"][0]["content"]:
        return PASSED
    seed = json.dumps([body["messages"], body.get("seed")], sort_keys=True)
    number = hashlib.sha256(seed.encode()).hexdigest()[:8]
    return f"People greet one another with care in house {number} and take their time."


def texts(server: FakeServer) -> list[str]:
    """Every request, in the order of their arrival."""
    return [json.dumps(body, sort_keys=True) for body in server.requests]


def made_again(server: FakeServer, needed: Counter[str]) -> Counter[str]:
    """Requests beyond those that one machine needed."""
    assert not needed - Counter(texts(server))
    return Counter(texts(server)) - needed


def under_way(server: FakeServer, killed: float) -> set[str]:
    """Requests that came so shortly before a kill that their reply may not have been kept."""
    pairs = zip(texts(server), server.at, strict=True)
    return {text for text, at in pairs if killed - SETTLED_S < at < killed + SETTLED_S}


def forget(server: FakeServer) -> None:
    server.requests.clear()
    server.at.clear()


def palette(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def sorted_lines(file: Path) -> bytes:
    return b"".join(sorted(file.read_bytes().splitlines(keepends=True)))


# -- synthesis


def synthesis(server: FakeServer, queries: Path, out: Path) -> list[str]:
    teacher = f"openai:teacher@{server.url}"
    return [
        "synthesize", "--queries", str(queries), "--teacher", teacher, "--out", str(out),
        "--concurrency", str(CONCURRENCY),
    ]  # fmt: skip


def test_synthesis_with_a_worker_killed_and_a_node_added(
    ray_nodes: RayNodes, server: FakeServer, tmp_path: Path
) -> None:
    queries, number = tmp_path / "queries.csv", 24
    lines = [f"Is question {n} asked here?" for n in range(number)]
    queries.write_text("query\n" + "\n".join(lines) + "\n")
    assert palette(*synthesis(server, queries, tmp_path / "one")).exit_code == 0
    needed = Counter(texts(server))
    forget(server)
    server.latency_s = LATENCY_S

    driver = ray_nodes.driver(
        *synthesis(server, queries, tmp_path / "many"), "--on", "ray", "--shard-size", "2"
    )
    wait_for(lambda: len(server.requests) > 60, driver)
    os.kill(wait_for(lambda: ray_nodes.working("answer_block"), driver)[0], signal.SIGKILL)
    killed = time.monotonic()
    added = ray_nodes.add()
    try:
        wait_for(lambda: ray_nodes.working("answer_block", [added]), driver)
        ended(driver)
    finally:
        ray_nodes.remove(added)

    one, many = tmp_path / "one", tmp_path / "many"
    assert sorted_lines(many / "rows.jsonl") == sorted_lines(one / "rows.jsonl")
    order = [json.loads(line)["query"] for line in (many / "rows.jsonl").read_text().splitlines()]
    assert order == [line for line in lines for _ in range(5)]  # the queries' order, whoever was first
    again = made_again(server, needed)
    assert set(again) <= under_way(server, killed) and again.total() <= 4 * CONCURRENCY
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, many)]
    for manifest in manifests:
        del manifest["last_sitting"]
    assert manifests[0] == manifests[1]
    sent = len(server.requests)
    printed = ended(ray_nodes.driver(*synthesis(server, queries, many), "--on", "ray", "--shard-size", "2"))
    assert "nothing is left to ask" in printed and len(server.requests) == sent


# -- evaluation


def predictions(out: Path) -> list[str]:
    """Every row without what the clock says, by method, run and item."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key not in BY_THE_CLOCK} for row in rows]
    return sorted(json.dumps(row, sort_keys=True) for row in kept)


def evaluation(server: FakeServer, out: Path) -> list[str]:
    return [
        "evaluate", "surveys", "--survey", str(MADE_UP), "--countries", "KEN,BRA", "--methods", METHODS,
        "--runs", "2", "--model", f"openai:teacher@{server.url}", "--out", str(out),
        "--concurrency", str(CONCURRENCY), "--json",
    ]  # fmt: skip


def test_evaluation_with_the_driver_killed_and_started_again(
    ray_nodes: RayNodes, server: FakeServer, tmp_path: Path
) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    assert palette(*evaluation(server, one)).exit_code == 0
    needed = Counter(texts(server))
    forget(server)
    server.latency_s = LATENCY_S

    command = [*evaluation(server, many), "--on", "ray", "--shard-size", "1"]
    driver = ray_nodes.driver(*command)
    wait_for(lambda: len(server.requests) > needed.total() // 2, driver)
    driver.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    driver.wait()
    assert not (many / "manifest.json").exists()
    ended(ray_nodes.driver(*command))

    assert (many / "floors.json").read_bytes() == (one / "floors.json").read_bytes()
    assert predictions(many) == predictions(one)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, many)]
    assert manifests[0]["outcomes"] == manifests[1]["outcomes"]
    assert manifests[0]["predictions_sha256"] == manifests[1]["predictions_sha256"]
    assert set(made_again(server, needed)) <= under_way(server, killed)


# -- refused before any call


def refused(ray_nodes: RayNodes, server: FakeServer, out: str, where: str = "ray") -> str:
    """What is printed of a run that is refused; nothing was sent."""
    queries = ROOT / "training/synthesis/example"
    driver = ray_nodes.driver(
        "synthesize", "--queries", f"prism:{queries}", "--limit", "2", "--teacher",
        f"openai:teacher@{server.url}", "--out", out, "--on", where,
    )  # fmt: skip
    printed, _ = driver.communicate(timeout=150)
    assert driver.returncode in (1, 2), printed
    assert "Traceback" not in printed and server.requests == []
    return printed


def test_a_storage_that_refuses(ray_nodes: RayNodes, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "can not be written" in refused(ray_nodes, server, str(tmp_path / "file" / "run"))
    assert "memory ends with its process" in refused(ray_nodes, server, "memory://run")


def test_a_second_driver_on_the_same_place(ray_nodes: RayNodes, server: FakeServer, tmp_path: Path) -> None:
    import ray

    from cultural_palette.cluster import ray_engine
    from cultural_palette.errors import ArtifactError

    code = (
        "import os, sys, time, ray\nfrom cultural_palette.cluster import ray_engine\n"
        "with ray_engine.connected('ray') as cluster, cluster.claim('/here'):\n"
        "    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], env=ray_nodes.environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        os.environ["RAY_ADDRESS"] = ray_nodes.address
        with ray_engine.connected("ray") as cluster:
            ray_engine.CLAIM_S, patience = 1.0, ray_engine.CLAIM_S
            try:
                with (
                    pytest.raises(ArtifactError, match="/here is in use by another run"),
                    cluster.claim("/here"),
                ):
                    pass
            finally:
                ray_engine.CLAIM_S = patience
            holder.kill()  # its claim ends with it
            with cluster.claim("/here"):
                pass
        assert not ray.is_initialized()
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        holder.kill()
        holder.wait()


def test_a_node_with_other_sources(ray_nodes: RayNodes, server: FakeServer, tmp_path: Path) -> None:
    """The same version with one prompt changed: rows would depend on where they were made."""
    other = tmp_path / "src" / "cultural_palette"
    shutil.copytree(ROOT / "palette", other, ignore=shutil.ignore_patterns("__pycache__", "nano"))
    prompt = other / "prompts" / "synthesis" / "respond.txt"
    prompt.write_text(prompt.read_text() + "\nBe brief.\n")
    node = ray_nodes.add(env_vars={"PYTHONPATH": str(other.parent)})
    try:
        printed = refused(ray_nodes, server, str(tmp_path / "run"))
        assert "other sources of cultural-palette" in printed and "install the same on every node" in printed
        assert not (tmp_path / "run" / "config.json").exists()
    finally:
        ray_nodes.remove(node)
