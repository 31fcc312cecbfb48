"""A sitting in several processes, for servers that answer faster than one process can ask.

One process makes about a thousand calls a second at best (graph, HTTP and JSON take their time). Here each of
several asks its share of the answers, all with one call store; this process alone writes the rows.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import RunFolder
from cultural_palette.calls import CallStore
from cultural_palette.errors import PaletteError
from cultural_palette.nodes.synthesis.state import Answer
from cultural_palette.training.queries import Query
from cultural_palette.training.synthesis.run import (
    Outcome,
    Show,
    SynthesisSpec,
    already_there,
    answer_all,
    end,
    keep,
    missing,
    row_of,
)
from cultural_palette.training.synthesis.session import INTERRUPTED, Sitting, open_teacher
from cultural_palette.training.synthesis.teacher import KIND, Ledger, RunStopped, Teacher

COUNTED = ("input_tokens", "output_tokens", "replies", "uncounted", "calls_made")


@dataclass(frozen=True)
class Share:
    """One process' part: each `of`-th answer of the spec, from the `index`-th on."""

    spec: SynthesisSpec
    out: Path
    sitting: Sitting
    index: int
    of: int


@dataclass
class _Worker:
    """A process as its parent sees it. `used`: its counts of tokens and calls, the latest."""

    process: Any
    pipe: Connection
    used: tuple[int, ...] = (0,) * len(COUNTED)
    saved: int = 0
    error: BaseException | None = None


def sit_in_processes(
    spec: SynthesisSpec, folder: RunFolder, sitting: Sitting, show: Show, note: Callable[[str], None]
) -> Outcome:
    """As `sit`, with `sitting.processes` of them."""
    before = Ledger(sitting.price, sitting.budget)
    _, tally = already_there(spec, folder, before)
    workers = [_start(spec, folder.path, sitting, index) for index in range(sitting.processes)]
    ledger = replace(before)
    stopped: str | None = None

    def stop(why: str) -> None:
        nonlocal stopped
        stopped = stopped or why
        for worker in workers:
            with suppress(OSError):
                worker.pipe.send(why)

    try:
        with _minding_interrupts(stop, workers, note):
            open_pipes = {worker.pipe: worker for worker in workers}
            while open_pipes:
                for pipe in wait(list(open_pipes)):
                    worker = open_pipes[pipe]  # type: ignore[index]
                    try:
                        row, worker.used, worker.saved, worker.error = worker.pipe.recv()
                    except (EOFError, OSError):
                        del open_pipes[worker.pipe]
                        _mind_the_dead(worker, stopped)
                        if worker.error is not None:
                            stop(str(worker.error))
                        continue
                    _add_up(ledger, before, workers)
                    if row is not None:
                        keep(folder, tally, row)
                        show(tally, ledger)
                    if stopped is None and ledger.spent_with(sitting.concurrency):
                        stop(f"The budget of {sitting.budget:,.2f} USD is used up.")
    finally:
        for worker in workers:
            worker.pipe.close()  # a process still at work sees that nobody listens, and ends
            worker.process.join()
    if error := next((worker.error for worker in workers if worker.error is not None), None):
        raise error
    return end(spec, folder, tally, ledger, stopped, sum(worker.saved for worker in workers))


def _start(spec: SynthesisSpec, out: Path, sitting: Sitting, index: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    calls = max(1, sitting.concurrency // sitting.processes)
    # the parent keeps the budget: it alone sees what all have used
    share = Share(spec, out, replace(sitting, concurrency=calls, budget=None), index, sitting.processes)
    process = context.Process(target=_work, args=(share, theirs), name=f"synthesis-{index}")
    with _holding_back(
        signal.SIGINT
    ):  # Ctrl-C reaches all: a child amid its imports would end in a traceback
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _holding_back(number: signal.Signals) -> Iterator[None]:
    """A signal waits until the block ends; in a process that the block starts, until that lets it through."""
    resource_tracker.ensure_running()  # as it starts, it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mind_the_dead(worker: _Worker, stopped: str | None) -> None:
    worker.process.join()
    if worker.process.exitcode and worker.error is None and stopped is None:
        worker.error = PaletteError(
            f"A process of the run ended with code {worker.process.exitcode}; was memory short? "
            "The same command goes on."
        )


def _add_up(ledger: Ledger, before: Ledger, workers: list[_Worker]) -> None:
    for place, name in enumerate(COUNTED):
        setattr(ledger, name, getattr(before, name) + sum(worker.used[place] for worker in workers))


@contextmanager
def _minding_interrupts(
    stop: Callable[[str], None], workers: list[_Worker], note: Callable[[str], None]
) -> Iterator[None]:
    interrupted = False

    def handle(number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            for worker in workers:
                worker.process.terminate()
            raise KeyboardInterrupt
        interrupted = True
        stop(INTERRUPTED)
        note("Stopping: waiting for the calls under way; once more gives them up.")

    before = {}
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):  # not the main thread
            before[signal_number] = signal.signal(signal_number, handle)
    try:
        yield
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)


# -- in the process ----------------------------------------------------------------------------------------


def _work(share: Share, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent tells when to stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with suppress(BrokenPipeError):
        asyncio.run(_answer_share(share, pipe))


async def _answer_share(share: Share, pipe: Connection) -> None:
    spec = share.spec
    loop = asyncio.get_running_loop()
    async with open_teacher(spec, CallStore(share.out), share.sitting) as teacher:

        def heard() -> None:
            try:
                teacher.stop(pipe.recv())
            except (EOFError, OSError):  # the parent is gone
                loop.remove_reader(pipe.fileno())
                teacher.stop("The run's first process is gone.")

        def took(query: Query, key: str, answer: Answer) -> None:
            _tell(pipe, teacher, row_of(spec, query, key, answer))

        done, _ = already_there(spec, RunFolder(share.out), Ledger())
        wanted = missing(spec, done, share.index, share.of)
        error: BaseException | None = None
        loop.add_reader(pipe.fileno(), heard)
        try:
            await answer_all(spec, teacher, wanted, share.sitting.concurrency, took)
        except RunStopped:
            pass
        except PaletteError as fault:
            error = type(fault)(*fault.args)
        except BrokenPipeError:
            raise
        except Exception:  # told with its traceback by the parent
            error = RuntimeError(traceback.format_exc())
        finally:
            loop.remove_reader(pipe.fileno())
        _tell(pipe, teacher, None, error)


def _tell(
    pipe: Connection, teacher: Teacher, row: dict[str, Any] | None, error: BaseException | None = None
) -> None:
    used = tuple(getattr(teacher.ledger, name) for name in COUNTED)
    pipe.send((row, used, teacher.store.saved[KIND], error))
