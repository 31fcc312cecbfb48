"""Runs on a Ray cluster of this machine: speed-up by workers, memory of the driver, overhead of a shard.

    python -m benchmarks.scale --json          # 1, 2, 4, 8 workers; a local server that takes 200 ms a reply
    python -m benchmarks.scale --rows 100000   # memory of the driver, from 1,000 rows on

Workers are processes of one node that each run one shard at a time. For memory the shards write rows of the
usual size without asking anybody: a driver sees no difference.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.synthesis import ANSWER, made_up_spec, resident_mib, serve_chat, versions

MARKS = (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
LOOPBACK = "127.0.0.2"  # Ray puts the machine's outer address in the place of 127.0.0.1


@click.command()
@click.option("--workers", default="1,2,4,8", show_default=True, help="Numbers of workers, by commas.")
@click.option("--queries", default=48, show_default=True, help="Of each run; 20 calls each.")
@click.option("--concurrency", default=4, show_default=True, help="Calls in flight for each worker.")
@click.option("--latency-ms", default=200.0, show_default=True, help="Of the server.")
@click.option("--shard-size", default=2, show_default=True, help="Queries in a shard.")
@click.option("--rows", type=int, help="Measure the driver's memory over so many rows instead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    workers: str,
    queries: int,
    concurrency: int,
    latency_ms: float,
    shard_size: int,
    rows: int | None,
    as_json: bool,
) -> None:
    """Measure, and print seconds, shares of linear, milliseconds of a shard, MiB of the driver."""
    numbers = [int(number) for number in workers.split(",")]
    latency_s = latency_ms / 1000
    result = memory(rows) if rows else speed_up(numbers, queries, concurrency, latency_s, shard_size)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    for key, value in result.items():
        click.echo(f"{key}: {json.dumps(value)}")


def speed_up(
    workers: list[int], queries: int, concurrency: int, latency_s: float, shard_size: int
) -> dict[str, Any]:
    """Seconds of the same work at each number of workers, all of them warm; and what a shard itself costs."""
    from cultural_palette.cluster.ray_engine import Needs
    from cultural_palette.training.synthesis.on_cluster import answer_block, cut

    most = max(workers)
    measured: dict[str, Any] = {}
    with a_server(latency_s) as url, a_cluster(most) as cluster, tempfile.TemporaryDirectory() as folder:

        def timed(name: str, count: int, at_once: int, size: int) -> float:
            shared = shared_spec(f"{folder}/{name}", url, concurrency)
            spec, started = made_up_spec(count), time.perf_counter()
            blocks = cut(spec.items, size)
            cluster.run(answer_block, shared, blocks, lambda block, outcome: None, Needs(cpus=most / at_once))
            return time.perf_counter() - started

        def warm(name: str) -> float:
            """Have all workers there, imports made: Ray ends idle ones while others hold the CPUs."""
            started = time.perf_counter()
            (Path(folder) / name).mkdir()
            places = (f"{folder}/{name}/{number}" for number in range(most))
            cluster.run(meet, most, places, lambda place, outcome: None, Needs(cpus=1))
            return time.perf_counter() - started

        cold = warm("cold")
        calls = 20 * queries
        for number in workers:
            warm(f"warm-{number}")
            timed(f"before-{number}", most, most, 1)
            seconds = timed(f"workers-{number}", queries, number, shard_size)
            bound = calls * latency_s / (number * concurrency)
            measured[str(number)] = {
                "seconds": round(seconds, 2),
                "calls_a_second": round(calls / seconds, 1),
                "share_of_the_servers_bound": round(bound / seconds, 3),
            }
        first = measured[str(workers[0])]["seconds"] * workers[0]
        for number in workers:
            measured[str(number)]["share_of_linear"] = round(
                first / (measured[str(number)]["seconds"] * number), 3
            )
        cpu_ms = cpu_of_a_call(shared_spec(f"{folder}/here", url, 64), 20)
        overhead = {
            "ray_alone_ms": round(empty_shards(cluster, 300, most), 2),
            "fixed_ms": round(
                without_queries(cluster, shared_spec(f"{folder}/none", url, concurrency), 60, most), 2
            ),
        }
    return {
        "calls": 20 * queries,
        "latency_s": latency_s,
        "concurrency": concurrency,
        "queries_a_shard": shard_size,
        "all_workers_cold_s": round(cold, 2),
        "workers": measured,
        "overhead_of_a_shard": overhead,
        "cpu_ms_a_call": round(cpu_ms, 2),
        "with": {**versions(), **ray_version()},
    }


def cpu_of_a_call(shared: Any, queries: int) -> float:
    """Milliseconds of processor time a call: chain, HTTP, the reply kept on disk, its share of the part."""
    from cultural_palette.training.synthesis.on_cluster import Block, answer_block

    items = made_up_spec(2 * queries).items
    answer_block(shared, Block(0, items[:queries]))  # imports, graphs
    before = time.process_time()
    answer_block(shared, Block(1, items[queries:]))
    return 1000 * (time.process_time() - before) / (20 * queries)


def empty_shards(cluster: Any, number: int, cpus: int) -> float:
    """Milliseconds that Ray and the driver take for a shard that does nothing, one at a time."""
    from cultural_palette.cluster.ray_engine import Needs

    cluster.run(nothing, None, iter(range(5)), lambda shard, outcome: None, Needs(cpus=cpus))
    started = time.perf_counter()
    cluster.run(nothing, None, iter(range(number)), lambda shard, outcome: None, Needs(cpus=cpus))
    return 1000 * (time.perf_counter() - started) / number


def without_queries(cluster: Any, shared: Any, number: int, cpus: int) -> float:
    """Milliseconds of a synthesis shard without its calls: loop, graph, connections, part; one at a time."""
    from cultural_palette.cluster.ray_engine import Needs
    from cultural_palette.training.synthesis.on_cluster import Block, answer_block

    blocks = (Block(index, ()) for index in range(number))
    started = time.perf_counter()
    cluster.run(answer_block, shared, blocks, lambda block, outcome: None, Needs(cpus=cpus))
    return 1000 * (time.perf_counter() - started) / number


def memory(rows: int, shard_size: int = 40) -> dict[str, Any]:
    """MiB of the driver as parts come in, and as they are merged."""
    from cultural_palette.cluster.ray_engine import Needs
    from cultural_palette.training.synthesis.on_cluster import cut, merge
    from cultural_palette.training.synthesis.run import Tally
    from cultural_palette.training.synthesis.teacher import Ledger

    spec = made_up_spec(-(-rows // 5))
    at_rows: dict[int, float] = {}
    done = 0
    with a_cluster(1) as cluster, tempfile.TemporaryDirectory() as folder:
        shared = shared_spec(folder, "http://127.0.0.1:1", 1)

        def took(block: Any, outcome: Counter[str]) -> None:
            nonlocal done
            done += outcome.total()
            for mark in MARKS:
                if mark <= done and mark not in at_rows:
                    at_rows[mark] = round(resident_mib(), 1)

        started = time.perf_counter()
        cluster.run(rows_without_calls, shared, cut(spec.items, shard_size), took, Needs(cpus=1))
        ran, started = time.perf_counter() - started, time.perf_counter()
        outcome = merge(spec, shared.run, shard_size, Tally(done), Ledger(), 0)
        merged = time.perf_counter() - started
        size = (Path(folder) / "rows.jsonl").stat().st_size
    return {
        "rows": outcome.tally.written,
        "driver_mib_at_rows": at_rows,
        "driver_mib_after_merging": round(resident_mib(), 1),
        "parts_s": round(ran, 1),
        "merging_s": round(merged, 1),
        "merged_rows_a_second": round(outcome.tally.written / merged),
        "mib_on_disk": round(size / 2**20, 1),
        "with": {**versions(), **ray_version()},
    }


def meet(number: int, place: str) -> None:
    """A shard that waits until so many others run beside it, each in a worker of its own, imports made."""
    from cultural_palette.training.synthesis.on_cluster import answer_block

    assert callable(answer_block)
    Path(place).touch()
    while len(list(Path(place).parent.iterdir())) < number:
        time.sleep(0.05)


def nothing(common: None, shard: int) -> int:
    """A shard that does nothing."""
    return shard


def rows_without_calls(shared: Any, block: Any) -> Counter[str]:
    """A shard's part, of rows of the usual size, without a call."""
    from cultural_palette.training.synthesis.run import row_of

    answer: Any = {
        "status": "ok",
        "response": ANSWER,
        "steps": {"respond": ANSWER, "feedback": ANSWER, "aggregate": ANSWER},
        "rounds": 1,
        "validation": {"by": "teacher", "findings": []},
        "teacher": "openai:teacher",
        "usage": {"input_tokens": 1200, "output_tokens": 360},
        "error": None,
    }
    rows = [
        row_of(shared.spec, query, community, answer)
        for query in block.queries
        for community in shared.spec.communities
    ]
    shared.run.write_part(block.index, rows)
    return Counter(ok=len(rows))


def shared_spec(out: str, url: str, concurrency: int) -> Any:
    """What the shards of a run at `out` have in common."""
    from dataclasses import replace

    from cultural_palette.cluster.run_storage import RunStorage
    from cultural_palette.cluster.storage import Storage
    from cultural_palette.settings import current_settings
    from cultural_palette.training.synthesis.on_cluster import SharedSpec
    from cultural_palette.training.synthesis.session import Sitting

    spec = made_up_spec(0)
    bare = replace(spec, queries=replace(spec.queries, items=()))
    sitting = Sitting(urls=(url,), concurrency=concurrency)
    return SharedSpec(bare, sitting, current_settings(), RunStorage(Storage(out), {}))


@contextmanager
def a_cluster(cpus: int) -> Iterator[Any]:
    """A Ray cluster of one node with so many CPUs, whatever the machine has."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's own is 15: on a busy machine workers hardly run
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    from ray.cluster_utils import Cluster as LocalCluster

    from cultural_palette.cluster.ray_engine import connected

    nodes = LocalCluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": 80 * 2**20,
            "node_ip_address": LOOPBACK,
        },
    )
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = str(nodes.address)
    try:
        with connected("ray") as cluster:
            yield cluster
    finally:
        nodes.shutdown()
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


@contextmanager
def a_server(latency_s: float) -> Iterator[str]:
    """The URL of a chat server that answers after so many seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve_chat, args=(theirs, latency_s), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        server.terminate()
        server.join()


def ray_version() -> dict[str, str]:
    """Ray's."""
    from importlib.metadata import version

    return {"ray": version("ray"), "cores": str(os.cpu_count())}


if __name__ == "__main__":
    main()
