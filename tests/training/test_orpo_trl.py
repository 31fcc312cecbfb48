"""Loss and gradients of a group against TRL's own ORPO trainer on its pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl.experimental.orpo")

from cultural_palette.training.align import align  # noqa: E402
from cultural_palette.training.grouped_trainer import Lessons  # noqa: E402
from cultural_palette.training.orpo_settings import OrpoSettings  # noqa: E402
from cultural_palette.training.trainers import build_trainer, load_model  # noqa: E402

PROMPT = [{"role": "user", "content": "hello"}]
ROWS = [
    {"prompt": PROMPT, "chosen": "good day a b", "rejected": ["bad night", "b c d", "yes", "word indeed a"]}
]


def loss_and_gradients(base: Path, rows: list[dict[str, Any]], tmp_path: Path, **changes: Any) -> Any:
    from transformers import AutoTokenizer

    given: dict[str, Any] = {"weight": 0.7, "rank": 4, "dropout": 0.0, "batch_size": 1, "max_length": 64}
    settings = OrpoSettings(**given | changes)
    torch.manual_seed(1)
    model = load_model(base, settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(2))
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = build_trainer(
        model, tokenizer, Lessons(rows), Lessons(), tmp_path / "checkpoints", settings, None
    )
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(trainer.train_dataset))])
    with trainer.ready():
        loss = trainer.compute_loss(model, batch)
        loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rejected", [1, 4])
@pytest.mark.parametrize("layout", ["rows", "packed", "prompt_once"])
def test_a_group_is_the_mean_of_trls_pairs(
    tiny: tuple[Any, Any, Path], tmp_path: Path, rejected: int, layout: str
) -> None:
    base = tiny[2]
    rows = [{**ROWS[0], "rejected": ROWS[0]["rejected"][:rejected]}]
    theirs, wanted = loss_and_gradients(base, rows, tmp_path / "trl", trainer="trl")
    ours, got = loss_and_gradients(base, rows, tmp_path / "ours", layout=layout, nll="prompt_and_completion")
    assert ours == pytest.approx(theirs, abs=2e-6)
    assert got.keys() == wanted.keys() and got
    for name, gradient in wanted.items():
        assert torch.allclose(got[name], gradient, atol=1e-6), name


def test_the_default_nll_is_over_the_completion_only(tiny: tuple[Any, Any, Path], tmp_path: Path) -> None:
    whole, _ = loss_and_gradients(tiny[2], ROWS, tmp_path / "whole", nll="prompt_and_completion")
    completion, _ = loss_and_gradients(tiny[2], ROWS, tmp_path / "completion")
    assert abs(whole - completion) > 1e-3


def test_trls_trainer_trains_behind_the_same_settings(tiny: tuple[Any, Any, Path], tmp_path: Path) -> None:
    settings = OrpoSettings(
        trainer="trl",
        learning_rate=5e-3,
        epochs=4,
        rank=4,
        dropout=0.0,
        batch_size=2,
        max_length=64,
        save_steps=2,
        eval_ratio=0.25,
    )
    rows = [{**ROWS[0], "prompt": [{"role": "user", "content": f"hello {n}"}]} for n in range(8)]
    measures = align(tiny[2], rows, tmp_path / "adapter", settings)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert {"nll", "odds_loss", "accuracy", "margin", "eval_loss", "eval_accuracy"} <= measures.keys()
    assert measures["eval_accuracy"] == 1
