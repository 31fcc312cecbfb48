"""One sitting of a run: opens folder, call store and servers, minds Ctrl-C, and lets the run go on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import MANIFEST, RunFolder
from cultural_palette.calls import CallStore
from cultural_palette.graph.synthesis import build_synthesis
from cultural_palette.nodes.synthesis.state import Answer
from cultural_palette.training.queries import Query
from cultural_palette.training.synthesis.processes import sit_in_processes
from cultural_palette.training.synthesis.run import (
    UNCHECKED,
    Outcome,
    Show,
    SynthesisSpec,
    checked,
    write_missing_rows,
)
from cultural_palette.training.synthesis.session import INTERRUPTED, Sitting, open_teacher
from cultural_palette.training.synthesis.teacher import Teacher


def sit(spec: SynthesisSpec, out: Path, sitting: Sitting, show: Show, note: Callable[[str], None]) -> Outcome:
    """Run until every row is there, or something stops it. `note` tells a person what is waited for."""

    async def work() -> Outcome:
        async with open_teacher(spec, CallStore(out), sitting) as teacher:
            with _minding_interrupts(teacher, note):
                return await write_missing_rows(
                    spec, folder, teacher, concurrency=sitting.concurrency, show=show
                )

    with RunFolder(out, spec.config(), UNCHECKED) as folder:
        if sitting.processes > 1 and sitting.urls and sitting.answering is None:
            return sit_in_processes(spec, folder, sitting, show, note)
        return asyncio.run(work())


def finished_manifest(spec: SynthesisSpec, out: Path) -> dict[str, Any] | None:
    """The manifest of this run where it is finished; None while it is not. Raises ArtifactError for a folder
    of other queries, another teacher or other settings.
    """
    folder = RunFolder(out, spec.config(), UNCHECKED)
    return checked(folder.same_manifest(), str(out / MANIFEST)) if folder.finished else None


def preview(
    spec: SynthesisSpec, out: Path, sitting: Sitting, number: int
) -> list[tuple[Query, dict[str, Answer]]]:
    """The first queries' answers, to look at. The run repeats none of their calls; no row is written."""

    async def work() -> list[tuple[Query, dict[str, Answer]]]:
        async with open_teacher(spec, CallStore(out), sitting) as teacher:
            graph = build_synthesis(spec.cultural_map, ask=teacher.ask)
            context = spec.context.model_copy(update={"teacher": str(spec.teacher)})

            async def one(query: Query) -> tuple[Query, dict[str, Answer]]:
                entry: Any = {"query": query.text}
                return query, (await graph.ainvoke(entry, context=context))["answers"]

            try:
                return await asyncio.gather(*(one(query) for query in spec.items[:number]))
            finally:
                await teacher.drain()

    with RunFolder(out, spec.config(), UNCHECKED):
        return asyncio.run(work())


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
