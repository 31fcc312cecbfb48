"""Training jobs on a cluster: agents x runs x joint, each a Ray task with the GPUs it needs.

A job is the same process as on one machine, whichever trainer its settings name; several GPUs of one node
work in it by accelerate (FSDP, where its config says so). Its folder, checkpoints included, lies on a disk
that all nodes share, so that a job whose node died goes on elsewhere from its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cultural_palette.cluster import ray_engine
from cultural_palette.cluster.storage import Storage
from cultural_palette.training.identity import base_identity
from cultural_palette.training.jobs import Job
from cultural_palette.training.launch import (
    Announce,
    JobFailed,
    finished_words,
    last_line,
    refuse_or_wait,
    start_job,
)
from cultural_palette.training.orpo_settings import TrainingError

PACKAGES = ("cultural-palette", "torch", "transformers", "peft", "accelerate", "trl")


@dataclass(frozen=True)
class HowTrained:
    """What all jobs have in common. `gpus`: of one job; 0 on a cluster without any."""

    gpus: int
    accelerate_config: Path | None
    inputs: tuple[Path, ...]

    def check(self) -> None:
        """Raise for a file of the driver's that a node does not see."""
        for file in self.inputs:
            if not file.exists():
                raise TrainingError(f"{file} is not on every node: keep data and base on a shared disk.")


@dataclass(frozen=True)
class JobOutcome:
    """How a job's process ended. `seconds`: how long it took."""

    code: int
    seconds: float


def train_on_cluster(
    jobs: Sequence[Job],
    announce: Announce,
    where: str,
    gpus_per_job: int = 1,
    accelerate_config: Path | None = None,
) -> None:
    """As `run_jobs`, on the cluster `where`. Without GPUs in the cluster each job takes one CPU of a node."""
    jobs = [_absolute(job) for job in jobs]
    config = accelerate_config and accelerate_config.absolute()
    out = jobs[0].out.parent.parent
    with ray_engine.connected(where) as cluster, cluster.claim(str(out)):
        gpus = gpus_per_job if cluster.total("GPU") else 0
        if gpus > cluster.total("GPU"):
            raise TrainingError(f"gpus_per_job = {gpus}: the cluster has {cluster.total('GPU'):.0f} GPUs")
        if gpus_per_job > 1 and not gpus:
            raise TrainingError(f"gpus_per_job = {gpus_per_job}: the cluster has 0 GPUs")
        base = Path(jobs[0].base)
        inputs = {path for job in jobs for path in job.inputs} | ({base} if base.is_absolute() else set())
        shared = HowTrained(gpus, config, tuple(sorted(inputs | ({config} if config else set()))))
        cluster.check_nodes([Storage(str(out))], PACKAGES, shared.check)
        waiting = refuse_or_wait(
            [replace(job, base_identity=base_identity(job.base)) for job in jobs], announce
        )
        failed: list[Job] = []

        def took(job: Job, outcome: JobOutcome) -> None:
            if outcome.code == 0 and job.finished:
                announce(finished_words(job, outcome.seconds))
            else:
                failed.append(job)
                announce(f"{job.name}: failed; {last_line(job)}")

        needs = ray_engine.Needs(cpus=1, gpus=gpus)
        cluster.run(train_job, shared, iter(waiting), took, needs, PACKAGES)
    if failed:
        raise JobFailed.of(failed, len(jobs))


def train_job(shared: HowTrained, job: Job) -> JobOutcome:
    """Run a job's process on a node, which ends with the task. Ray shows it the GPUs it has been given."""
    started = time.perf_counter()
    if job.finished:  # by an attempt whose worker died before it could say so
        return JobOutcome(0, 0.0)
    process = start_job(job, None, shared.gpus, shared.accelerate_config)
    try:
        return JobOutcome(process.wait(), time.perf_counter() - started)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def _absolute(job: Job) -> Job:
    """Paths as every node is told them; a hub's name stays."""
    base = str(Path(job.base).absolute()) if Path(job.base).exists() else job.base
    data, shares = (path and path.absolute() for path in (job.data, job.shares))
    return replace(job, out=job.out.absolute(), data=data, shares=shares, base=base)
