"""Training jobs placed on the GPUs there are, each in a process of its own; run, watched, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from cultural_palette.artifacts import RunFolder
from cultural_palette.errors import PaletteError
from cultural_palette.training.identity import base_identity, identity
from cultural_palette.training.jobs import Job
from cultural_palette.training.orpo_settings import TrainingError

POLL_S = 0.2
Announce = Callable[[str], None]


class JobFailed(PaletteError):
    """A job that ended badly; names it and where it says why."""

    @classmethod
    def of(cls, failed: Sequence[Job], number: int) -> JobFailed:
        """What is said of those that failed among `number` jobs."""
        names = ", ".join(job.name for job in failed)
        return cls(
            f"{len(failed)} of {number} jobs failed: {names}. See {failed[0].out / 'log.txt'}; "
            "the rest is done."
        )


def devices() -> list[str]:
    """The GPUs there are, as CUDA_VISIBLE_DEVICES names them; none on a machine without."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def run_jobs(
    jobs: Sequence[Job], announce: Announce, gpus_per_job: int = 1, accelerate_config: Path | None = None
) -> None:
    """Run what is not finished: one job a GPU (or `gpus_per_job`), one at a time without GPUs.

    A failed job does not stop the others; at the end JobFailed names those that failed. Call again to go on.
    Raises TrainingError or ArtifactError, before any job starts, for a folder that another process works in
    or that holds a job of other data, another base or other settings. The jobs end with this process.
    """
    waiting = refuse_or_wait([replace(job, base_identity=base_identity(job.base)) for job in jobs], announce)
    slots = _slots(gpus_per_job)
    failed: list[Job] = []
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
    with _stopped_together(running):
        while waiting or running:
            for slot, visible in enumerate(slots):
                if waiting and slot not in running:
                    job = waiting.pop(0)
                    announce(f"{job.name}: starts on {'GPU ' + visible if visible else 'the CPU'}")
                    process = start_job(job, visible, gpus_per_job, accelerate_config)
                    running[slot] = (job, process, time.perf_counter())
            time.sleep(POLL_S)
            for slot, (job, process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                if process.returncode == 0 and job.finished:
                    announce(finished_words(job, time.perf_counter() - started))
                else:
                    failed.append(job)
                    announce(f"{job.name}: failed; {last_line(job)}")
    if failed:
        raise JobFailed.of(failed, len(jobs))


def refuse_or_wait(jobs: Sequence[Job], announce: Announce) -> list[Job]:
    """The jobs that are not finished; raises for a folder in use, or begun as another job."""
    waiting = []
    for job in jobs:
        if job.finished:
            _same_as_before(job)
            announce(f"{job.name}: finished before; left as it is")
        else:
            RunFolder(job.out, identity(job)).open().close()
            waiting.append(job)
    return waiting


def _slots(gpus_per_job: int) -> list[str]:
    """What each job may see, as CUDA_VISIBLE_DEVICES names it; one empty slot without GPUs."""
    gpus = devices()
    if gpus_per_job < 1 or (gpus and len(gpus) < gpus_per_job):
        raise TrainingError(f"gpus_per_job = {gpus_per_job}: there are {len(gpus)} GPUs")
    if not gpus:
        return [""]
    return [
        ",".join(gpus[start : start + gpus_per_job])
        for start in range(0, len(gpus) - gpus_per_job + 1, gpus_per_job)
    ]


def start_job(
    job: Job, visible: str | None, gpus: int, accelerate_config: Path | None
) -> subprocess.Popen[bytes]:
    """The job's process, which ends with this one. `visible`: the GPUs it may see, where we decide that."""
    job.write()
    tethered = [sys.executable, "-m", "cultural_palette.training.tethered", str(os.getpid())]
    command = [sys.executable, "-m", "cultural_palette.training.job", str(job.out)]
    if gpus > 1 or accelerate_config:
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(gpus)]
        launch += ["--config_file", str(accelerate_config)] if accelerate_config else ["--multi_gpu"]
        command = [*launch, "--main_process_port", "0", *command[1:]]
    environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    with (job.out / "log.txt").open("ab") as log:
        return subprocess.Popen([*tethered, *command], stdout=log, stderr=subprocess.STDOUT, env=environment)


@contextmanager
def _stopped_together(running: Mapping[int, tuple[Job, subprocess.Popen[bytes], float]]) -> Iterator[None]:
    """However this ends, by SIGTERM or its terminal's end too, no job is left running behind it."""
    try:
        with _ending_on_signals():
            yield
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as an exception does, and the process with their code."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heard = [number for number, handler in before.items() if handler != signal.SIG_IGN]  # as under nohup
    for number in heard:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


def _same_as_before(job: Job) -> None:
    """A finished job of other data, another base or other settings is not this one."""
    finished, wanted = RunFolder(job.out).manifest.get("identity", {}), identity(job)
    if changed := [key for key in wanted if finished.get(key) != wanted[key]]:
        raise TrainingError(
            f"{job.out} is finished, with another {', '.join(changed)}: "
            "take another --out, or remove that folder"
        )


def finished_words(job: Job, seconds: float) -> str:
    """The line for a job that has ended well."""
    measures = RunFolder(job.out).manifest["measures"]
    words = ", ".join(f"{key} {value:.3f}" for key, value in measures.items()) or "no measures"
    return f"{job.name}: finished in {seconds:.0f} s, {words}"


def last_line(job: Job) -> str:
    """The last line of a job's log that says something."""
    log = job.out / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "its log is empty")
