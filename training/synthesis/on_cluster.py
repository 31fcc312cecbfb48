"""A synthesis run on a cluster: blocks of queries as shards, each by the same functions as on one machine.

A shard answers its queries for every community and writes its part, whole, when every answer is there. The
driver merges the parts in the queries' order, the manifest last. Queries are unique, so no two shards have a
call in common.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cultural_palette.artifacts import MANIFEST
from cultural_palette.cluster import ray_engine
from cultural_palette.cluster.run_storage import CALLS, RunStorage, part_name
from cultural_palette.cluster.shared_calls import SharedCalls
from cultural_palette.cluster.storage import Storage
from cultural_palette.errors import UsageError
from cultural_palette.nodes.synthesis.state import Answer
from cultural_palette.settings import Settings, current_settings, use_settings
from cultural_palette.training.queries import Query
from cultural_palette.training.synthesis.run import (
    UNCHECKED,
    Outcome,
    Show,
    SynthesisSpec,
    Tally,
    answer_all,
    check_row,
    checked,
    end,
    missing,
    row_of,
)
from cultural_palette.training.synthesis.run import pay as pay_row
from cultural_palette.training.synthesis.session import Sitting, open_teacher
from cultural_palette.training.synthesis.teacher import KIND, Ledger

QUERIES_A_SHARD = 128  # fewer, and a worker with 64 calls in flight often waits for the last of a shard
COUNTED = ("input_tokens", "output_tokens", "replies", "uncounted", "calls_made")
Row = dict[str, Any]


@dataclass(frozen=True)
class Block:
    """Shard number `index`: consecutive queries."""

    index: int
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class SharedSpec:
    """What all shards have in common. `spec` is without queries."""

    spec: SynthesisSpec
    sitting: Sitting
    settings: Settings
    run: RunStorage


@dataclass(frozen=True)
class BlockOutcome:
    """What a shard tells the driver. `statuses`: of the rows in its part, which is there unless `failed`
    counts answers that got no reply, by why. `used`: its ledger's counts, in COUNTED's order.
    """

    statuses: Counter[str]
    failed: Counter[str] = field(default_factory=Counter)
    used: tuple[int, ...] = (0,) * len(COUNTED)
    saved: int = 0


def sit_on_cluster(
    spec: SynthesisSpec,
    out: str,
    sitting: Sitting,
    show: Show,
    where: str,
    queries_a_shard: int = QUERIES_A_SHARD,
) -> Outcome:
    """As `sit`, on the cluster `where` and with the run at the storage `out`. Each shard under way has
    `sitting.concurrency` calls at once.
    """
    check_sitting(sitting)
    run = _storage(spec, out, queries_a_shard)
    storage = run.storage
    with ray_engine.connected(where) as cluster, cluster.claim(storage.url):
        cluster.check_nodes([storage])
        run.open()
        blocks = cut(spec.items, queries_a_shard)
        there = run.parts()
        tally, ledger, saved = Tally(len(spec.items) * len(spec.communities)), Ledger(sitting.price), 0
        for index in there:
            for number, row in enumerate(run.rows(index), 1):
                check_row(row, f"{storage.at(part_name(index))}:{number}")
                tally.add(row)
                pay_row(ledger, row)
        tally.before = tally.written

        def took(block: Block, outcome: BlockOutcome) -> None:
            nonlocal saved
            saved += outcome.saved
            tally.ok += outcome.statuses["ok"]
            tally.set_aside += outcome.statuses["set_aside"]
            for why, number in outcome.failed.items():
                for _ in range(number):
                    tally.fail(why)
            for name, number in zip(COUNTED, outcome.used, strict=True):
                setattr(ledger, name, getattr(ledger, name) + number)
            show(tally, ledger)

        bare = replace(spec, queries=replace(spec.queries, items=()), limit=None)
        shared = SharedSpec(bare, sitting, current_settings(), run)
        wanted = (block for block in blocks if block.index not in there)
        cluster.run(answer_block, shared, wanted, took)
        if tally.failed:
            return Outcome(tally, None)
        return merge(spec, run, queries_a_shard, tally, ledger, saved)


def check_sitting(sitting: Sitting) -> None:
    """Refuse what a cluster can not do."""
    if sitting.budget is not None:
        raise UsageError(
            "--budget is kept by one process and can not be with --on: set a limit at the provider, or take "
            "a part of the queries with --limit."
        )
    if sitting.processes > 1:
        raise UsageError("--processes is for one machine; with --on the cluster's CPUs decide.")
    if sitting.answering is not None:
        raise UsageError("--batch is for one machine: the provider does the work.")


def cut(queries: tuple[Query, ...], size: int) -> Iterator[Block]:
    """The queries in blocks of `size`, the last one smaller."""
    for index, start in enumerate(range(0, len(queries), size)):
        yield Block(index, queries[start : start + size])


def answer_block(shared: SharedSpec, block: Block) -> BlockOutcome:
    """Answer a block's queries for every community, on a worker; its part is in place when this returns,
    unless an answer got no reply.
    """
    with use_settings(shared.settings):
        return asyncio.run(_answer_block(shared, block))


async def _answer_block(shared: SharedSpec, block: Block) -> BlockOutcome:
    spec = replace(shared.spec, queries=replace(shared.spec.queries, items=block.queries))
    calls = SharedCalls(Storage(f"{shared.run.storage.url}/{CALLS}"))
    rows: dict[tuple[str, str], Row] = {}

    def took(query: Query, key: str, answer: Answer) -> None:
        rows[query.id, key] = row_of(spec, query, key, answer)

    async with open_teacher(spec, calls, shared.sitting) as teacher:
        await answer_all(spec, teacher, missing(spec, ()), shared.sitting.concurrency, took)
        used = tuple(getattr(teacher.ledger, name) for name in COUNTED)
    failed = Counter(row["error"] or "" for row in rows.values() if row["status"] == "failed")
    if failed:
        return BlockOutcome(Counter(), failed, used, calls.saved[KIND])
    in_order = [rows[query.id, key] for query, key in missing(spec, ())]
    shared.run.write_part(block.index, in_order)
    return BlockOutcome(Counter(row["status"] for row in in_order), Counter(), used, calls.saved[KIND])


def merge(
    spec: SynthesisSpec, run: RunStorage, queries_a_shard: int, progress: Tally, ledger: Ledger, saved: int
) -> Outcome:
    """Put the run's files in place: the rows in the queries' order, the manifest last."""
    tally = Tally(progress.wanted, progress.before, started=progress.started)
    with run.merging(spec.config()) as folder:
        for index in range(-(-len(spec.items) // queries_a_shard)):
            for row in run.rows(index):
                folder.append(row)
                tally.add(row)
        return end(spec, folder, tally, ledger, None, saved)


def finished_manifest(spec: SynthesisSpec, out: str, queries_a_shard: int) -> Row | None:
    """The manifest of this run where it is finished; None while it is not. Raises ArtifactError for another
    run.
    """
    run = _storage(spec, out, queries_a_shard)
    if not run.finished:
        return None
    run.open()
    return checked(run.manifest, f"{out}/{MANIFEST}")


def _storage(spec: SynthesisSpec, out: str, queries_a_shard: int) -> RunStorage:
    return RunStorage(Storage(out), {**spec.config(), "queries_a_shard": queries_a_shard}, UNCHECKED)
