"""One sitting of a run: opens folder, call store and servers, minds Ctrl-C, and lets the run go on."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import RunFolder
from cultural_palette.calls import CallStore
from cultural_palette.graph.synthesis import build_synthesis
from cultural_palette.models import close_clients
from cultural_palette.nodes.synthesis.state import Answer
from cultural_palette.training.queries import Query
from cultural_palette.training.synthesis.pace import Pace
from cultural_palette.training.synthesis.prices import Price
from cultural_palette.training.synthesis.run import Outcome, Show, SynthesisSpec, write_missing_rows
from cultural_palette.training.synthesis.teacher import (
    LEAST_FAILURES_IN_A_ROW,
    Answering,
    Ledger,
    Teacher,
    from_models,
    from_servers,
)
from cultural_palette.training.synthesis.teacher_servers import TeacherServers

INTERRUPTED = "Interrupted."


@dataclass(frozen=True)
class Sitting:
    """How the teacher is asked this time; nothing of it changes a row. `urls`: of an OpenAI-compatible
    teacher; `answering`: where replies come from instead (batch files). `budget`: dollars for the whole run.
    """

    urls: tuple[str, ...] = ()
    key: str | None = None
    concurrency: int = 64
    processes: int = 1
    retries: int = 6
    first_pause_s: float = 0.5
    price: Price | None = None
    budget: float | None = None
    answering: Answering | None = None


def sit(spec: SynthesisSpec, out: Path, sitting: Sitting, show: Show, note: Callable[[str], None]) -> Outcome:
    """Run until every row is there, or something stops it. `note` tells a person what is waited for."""

    async def work() -> Outcome:
        async with open_teacher(spec, out, sitting) as teacher:
            with _minding_interrupts(teacher, note):
                return await write_missing_rows(
                    spec, folder, teacher, concurrency=sitting.concurrency, show=show
                )

    with RunFolder(out, spec.config()) as folder:
        if sitting.processes > 1 and sitting.urls and sitting.answering is None:
            from cultural_palette.training.synthesis.processes import sit_in_processes

            return sit_in_processes(spec, folder, sitting, show, note)
        return asyncio.run(work())


def preview(
    spec: SynthesisSpec, out: Path, sitting: Sitting, number: int
) -> list[tuple[Query, dict[str, Answer]]]:
    """The first queries' answers, to look at. The run repeats none of their calls; no row is written."""

    async def work() -> list[tuple[Query, dict[str, Answer]]]:
        async with open_teacher(spec, out, sitting) as teacher:
            graph = build_synthesis(spec.cultural_map, ask=teacher.ask)
            context = spec.context.model_copy(update={"teacher": str(spec.teacher)})

            async def one(query: Query) -> tuple[Query, dict[str, Answer]]:
                entry: Any = {"query": query.text}
                return query, (await graph.ainvoke(entry, context=context))["answers"]

            try:
                return await asyncio.gather(*(one(query) for query in spec.items[:number]))
            finally:
                await teacher.drain()

    with RunFolder(out, spec.config()):
        return asyncio.run(work())


@asynccontextmanager
async def open_teacher(spec: SynthesisSpec, out: Path, sitting: Sitting) -> AsyncIterator[Teacher]:
    """The teacher of one event loop, with the calls kept in `out`."""
    pace = Pace(sitting.concurrency)
    ledger = Ledger(sitting.price, sitting.budget)
    most_failures = max(LEAST_FAILURES_IN_A_ROW, 2 * sitting.concurrency)
    with _rarer_collections(), CallStore(out) as store:
        if sitting.answering is not None:
            yield Teacher(store, sitting.answering, ledger)
        elif not spec.teacher.in_process:
            async with TeacherServers(
                sitting.urls,
                sitting.key,
                pace,
                retries=sitting.retries,
                seed=spec.context.seed,
                first_pause_s=sitting.first_pause_s,
            ) as servers:
                yield Teacher(store, from_servers(servers), ledger, pace, most_failures)
        else:
            try:
                yield Teacher(store, from_models(pace), ledger, pace, most_failures)
            finally:
                await close_clients()


@contextmanager
def _rarer_collections() -> Iterator[None]:
    """Look for reference cycles after 50,000 new objects, not 700: a fifth of a run's processor time."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@contextmanager
def _minding_interrupts(teacher: Teacher, note: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) lets the calls under way come to their end; the second does not."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    task = asyncio.current_task()

    def first() -> None:
        if teacher.stopped == INTERRUPTED:
            if task is not None:
                task.cancel()
            return
        teacher.stop(INTERRUPTED)
        note(f"Stopping: waiting for {teacher.under_way} calls under way; once more gives them up.")

    added = []
    for number in signals:
        with suppress(RuntimeError, ValueError):  # not the main thread
            loop.add_signal_handler(number, first)
            added.append(number)
    try:
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)
