"""Two trainers behind one set of settings: ours on groups, TRL's own on pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from cultural_palette.errors import UsageError
from cultural_palette.training.grouped_trainer import Lessons, build_grouped_trainer
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError, resolve_layout
from cultural_palette.training.trainer_arguments import LogReporter, Report


def load_model(base: str | Path, settings: OrpoSettings, start: Path | None = None) -> Any:
    """The base with a fresh LoRA adapter, or itself with `rank=0`. `start`: a folder with the weights that
    the adapter has at first.

    Float32 for what learns; a frozen base is held in bfloat16 or float16 when that is the precision. Raises
    TrainingError when the base has none of the target modules, or `start` is another kind of adapter.
    """
    _, attention = resolve_layout(settings, torch.cuda.is_available())
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision, torch.float32)
    dtype = half if settings.rank else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation=attention)
    if settings.gradient_checkpointing:
        model.config.use_cache = False
        if settings.rank:
            model.enable_input_require_grads()
    if not settings.rank:
        return model
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.lora_targets,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, lora)
    except ValueError as error:
        raise TrainingError(f"targets {', '.join(settings.targets)} do not fit {base}: {error}") from None
    if start is not None:
        _begin_with(adapted, start)
    return adapted


def _begin_with(model: Any, start: Path) -> None:
    """The weights of `start` in the place of the fresh adapter's. Raises TrainingError."""
    try:
        weights = load_peft_weights(str(start), device="cpu")
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f"no adapter to go on from in {start}: {error}") from None
    own = get_peft_model_state_dict(model)
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    if {key: tuple(value.shape) for key, value in weights.items()} != shapes:
        raise TrainingError(f"the adapter in {start} has other modules or another rank than these settings")
    set_peft_model_state_dict(model, weights)


def build_trainer(
    model: Any,
    tokenizer: Any,
    train: Lessons,
    held_out: Lessons,
    checkpoints: Path,
    settings: OrpoSettings,
    report: Report | None,
) -> Any:
    """A transformers Trainer with `ready()`, a context to train in. `report` gets every logged row.

    Raises UsageError when TRL is asked for and its ORPO can not be imported.
    """
    if settings.trainer == "trl":
        try:
            from cultural_palette.training.trl_trainer import build_trl_trainer as build
        except ImportError as error:
            raise UsageError(
                f"--trainer trl needs TRL's experimental ORPO ({error}): pip install 'trl>=1.16,<1.17'"
            ) from None
        trainer: Any = build(model, tokenizer, train.groups, held_out.groups, checkpoints, settings)
    else:
        trainer = build_grouped_trainer(model, tokenizer, train, held_out, checkpoints, settings)
    if report is not None:
        trainer.add_callback(LogReporter(report))
    return trainer
