"""An evaluation on a cluster: blocks of questions as shards, each by the same functions as on one machine.

A shard has all methods and all runs of its questions, for every country: these share drafts and answers, so
no two shards have a call in common, and none is made twice. The driver merges the parts; what it derives from
all rows, it derives as on one machine, and the manifest comes last.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import RunFolder
from cultural_palette.cluster import ray_engine
from cultural_palette.cluster.run_storage import CALLS, RunStorage
from cultural_palette.cluster.shared_calls import SharedCalls
from cultural_palette.cluster.storage import Storage
from cultural_palette.evaluation.methods import predictor
from cultural_palette.evaluation.plan import UNCHECKED, Plan
from cultural_palette.evaluation.predictions import key_of
from cultural_palette.evaluation.progress import Progress
from cultural_palette.evaluation.run import derive, finish, predict_all
from cultural_palette.evaluation.surveys import SurveyItem
from cultural_palette.models import close_clients

QUESTIONS_A_SHARD = 4
PACKAGES = (*ray_engine.PACKAGES, "langchain-openai")
PACKAGES_IN_PROCESS = (*PACKAGES, "torch", "transformers", "peft")


@dataclass(frozen=True)
class Block:
    """Shard number `index`: the items of some questions, all countries of each."""

    index: int
    items: tuple[SurveyItem, ...]


@dataclass(frozen=True)
class SharedPlan:
    """What all shards have in common. `head`: the plan, with the first of its items only."""

    head: Plan
    calls: str
    run: RunStorage
    concurrency: int

    def plan(self, items: tuple[SurveyItem, ...]) -> Plan:
        """The plan of one block."""
        return replace(self.head, survey=replace(self.head.survey, items=items, whole=()))

    def check(self) -> None:
        """Build every method, as the shards will; raises what would stop them."""
        for method in self.head.predicting:
            predictor(method, self.head.cultural_map, self.head.models_of, self.head.survey)


def evaluate_on_cluster(
    plan: Plan,
    out: str,
    where: str,
    *,
    calls: str | None = None,
    concurrency: int = 16,
    retry_failed: bool = False,
    quiet: bool = False,
    questions_a_shard: int = QUESTIONS_A_SHARD,
    in_process: bool = False,
) -> dict[str, Any]:
    """As `evaluate`, on the cluster `where`, with run and calls on storages that every node sees.

    `concurrency`: items at once in each shard under way. `in_process`: models run on the nodes themselves,
    so that these must have the same torch.
    """
    storage = Storage(out)
    run = RunStorage(storage, {**plan.config(), "questions_a_shard": questions_a_shard}, UNCHECKED)
    if run.finished and not retry_failed:
        run.open()
        return run.manifest
    started = time.perf_counter()
    call_storage = Storage(calls or f"{storage.url}/{CALLS}")
    with ray_engine.connected(where) as cluster, cluster.claim(storage.url):
        head = replace(plan.survey, items=plan.survey.items[:1], whole=(), set_aside=(), counts={})
        shared = SharedPlan(replace(plan, survey=head), call_storage.url, run, concurrency)
        packages = PACKAGES_IN_PROCESS if in_process else PACKAGES
        cluster.check_nodes([storage, call_storage] if calls else [storage], packages, shared.check)
        run.open()
        if retry_failed:
            drop_failed(run)
        blocks = list(cut(plan.survey.items, questions_a_shard))
        there = run.parts()
        done = sum(len(block.items) for block in blocks if block.index in there)
        progress = Progress(
            plan.runs * len(plan.survey.items) * len(plan.methods),
            plan.runs * len(plan.predicting) * done,
            quiet=quiet,
        )

        def took(block: Block, outcomes: Counter[str]) -> None:
            for outcome, number in outcomes.items():
                for _ in range(number):
                    progress.advance(outcome)

        wanted = (block for block in blocks if block.index not in there)
        cluster.run(answer_block, shared, wanted, took, packages=packages)
        return merge(plan, run, len(blocks), progress, started)


def cut(items: tuple[SurveyItem, ...], size: int) -> Iterator[Block]:
    """The items in blocks of `size` questions. Questions alike in text and options have calls in common,
    under whatever id, and stay together.
    """
    by_question: defaultdict[tuple[str, tuple[str, ...]], list[SurveyItem]] = defaultdict(list)
    for item in items:
        by_question[item.question.text, item.question.options].append(item)
    questions = list(by_question.values())
    for index, start in enumerate(range(0, len(questions), size)):
        block = questions[start : start + size]
        yield Block(index, tuple(item for question in block for item in question))


def answer_block(shared: SharedPlan, block: Block) -> Counter[str]:
    """Ask every method for a block's items, on a worker; its part is in place when this returns. Rows by
    status.
    """
    plan = shared.plan(block.items)
    places = {method.name: place for place, method in enumerate(plan.methods)}
    numbers = {item.id: number for number, item in enumerate(block.items)}
    with tempfile.TemporaryDirectory(prefix="palette-shard-") as scratch:
        with RunFolder(Path(scratch) / "run") as folder:
            asyncio.run(_ask(plan, folder, shared))
        rows = sorted(
            folder.rows(), key=lambda row: (places[row["method"]], row["run"], numbers[row["item"]])
        )
    assert len({key_of(row) for row in rows}) == len(rows)
    shared.run.write_part(block.index, rows)
    return Counter(row["status"] for row in rows)


async def _ask(plan: Plan, folder: RunFolder, shared: SharedPlan) -> None:
    try:
        with SharedCalls(Storage(shared.calls)) as store:
            await predict_all(plan, folder, store, set(), shared.concurrency, Progress(0, 0, quiet=True))
    finally:
        await close_clients()


def drop_failed(run: RunStorage) -> None:
    """Have the shards made again that hold a failed row; all but what failed comes from the kept calls."""
    run.storage.remove("manifest.json")
    for index in sorted(run.parts()):
        if any(row["status"] == "failed" for row in run.rows(index)):
            run.drop_part(index)


def merge(plan: Plan, run: RunStorage, blocks: int, progress: Progress, started: float) -> dict[str, Any]:
    """Put the run's files in place: journal, predictions, floors, and the manifest last."""
    with run.merging(plan.config()) as folder, folder:
        for index in range(blocks):
            for row in run.rows(index):
                folder.append(row)
        derive(plan, folder, set(), progress)
        progress.close()
        return finish(plan, folder, time.perf_counter() - started, Counter())
