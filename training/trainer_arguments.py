"""What both trainers share: transformers' arguments out of our settings, the log, whole checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cultural_palette.training.checkpoints import mark_whole
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError

Report = Callable[[Mapping[str, Any]], None]


def trainer_arguments(settings: OrpoSettings, checkpoints: Path, evaluates: bool) -> dict[str, Any]:
    """The keyword arguments that transformers' TrainingArguments and TRL's ORPOConfig take alike.

    `evaluates`: whether there are held-out groups. Raises TrainingError for fp16 without a GPU.
    """
    gpu = torch.cuda.is_available()
    if settings.precision == "fp16" and not gpu:
        raise TrainingError("precision fp16 needs a GPU; use float32 or bf16 here")
    arguments: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "warmup_steps": settings.warmup_ratio,  # under 1: a share of the steps
        "lr_scheduler_type": settings.scheduler,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "logging_steps": settings.logging_steps,
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": settings.save_steps,
        "report_to": list(settings.report_to),
        "seed": settings.seed,
        "remove_unused_columns": False,
        "use_cpu": not gpu,
        "disable_tqdm": True,
        "bf16": settings.precision == "bf16",
        "fp16": settings.precision == "fp16",
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": gpu,
        "gradient_checkpointing": settings.gradient_checkpointing,  # TRL's own default is on
    }
    if settings.gradient_checkpointing:
        arguments["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    return arguments


class MarkWholeCheckpoints(TrainerCallback):
    """Marks each checkpoint once everything of it is on the disk."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer when a checkpoint's files are written."""
        if args.should_save and args.output_dir is not None:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class LogReporter(TrainerCallback):
    """Hands every logged row to `report`, on the first process only."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Called by the Trainer with a row of its log."""
        if state.is_world_process_zero and logs:
            self.report({"step": state.global_step, **logs})
