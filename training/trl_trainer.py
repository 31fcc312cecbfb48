"""TRL's ORPOTrainer, on one pair for each rejected answer and on the token sequences of our own trainer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from cultural_palette.training.orpo_settings import OrpoSettings
from cultural_palette.training.preferences import Group
from cultural_palette.training.sequences import IGNORED, encode
from cultural_palette.training.trainer_arguments import MarkWholeCheckpoints, trainer_arguments

TRL_NAMES = {
    "nll": "nll_loss",
    "odds_loss": "log_odds_ratio",
    "accuracy": "rewards/accuracies",
    "margin": "log_odds_chosen",
}


class PairTrainer(ORPOTrainer):
    """TRL's trainer under our measures' names; its NLL is over prompt and completion."""

    def ready(self) -> AbstractContextManager[None]:
        """Nothing to prepare."""
        return nullcontext()

    def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, Any]:
        """Nothing to add: `pair_row` tokenised."""
        return {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our measures to a row of the log."""
        prefix = "eval_" if any(key.startswith("eval_") for key in logs) else ""
        stored = self._stored_metrics["eval" if prefix else "train"]
        for ours, theirs in TRL_NAMES.items():
            if values := stored.get(prefix + theirs):
                sign = -1 if ours == "odds_loss" else 1
                logs[prefix + ours] = round(sign * float(sum(values) / len(values)), 4)
        super().log(logs, start_time)


def build_trl_trainer(
    model: Any,
    tokenizer: Any,
    train: Sequence[Group],
    held_out: Sequence[Group],
    checkpoints: Path,
    settings: OrpoSettings,
) -> PairTrainer:
    """TRL's trainer; its batches hold as many pairs as ours hold rejected answers."""

    def pairs_of(groups: Sequence[Group]) -> Dataset:
        return Dataset.from_list(
            [
                pair_row(tokenizer, group, rejected, settings.max_length)
                for group in groups
                for rejected in group["rejected"]
            ]
        )

    arguments = trainer_arguments(settings, checkpoints, bool(held_out))
    arguments["per_device_train_batch_size"] = settings.batch_size * len(train[0]["rejected"])
    config = ORPOConfig(
        **arguments, beta=settings.weight, max_length=settings.max_length, disable_dropout=False
    )
    return PairTrainer(
        model=model,
        args=config,
        train_dataset=pairs_of(train),
        eval_dataset=pairs_of(held_out) if held_out else None,
        processing_class=tokenizer,
        callbacks=[MarkWholeCheckpoints()],
    )


def pair_row(tokenizer: Any, group: Group, rejected: str, max_length: int) -> dict[str, Any]:
    """One pair as TRL's collator takes it, tokens and all."""
    row: dict[str, Any] = {"prompt": "", "chosen": group["chosen"], "rejected": rejected}
    for name, text in (("chosen", group["chosen"]), ("rejected", rejected)):
        sequence = encode(tokenizer, group["prompt"], text, max_length)
        row[f"{name}_input_ids"], row[f"{name}_labels"] = sequence["input_ids"], sequence["labels"]
        row[f"{name}_attention_mask"] = [1] * len(sequence["input_ids"])
    prompt_ids = [
        token
        for token, label in zip(row["chosen_input_ids"], row["chosen_labels"], strict=True)
        if label == IGNORED
    ]
    row["prompt_input_ids"], row["prompt_attention_mask"] = prompt_ids, [1] * len(prompt_ids)
    return row
