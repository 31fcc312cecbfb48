"""One agent for every community, and the joint model: jobs laid out, placed on the GPUs there are, run,
restarted.

OUT/run-1/africa/   adapter, rows.jsonl (the log), log.txt, manifest.json when finished
OUT/run-1/joint/
OUT/run-2/..        another seed
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import RunFolder
from cultural_palette.errors import PaletteError
from cultural_palette.suggestions import did_you_mean
from cultural_palette.training.job import JOINT, Job
from cultural_palette.training.orpo import OrpoSettings, TrainingError
from cultural_palette.training.preferences import check_groups, read_groups

CONFIG_KEYS = ("base", "map", "orpo")
POLL_S = 0.2


class JobFailed(PaletteError):
    """A job that ended badly; names it and where it says why."""


@dataclass(frozen=True)
class TrainConfig:
    """A YAML file of training/configs: which base, which map, which settings."""

    base: str | None = None
    map: str | None = None
    orpo: OrpoSettings = field(default_factory=OrpoSettings)


def load_config(path: Path) -> TrainConfig:
    """Read a config; unknown keys and values that do not fit raise TrainingError with file and key."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise TrainingError(f"No file {path}; training/configs has some to begin with.") from None
    except (OSError, yaml.YAMLError) as error:
        raise TrainingError(f"{path} can not be read: {error}") from None
    if not isinstance(data, dict):
        raise TrainingError(f"{path}: expected {', '.join(CONFIG_KEYS)}, found {type(data).__name__}")
    _refuse_unknown(data, CONFIG_KEYS, str(path))
    return TrainConfig(
        data.get("base"), data.get("map"), settings_from(data.get("orpo") or {}, f"{path}: orpo")
    )


def settings_from(values: Mapping[str, Any], where: str, start: OrpoSettings | None = None) -> OrpoSettings:
    """Settings with these values in the place of `start`'s; raises TrainingError, `where` first."""
    from pydantic import TypeAdapter, ValidationError

    start = start or OrpoSettings()
    names = [each.name for each in fields(OrpoSettings)]
    _refuse_unknown(values, names, where)
    merged = {name: getattr(start, name) for name in names} | dict(values)
    try:
        return TypeAdapter(OrpoSettings).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        raise TrainingError(f"{where}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except TrainingError as error:
        raise TrainingError(f"{where}: {error}") from None


def _refuse_unknown(data: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in data:
        if key not in known:
            hint = did_you_mean(str(key), known) or f" Known are {', '.join(known)}."
            raise TrainingError(f"{where}: unknown key {key!r}.{hint}")


def lay_out_jobs(
    base: str,
    data: Path,
    out: Path,
    communities: Sequence[str],
    settings: OrpoSettings,
    runs: int = 1,
    only: Sequence[str] = (),
    joint: bool = True,
) -> list[Job]:
    """One job for each run and agent, run by run; run k has the seed `settings.seed + k - 1`.

    `only`: these agents ("joint" is one). Raises TrainingError for an agent that the map has not.
    """
    agents = [*communities, JOINT] if joint else [*communities]
    if unknown := [name for name in only if name not in (*communities, JOINT)]:
        raise TrainingError(f"No agent {unknown[0]!r}: there are {', '.join((*communities, JOINT))}")
    if runs < 1:
        raise TrainingError(f"runs = {runs}: at least 1")
    return [
        Job(
            agent=agent,
            run=run,
            out=out / f"run-{run}" / agent,
            base=base,
            data=data,
            communities=tuple(communities),
            settings=replace(settings, seed=settings.seed + run - 1),
        )
        for run in range(1, runs + 1)
        for agent in (only or agents)
    ]


def check_data(jobs: Sequence[Job]) -> None:
    """Read the data once and refuse what would stop a job later."""
    for job in jobs[:1]:
        for key, rows in read_groups(job.data, job.communities).items():
            if key in {each.agent for each in jobs} or JOINT in {each.agent for each in jobs}:
                check_groups(rows, f"{job.data}, {key}")


def check_base(base: str) -> None:
    """Refuse a base that transformers does not know or that has no chat template, before any job starts."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config, tokenizer = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        told = str(error).strip().splitlines()[0]
        raise TrainingError(f"base {base!r} can not be loaded: {told}") from None
    if not any(name.endswith("ForCausalLM") for name in config.architectures or ()):
        raise TrainingError(
            f"base {base!r} is {', '.join(config.architectures or ['of no named kind'])}, no causal LM"
        )
    if not tokenizer.chat_template:
        raise TrainingError(f"base {base!r} has no chat template: take an instruction-tuned one")


def devices() -> list[str]:
    """The GPUs there are, as CUDA_VISIBLE_DEVICES names them; none on a machine without."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


Say = Callable[[str], None]


def run_jobs(
    jobs: Sequence[Job], say: Say, gpus_per_job: int = 1, accelerate_config: Path | None = None
) -> None:
    """Run what is not finished: one job a GPU (or `gpus_per_job`), one at a time without GPUs. A failed job
    does not stop the others; at the end JobFailed names those that failed. Call again to go on.
    """
    waiting = []
    for job in jobs:
        if job.finished:
            _same_as_before(job)
            say(f"{job.name}: finished before; left as it is")
        else:
            waiting.append(job)
    slots = _slots(gpus_per_job)
    failed: list[Job] = []
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
    with _stopped_together(running):
        while waiting or running:
            for slot, visible in enumerate(slots):
                if waiting and slot not in running:
                    job = waiting.pop(0)
                    say(f"{job.name}: starts on {'GPU ' + visible if visible else 'the CPU'}")
                    process = _start(job, visible, gpus_per_job, accelerate_config)
                    running[slot] = (job, process, time.perf_counter())
            time.sleep(POLL_S)
            for slot, (job, process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                if process.returncode == 0 and job.finished:
                    say(f"{job.name}: finished in {time.perf_counter() - started:.0f} s, {_measures(job)}")
                else:
                    failed.append(job)
                    say(f"{job.name}: failed; {_last_line(job)}")
    if failed:
        names = ", ".join(job.name for job in failed)
        raise JobFailed(
            f"{len(failed)} of {len(jobs)} jobs failed: {names}. See {failed[0].out / 'log.txt'}; "
            "the rest is done."
        )


def _slots(gpus_per_job: int) -> list[str]:
    found = devices()
    if gpus_per_job < 1 or (found and len(found) < gpus_per_job):
        raise TrainingError(f"gpus_per_job = {gpus_per_job}: there are {len(found)} GPUs")
    if not found:
        return [""]
    return [
        ",".join(found[at : at + gpus_per_job])
        for at in range(0, len(found) - gpus_per_job + 1, gpus_per_job)
    ]


def _start(job: Job, visible: str, gpus: int, accelerate_config: Path | None) -> subprocess.Popen[bytes]:
    job.write()
    command = [sys.executable, "-m", "cultural_palette.training.job", str(job.out)]
    if gpus > 1 or accelerate_config:
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(gpus)]
        launch += ["--config_file", str(accelerate_config)] if accelerate_config else ["--multi_gpu"]
        command = [*launch, "--main_process_port", "0", *command[1:]]
    environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    with (job.out / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


@contextmanager
def _stopped_together(running: Mapping[int, tuple[Job, subprocess.Popen[bytes], float]]) -> Iterator[None]:
    """However this ends, no job is left running behind it."""
    try:
        yield
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _same_as_before(job: Job) -> None:
    """A finished job of another config is not this one."""
    there, wanted = RunFolder(job.out).manifest, job.config()
    wanted["settings"] = {k: list(v) if isinstance(v, tuple) else v for k, v in wanted["settings"].items()}
    if changed := [key for key in wanted if there.get(key) != wanted[key]]:
        raise TrainingError(
            f"{job.out} is finished, with another {', '.join(changed)}: "
            "take another --out, or remove that folder"
        )


def _measures(job: Job) -> str:
    found = RunFolder(job.out).manifest["measures"]
    return ", ".join(f"{key} {value:.3f}" for key, value in found.items()) or "no measures"


def _last_line(job: Job) -> str:
    log = job.out / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
