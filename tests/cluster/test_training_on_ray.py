"""`palette train --on ray`: the weights of one machine, also when a job's worker is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from cultural_palette.artifacts import RunFolder
from cultural_palette.training.checkpoints import last_whole_checkpoint
from cultural_palette.training.jobs import lay_out_jobs
from cultural_palette.training.launch import run_jobs
from cultural_palette.training.on_cluster import train_on_cluster
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError
from tests.cluster.conftest import RayNodes, ended, wait_for
from tests.training.conftest import tiny as tiny
from tests.training.test_train import KEYS, MAP, answers, weights

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(420)]
SETTINGS = OrpoSettings(rank=4, batch_size=2, max_length=64, epochs=12, save_steps=10, logging_steps=5)


def test_a_job_whose_worker_is_killed_goes_on_to_one_machines_weights(
    ray_nodes: RayNodes, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray sets it for a task of one CPU
    data, poles = tmp_path / "answers.jsonl", tmp_path / "poles.yaml"
    data.write_text(answers())
    poles.write_text(MAP)
    run_jobs(
        lay_out_jobs(str(tiny[2]), data, tmp_path / "one", KEYS, SETTINGS, joint=False), lambda line: None
    )

    command = [
        "train", "--map", str(poles), "--data", str(data), "--base", str(tiny[2]), "--no-joint",
        "--out", str(tmp_path / "many"), "--on", "ray",
    ]  # fmt: skip
    for name in ("rank", "batch_size", "max_length", "epochs", "save_steps", "logging_steps"):
        command += ["--set", f"{name}={getattr(SETTINGS, name)}"]
    driver = ray_nodes.driver(*command)
    checkpoints = tmp_path / "many" / "run-1" / "north" / "checkpoints"
    wait_for(lambda: last_whole_checkpoint(checkpoints), driver, seconds=150)
    for pid in ray_nodes.working("train_job"):  # both jobs', their trainers end with them
        os.kill(pid, signal.SIGKILL)
    printed = ended(driver, seconds=200)
    assert "run-1/north: finished in" in printed and "run-1/south: finished in" in printed
    for agent in KEYS:
        one, many = (tmp_path / name / "run-1" / agent for name in ("one", "many"))
        assert RunFolder(many).manifest["files"] == RunFolder(one).manifest["files"]  # SHA-256 of the weights


def test_more_gpus_than_there_are(
    ray_nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_nodes.address)
    jobs = lay_out_jobs("base", tmp_path / "answers.jsonl", tmp_path / "out", KEYS, SETTINGS)
    with pytest.raises(TrainingError, match="gpus_per_job = 2: the cluster has 0 GPUs"):
        train_on_cluster(jobs, lambda line: None, "ray", gpus_per_job=2)
    assert not (tmp_path / "out").exists()


def test_two_gpus_of_a_node_work_in_one_job(
    ray_nodes: RayNodes, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hands out two GPUs, only counted here; accelerate starts two processes for them, which share
    out the groups by gloo: as one process with twice the batch, whose NLL over answers of equal length is the
    mean of theirs.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data, poles = tmp_path / "answers.jsonl", tmp_path / "poles.yaml"
    rows = [
        {"prompt": "hello", "responses": {"north": a, "south": b}}
        for a, b in [("ab", "cd"), ("da", "bc"), ("ba", "dc"), ("cb", "ad")] * 2
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    poles.write_text(MAP)
    settings = replace(SETTINGS, epochs=2, dropout=0.0, save_steps=100)
    run_jobs(
        lay_out_jobs(str(tiny[2]), data, tmp_path / "one", KEYS, settings, joint=False), lambda line: None
    )
    node = ray_nodes.add(num_gpus=2)
    try:
        command = [
            "train", "--map", str(poles), "--data", str(data), "--base", str(tiny[2]), "--no-joint",
            "--out", str(tmp_path / "two"), "--on", "ray", "--gpus-per-job", "2",
        ]  # fmt: skip
        for name in ("rank", "max_length", "epochs", "dropout", "save_steps", "logging_steps"):
            command += ["--set", f"{name}={getattr(settings, name)}"]
        ended(ray_nodes.driver(*command, "--set", f"batch_size={settings.batch_size // 2}"), seconds=300)
    finally:
        ray_nodes.remove(node)
    for agent in KEYS:
        one, two = (tmp_path / name / "run-1" / agent for name in ("one", "two"))
        steps = [max(row["step"] for row in RunFolder(folder).rows()) for folder in (one, two)]
        assert steps[0] == steps[1]
        alone, together = weights(one), weights(two)
        for key, value in alone.items():
            assert torch.allclose(value, together[key], atol=2e-5), key
