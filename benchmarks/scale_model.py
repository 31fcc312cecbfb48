"""What a run beyond one machine takes: the sums of docs/scale.md, and the same from a discrete simulation.

    python -m benchmarks.scale_model                   # three plans: sums, simulation, what runs short first
    python -m benchmarks.scale_model --check FILE      # the simulation beside what benchmarks.scale measured

The simulation knows workers (one core each, so many calls in flight), chains of calls that wait for one
another, and servers with so many places and a line before them; times are drawn around their means. What is
measured and what is assumed stands in `MEASURED` and in each plan; nothing here was run at this size.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

SIMULATED_CALLS = 60_000
SPREAD = 0.35  # of a reply's time: standard deviation of its logarithm (assumed)
DRAIN = 1.4  # of a chain's time: what a worker loses at a shard's end, when too few chains are left to start
BUSY = 0.8  # a server plans to be used so far, or its line grows


@dataclass(frozen=True)
class Measured:
    """Service times of ours, from benchmarks/scale.py and benchmarks/app_load.py. Seconds of processor time a
    call (worker) and a question (LangGraph's server, of which the graph itself takes 0.006); seconds of a
    shard and of its start; rows that a driver merges a second.
    """

    worker_cpu_s: float
    question_cpu_s: float
    shard_s: float
    ray_s: float
    cold_s: float
    merged_rows_a_second: float


MEASURED = Measured(
    worker_cpu_s=0.0012,
    question_cpu_s=0.045,
    shard_s=0.002,
    ray_s=0.018,
    cold_s=26.0,
    merged_rows_a_second=14_000.0,
)


@dataclass(frozen=True)
class Servers:
    """Replicas of a model server (assumed). `reply_s`: a reply's time with all `places` taken; `usd_an_hour`:
    of one replica.
    """

    replicas: int
    places: int
    reply_s: float
    usd_an_hour: float

    @property
    def calls_a_second(self) -> float:
        """What all replicas can answer."""
        return self.replicas * self.places / self.reply_s


@dataclass(frozen=True)
class Batch:
    """A batch. `chain`: calls of an answer, one after the other; `again`: share of answers that go round once
    more; `answers_a_shard` and `rows_an_answer`: for the overheads and for the merging.
    """

    name: str
    answers: int
    chain: int
    again: float
    answers_a_shard: int
    rows_an_answer: float
    workers: int
    in_flight: int
    servers: Servers

    @property
    def calls(self) -> float:
        """Expected calls of all answers."""
        return self.answers * self.chain * (1 + self.again)


@dataclass(frozen=True)
class Load:
    """Questions that come by themselves. `parallel`: drafts of a question; `then`: calls after them, one
    after the other; `apps`: app servers, of one core each; `runs_each`: questions that one works on at once
    (N_JOBS_PER_WORKER), the others wait.
    """

    name: str
    questions_a_second: float
    parallel: int
    then: int
    apps: int
    runs_each: int
    servers: Servers


PLANS: tuple[Batch | Load, ...] = (
    # 50,000 queries x 5 communities x 4 calls; a teacher of 70B: 4 s a reply, 64 at once on a node of 8 GPUs
    Batch("a million synthesis calls", 217_391, 4, 0.15, 640, 1, 8, 64, Servers(8, 64, 4.0, 24.0)),
    # 2,556 questions x 138 countries x 5 runs, all pairs: an upper bound. 40 calls an item (counted on
    # the made-up survey, without joint): 14 replies of 2 s, 26 single tokens of 0.15 s; 18 rows, read thrice
    Batch(
        "GlobalOpinionQA, all methods", 2556 * 138 * 5, 40, 0.0, 2760, 54, 32, 64, Servers(8, 256, 0.8, 4.0)
    ),
    Load("1,000 questions a second", 1000.0, 5, 2, 64, 100, Servers(48, 256, 1.2, 4.0)),
)


def sums(batch: Batch, measured: Measured = MEASURED) -> dict[str, float]:
    """Seconds that each part alone would take; the longest of the first three bounds the run."""
    shards = batch.answers / batch.answers_a_shard
    return {
        "servers_s": batch.calls / batch.servers.calls_a_second,
        "in_flight_s": batch.calls * batch.servers.reply_s / (batch.workers * batch.in_flight)
        + shards / batch.workers * DRAIN * batch.chain * batch.servers.reply_s,
        "workers_cpu_s": batch.calls * measured.worker_cpu_s / batch.workers,
        "shards_s": shards * measured.shard_s / batch.workers + shards * measured.ray_s,
        "cold_s": measured.cold_s,
        "merging_s": batch.answers * batch.rows_an_answer / measured.merged_rows_a_second,
    }


def total_s(parts: dict[str, float]) -> float:
    """Seconds of the run: its bound, then what does not overlap with it."""
    bound = max(parts[name] for name in ("servers_s", "in_flight_s", "workers_cpu_s"))
    return bound + parts["shards_s"] + parts["cold_s"] + parts["merging_s"]


class Line:
    """Places with a line before them: `enter` gives the moment at which a reply is there."""

    def __init__(self, places: int) -> None:
        self.free = [0.0] * places

    def enter(self, now: float, seconds: float) -> float:
        """First come, first served."""
        start = max(now, heapq.heappop(self.free))
        heapq.heappush(self.free, start + seconds)
        return start + seconds


def simulate_batch(batch: Batch, measured: Measured, seed: int = 0, spread: float = SPREAD) -> float:
    """Seconds of a batch's calls, shard by shard as Ray would hand them out; without start and merging."""
    draw = random.Random(seed)
    line = Line(batch.servers.replicas * batch.servers.places)
    core = [0.0] * batch.workers
    shards = deque(_shards(batch))
    running: dict[int, deque[int]] = {}
    left: dict[int, int] = {}
    events: list[tuple[float, int, int, int]] = []  # time, number, worker, calls left of this chain
    flying = [0] * batch.workers
    waiting: list[deque[int]] = [deque() for _ in range(batch.workers)]
    number, last, ray_free = 0, 0.0, 0.0

    def begin(worker: int, now: float) -> None:
        nonlocal ray_free
        if not shards:
            return
        ray_free = max(now, ray_free) + measured.ray_s  # one driver hands them out
        core[worker] = max(core[worker], ray_free) + measured.shard_s
        running[worker] = deque(
            batch.chain * (2 if draw.random() < batch.again else 1) for _ in range(shards.popleft())
        )
        left[worker] = len(running[worker])
        for _ in range(min(2 * batch.in_flight, len(running[worker]))):
            waiting[worker].append(running[worker].popleft())
        send(worker, core[worker])

    def send(worker: int, now: float) -> None:
        nonlocal number
        while waiting[worker] and flying[worker] < batch.in_flight:
            chain = waiting[worker].popleft()
            core[worker] = max(core[worker], now) + measured.worker_cpu_s
            flying[worker] += 1
            number += 1
            there = line.enter(core[worker], _around(draw, batch.servers.reply_s, spread))
            heapq.heappush(events, (there, number, worker, chain - 1))

    for worker in range(batch.workers):
        begin(worker, 0.0)
    while events:
        now, _, worker, chain = heapq.heappop(events)
        last = now
        flying[worker] -= 1
        if chain:
            waiting[worker].append(chain)
        else:
            left[worker] -= 1
            if running[worker]:
                waiting[worker].append(running[worker].popleft())
        send(worker, now)
        if not left[worker]:
            begin(worker, now)
    return last


def simulate_load(load: Load, measured: Measured, seconds: float, seed: int = 0) -> dict[str, float]:
    """Seconds that a question takes (median, 99th percentile), and whether lines grow: the median of the last
    third over that of the first.
    """
    draw = random.Random(seed)
    line, cores = Line(load.servers.replicas * load.servers.places), Line(load.apps)
    events: list[tuple[float, int, int, int]] = []  # time, question, what: 0 drafts, then each call after
    now, question = 0.0, 0
    arrived: list[float] = []
    missing: list[int] = []
    took: list[tuple[float, float]] = []
    share = measured.question_cpu_s / (1 + load.then)
    while (now := now + draw.expovariate(load.questions_a_second)) < seconds:
        arrived.append(now)
        missing.append(load.parallel)
        heapq.heappush(events, (now, question, 0, 0))
        question += 1
    reply_s = load.servers.reply_s
    free, queued = load.apps * load.runs_each, deque[int]()
    begun: set[int] = set()
    while events:
        now, question, stage, part = heapq.heappop(events)
        if stage == 0 and not part and question not in begun:
            if not free:
                queued.append(question)
                continue
            free -= 1
            begun.add(question)
        if part:  # a draft has come
            missing[question] -= 1
            if missing[question]:
                continue
            heapq.heappush(events, (now, question, 1, 0))
        elif stage == 0:
            ready = cores.enter(now, share)
            for draft in range(load.parallel):
                there = line.enter(ready, _around(draw, reply_s))
                heapq.heappush(events, (there, question, 0, draft + 1))
        elif stage <= load.then:
            there = line.enter(cores.enter(now, share), _around(draw, reply_s))
            heapq.heappush(events, (there, question, stage + 1, 0))
        else:
            took.append((arrived[question], now - arrived[question]))
            free += 1
            if queued:
                heapq.heappush(events, (now, queued.popleft(), 0, 0))
    took.sort()
    third = len(took) // 3
    first, end = (_at(0.5, [s for _, s in part]) for part in (took[:third], took[-third:]))
    every = [s for _, s in took]
    return {"p50_s": _at(0.5, every), "p99_s": _at(0.99, every), "last_over_first_third": end / first}


def plan_batch(batch: Batch, measured: Measured = MEASURED) -> dict[str, Any]:
    """Sums and simulation of a batch, its cost, and what bounds it."""
    parts = sums(batch, measured)
    small = min(1.0, SIMULATED_CALLS / batch.calls)
    least = batch.workers * batch.answers_a_shard * 2  # two shards a worker at least
    part = _with_answers(batch, min(batch.answers, max(int(batch.answers * small), least)))
    simulated = simulate_batch(part, measured) * batch.answers / part.answers
    whole = simulated + parts["cold_s"] + parts["merging_s"]
    bound = max(("servers_s", "in_flight_s", "workers_cpu_s"), key=lambda name: parts[name])
    hours = whole / 3600
    return {
        "calls": round(batch.calls),
        "shards": math.ceil(batch.answers / batch.answers_a_shard),
        **{name: round(value, 1) for name, value in parts.items()},
        "sums_h": round(total_s(parts) / 3600, 2),
        "simulated_h": round(hours, 2),
        "simulated_calls": round(part.calls),
        "bound_by": bound.removesuffix("_s"),
        "usd_of_servers": round(hours * batch.servers.replicas * batch.servers.usd_an_hour),
    }


def plan_load(load: Load, measured: Measured = MEASURED) -> dict[str, Any]:
    """Sums and simulation of a load: places and cores that it needs, and the time a question takes."""
    calls = load.questions_a_second * (load.parallel + load.then)
    needed = calls * load.servers.reply_s / load.servers.places
    question_s = measured.question_cpu_s + (1 + load.then) * load.servers.reply_s * _longest_of(
        load.parallel, load.then
    )
    simulated = simulate_load(load, measured, SIMULATED_CALLS / calls * 3)
    return {
        "calls_a_second": round(calls),
        "places_taken": round(needed / load.servers.replicas, 2),
        "replicas_needed": math.ceil(needed / BUSY),
        "cores_taken": round(load.questions_a_second * measured.question_cpu_s / load.apps, 2),
        "cores_needed": math.ceil(load.questions_a_second * measured.question_cpu_s / BUSY),
        "sums_s": round(question_s, 2),
        "runs_taken": round(load.questions_a_second * question_s / (load.apps * load.runs_each), 2),
        "runs_each_needed": math.ceil(load.questions_a_second * question_s / BUSY / load.apps),
        **{f"simulated_{name}": round(value, 2) for name, value in simulated.items()},
        "usd_an_hour": round(load.servers.replicas * load.servers.usd_an_hour),
    }


def check(measured_file: Path) -> list[dict[str, float]]:
    """Seconds that benchmarks.scale measured, and those that the simulation gives for the same run."""
    measured = json.loads(measured_file.read_text(encoding="utf-8"))
    ours = from_benchmark(measured)
    rows = []
    for workers, row in measured["workers"].items():
        answers = measured["calls"] // 4
        servers = Servers(1, 100_000, measured["latency_s"], 0.0)
        batch = Batch(
            "as measured", answers, 4, 0.0, 5 * measured["queries_a_shard"], 1,
            int(workers), measured["concurrency"], servers,
        )  # fmt: skip
        simulated = simulate_batch(batch, ours, spread=0.0)
        rows.append(
            {
                "workers": int(workers),
                "measured_s": row["seconds"],
                "simulated_s": round(simulated, 2),
                "ratio": round(simulated / row["seconds"], 3),
            }
        )
    return rows


def from_benchmark(measured: dict[str, Any]) -> Measured:
    """MEASURED, with a shard's times of that run of benchmarks.scale."""
    overhead = measured["overhead_of_a_shard"]
    return Measured(
        **{
            **asdict(MEASURED),
            "shard_s": max(0.0, overhead["fixed_ms"] - overhead["ray_alone_ms"]) / 1000,
            "ray_s": overhead["ray_alone_ms"] / 1000,
            "worker_cpu_s": measured["cpu_ms_a_call"] / 1000,
        }
    )


def _shards(batch: Batch) -> Iterator[int]:
    for start in range(0, batch.answers, batch.answers_a_shard):
        yield min(batch.answers_a_shard, batch.answers - start)


def _with_answers(batch: Batch, answers: int) -> Batch:
    return Batch(
        **{**{name: getattr(batch, name) for name in batch.__dataclass_fields__}, "answers": answers}
    )


def _around(draw: random.Random, mean: float, spread: float = SPREAD) -> float:
    """Lognormal, with that mean."""
    return mean * math.exp(draw.gauss(-spread * spread / 2, spread)) if spread else mean


def _longest_of(parallel: int, then: int) -> float:
    """Mean time of a question over that of as many single calls one after the other: the drafts wait for the
    slowest of them (Blom's approximation of the largest of `parallel` normal draws).
    """
    largest = math.sqrt(2) * _inverse_erf(2 * (parallel - 0.375) / (parallel + 0.25) - 1)
    slowest = math.exp(SPREAD * largest - SPREAD * SPREAD / 2)
    return (slowest + then) / (1 + then)


def _inverse_erf(x: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf((x + 1) / 2) / math.sqrt(2)


def _at(share: float, values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@click.command()
@click.option(
    "--check", "measured_file", type=click.Path(exists=True, path_type=Path), help="Of benchmarks.scale."
)
def main(measured_file: Path | None) -> None:
    """Print sums and simulation of every plan, as one JSON object."""
    if measured_file:
        click.echo(json.dumps(check(measured_file), indent=2))
        return
    plans = {plan.name: plan_batch(plan) if isinstance(plan, Batch) else plan_load(plan) for plan in PLANS}
    click.echo(json.dumps({"measured": asdict(MEASURED), **plans}, indent=2))


if __name__ == "__main__":
    main()
