"""How a teacher is reached for one sitting, and the teacher of one event loop."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass

from cultural_palette.calls import CountedCalls
from cultural_palette.models import close_clients
from cultural_palette.training.synthesis.pace import Pace
from cultural_palette.training.synthesis.prices import Price
from cultural_palette.training.synthesis.run import SynthesisSpec
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


@asynccontextmanager
async def open_teacher(
    spec: SynthesisSpec, calls: AbstractContextManager[CountedCalls], sitting: Sitting
) -> AsyncIterator[Teacher]:
    """The teacher of one event loop, with its calls kept."""
    pace = Pace(sitting.concurrency)
    ledger = Ledger(sitting.price, sitting.budget)
    most_failures = max(LEAST_FAILURES_IN_A_ROW, 2 * sitting.concurrency)
    with _rarer_collections(), calls as store:
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
