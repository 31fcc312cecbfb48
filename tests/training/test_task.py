"""The task adapter: what its loss is, how batches are laid out, and a run that goes on after kill -9."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from cultural_palette.artifacts import RunFolder  # noqa: E402
from cultural_palette.errors import ArtifactError  # noqa: E402
from cultural_palette.training import task  # noqa: E402
from cultural_palette.training.orpo_settings import OrpoSettings  # noqa: E402
from cultural_palette.training.preferences import PreferenceRowError  # noqa: E402
from cultural_palette.training.task import Tokens, batches, collate, planned, task_loss, tune  # noqa: E402

SETTINGS = OrpoSettings(
    learning_rate=2e-3, epochs=1, rank=4, dropout=0.0, max_length=64, save_steps=2, logging_steps=1
)


def rows(count: int = 12) -> list[dict[str, Any]]:
    found = []
    for n in range(count):
        prompt = [{"role": "user", "content": "hello " * (1 + n % 3) + str(n)}]
        letters = {"a": 0.75, "b": 0.25} if n % 2 else None
        found.append(
            {"form": "decide", "prompt": prompt, "response": "a" if n % 2 else "good day", "shares": letters}
        )
    return found


def test_examples_count_alike_and_a_letter_learns_the_whole_distribution() -> None:
    vocabulary = 6
    batch = [Tokens([1, 2, 3, 4], [-100, -100, 3, 4], None), Tokens([1, 5], [-100, 5], {5: 0.75, 0: 0.25})]
    laid = collate(batch, pad_id=0)
    assert laid["where"].tolist() == [1, 2, 4]  # of (2, 4) positions: row 0 at 1 and 2, row 1 at 0
    logps = torch.log_softmax(torch.arange(3 * vocabulary).view(3, -1).float() % 5, -1)
    text = -(logps[0, 3] + logps[1, 4]) / 2  # mean over the two tokens of the first
    letter = -(0.75 * logps[2, 5] + 0.25 * logps[2, 0])  # expected over the second's letters
    assert task_loss(logps, laid).item() == pytest.approx(((text + letter) / 2).item())


def test_batches_hold_like_lengths_and_no_more_than_they_may() -> None:
    sequences = [Tokens([0] * n, [-100] * (n - 1) + [1], None) for n in (30, 5, 6, 90, 7, 31)]
    laid = batches(sequences, most=64)
    assert [[len(each.input_ids) for each in batch] for batch in laid] == [[5, 6, 7], [30, 31], [90]]


def test_the_adapter_learns_and_says_what_it_read(tiny: Any, tmp_path: Path) -> None:
    plan = planned(tiny[2], rows(), SETTINGS)
    assert plan["forms"]["decide"]["examples"] == plan["examples"] == 12
    longer = replace(SETTINGS, epochs=12, learning_rate=2e-2)
    manifest = tune(tiny[2], rows(), tmp_path / "task", longer)
    logged = [row["loss"] for row in RunFolder(tmp_path / "task").rows() if "loss" in row]
    assert sum(logged[-3:]) < 0.9 * sum(logged[:3])
    assert all(math.isfinite(each) for each in logged)
    assert set(manifest["files"]) == {"adapter_model.safetensors"}
    kept = tune(tiny[2], rows(), tmp_path / "task", longer)
    assert kept == json.loads(json.dumps(manifest))


def test_what_max_length_cuts_is_counted(tiny: Any, tmp_path: Path) -> None:
    short = replace(SETTINGS, max_length=24)
    long = [{**row, "prompt": [{"role": "user", "content": "hello " * 40}]} for row in rows(2)]
    long += [{**rows(1)[0], "response": "good day " * 30}]
    assert planned(tiny[2], rows(), SETTINGS)["cut"] == {"prompts": 0, "replies": 0}
    assert planned(tiny[2], long, short)["cut"] == {"prompts": 2, "replies": 1}
    assert tune(tiny[2], long, tmp_path / "task", short)["cut"] == {"prompts": 2, "replies": 1}
    with pytest.raises(PreferenceRowError, match=r"example 2: .*raise max_length"):
        planned(
            tiny[2], [rows(1)[0], {**long[0], "prompt": [*long[0]["prompt"] * 4, *long[0]["prompt"]]}], short
        )


def test_other_rows_are_another_run(tiny: Any, tmp_path: Path) -> None:
    tune(tiny[2], rows(), tmp_path / "task", SETTINGS)
    with pytest.raises(ArtifactError):
        tune(tiny[2], rows(11), tmp_path / "task", SETTINGS)


def test_a_stopped_run_ends_with_the_same_weights(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    monkeypatch.setattr(task, "batches", lambda sequences: batches(sequences, most=24))  # more steps
    tune(tiny[2], rows(), tmp_path / "whole", SETTINGS)

    class Stopped(BaseException):
        """As a kill: nothing after it runs."""

    append = RunFolder.append

    def dying(self: RunFolder, row: Any) -> None:
        append(self, row)
        if row.get("step") == 3:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(RunFolder, "append", dying)
        tune(tiny[2], rows(), tmp_path / "broken", SETTINGS)
    assert not RunFolder(tmp_path / "broken").finished
    tune(tiny[2], rows(), tmp_path / "broken", SETTINGS)
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[key], other[key]) for key in one)
