"""Two trainers behind one set of settings: ours on groups, TRL's own on pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from cultural_palette.errors import UsageError
from cultural_palette.training.checkpoints import mark_whole
from cultural_palette.training.logps import answering_with_logps
from cultural_palette.training.orpo import (
    OrpoSettings,
    PreferenceRowError,
    Report,
    TrainingError,
    chosen_layout,
    orpo_loss,
)
from cultural_palette.training.sequences import IGNORED, encode, encode_group, lay_out

MEASURES = ("nll", "odds_loss", "accuracy", "margin")


def load_model(base: str | Path, settings: OrpoSettings) -> Any:
    """The base with a fresh LoRA adapter, or itself with `rank=0`. Float32 for what learns; a frozen base is
    held in bfloat16 / float16 when the precision is."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    _, attention = chosen_layout(settings, torch.cuda.is_available())
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision, torch.float32)
    dtype = half if settings.rank else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation=attention)
    if settings.gradient_checkpointing:
        model.config.use_cache = False
        if settings.rank:
            model.enable_input_require_grads()
    if not settings.rank:
        return model
    targets = "all-linear" if settings.targets == ("all-linear",) else list(settings.targets)
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise TrainingError(f"targets {', '.join(settings.targets)} do not fit {base}: {error}") from None


def arguments(settings: OrpoSettings, checkpoints: Path, held_out: bool) -> dict[str, Any]:
    """What transformers' and TRL's trainer take alike."""
    import torch

    gpu = torch.cuda.is_available()
    if settings.precision == "fp16" and not gpu:
        raise TrainingError("precision fp16 needs a GPU; use float32 or bf16 here")
    checkpointing: dict[str, Any] = {
        "gradient_checkpointing": settings.gradient_checkpointing
    }  # TRL's own default is on
    if settings.gradient_checkpointing:
        checkpointing["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    return {
        "output_dir": str(checkpoints),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "warmup_steps": settings.warmup_ratio,
        "lr_scheduler_type": settings.scheduler,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "logging_steps": settings.logging_steps,
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "eval_strategy": "steps" if held_out else "no",
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
    } | checkpointing


def build_trainer(
    model: Any,
    tokenizer: Any,
    train: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
    checkpoints: Path,
    settings: OrpoSettings,
    report: Report | None,
) -> Any:
    """A transformers Trainer with `ready()`, a context to train in."""
    build = {"grouped": _grouped, "trl": _trl}[settings.trainer]
    trainer = build(model, tokenizer, train, held_out, checkpoints, settings)
    if report is not None:
        trainer.add_callback(_reporting(report))
    return trainer


def _grouped(
    model: Any, tokenizer: Any, train: Any, held_out: Any, checkpoints: Path, settings: OrpoSettings
) -> Any:
    import torch
    from transformers import Trainer, TrainingArguments

    layout, _ = chosen_layout(settings, torch.cuda.is_available())
    window = getattr(model.config, "sliding_window", None)
    if (
        layout == "packed"
        and window
        and window < settings.max_length
        and getattr(model.config, "use_sliding_window", True)
    ):
        layout = "rows"  # our block mask has no window
    size = 1 + len(train[0]["rejected"])
    prompt_too = settings.nll == "prompt_and_completion"

    class GroupedTrainer(Trainer):
        """One chosen answer against all others of its prompt, in one pass."""

        loss_is_scaled_for_ga = False

        @contextmanager
        def ready(self) -> Iterator[None]:
            self.stored: dict[str, list[Any]] = {}
            with answering_with_logps(model, prompt_too):
                yield

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, torch.Tensor],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            logps = model(batch=inputs)
            prompt = (logps["prompts"], inputs["prompt_lengths"]) if prompt_too else None
            sums, lengths = logps["answers"].view(-1, size), inputs["lengths"].view(-1, size)
            loss, measures = orpo_loss(sums, lengths, settings.weight, prompt)
            prefix = "" if model.training else "eval_"
            for key, value in measures.items():
                self.stored.setdefault(prefix + key, []).append(value)
            return (loss, measures) if return_outputs else loss

        def prediction_step(
            self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
        ) -> tuple[Any, None, None]:
            with torch.no_grad():
                loss = self.compute_loss(model, self._prepare_inputs(inputs))
            return loss.detach(), None, None

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            self.collected: dict[str, float] = {}
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics | self.collected

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            prefix = "eval_" if "eval_loss" in logs else ""
            if prefix or "loss" in logs or "train_loss" in logs:  # the last, of a run's end, has what is left
                measures = self._means(prefix)
                if prefix:
                    self.collected = measures
                logs |= measures
            super().log(logs, start_time)

        def _means(self, prefix: str) -> dict[str, float]:
            """Means over the batches since the last log and over the processes."""
            names = [prefix + key for key in MEASURES if prefix + key in self.stored]
            if not names:
                return {}
            means = torch.stack([torch.stack(self.stored.pop(name)).mean() for name in names])
            means = self.accelerator.reduce(means, "mean")
            return {name: round(float(value), 4) for name, value in zip(names, means, strict=True)}

        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            super()._save_checkpoint(*args, **kwargs)
            _mark(self)

    def groups(rows: Any) -> list[dict[str, Any]]:
        return [{"group": encode_group(tokenizer, row, settings.max_length)} for row in rows]

    return GroupedTrainer(
        model=model,
        args=TrainingArguments(**arguments(settings, checkpoints, bool(held_out))),
        train_dataset=groups(train),
        eval_dataset=groups(held_out) if held_out else None,
        data_collator=lambda batch: lay_out(
            [each["group"] for each in batch], layout, tokenizer.pad_token_id
        ),
    )


def _trl(
    model: Any, tokenizer: Any, train: Any, held_out: Any, checkpoints: Path, settings: OrpoSettings
) -> Any:
    """TRL's ORPOTrainer on one pair for each rejected answer; our token sequences, so that both train on the
    same."""
    try:
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    except ImportError as error:
        raise UsageError(
            f"--trainer trl needs TRL's experimental ORPO ({error}): pip install 'trl>=1.16'"
        ) from None
    from datasets import Dataset

    pairs = len(train[0]["rejected"])

    class PairTrainer(ORPOTrainer):
        """TRL's trainer; its NLL is over prompt and completion."""

        def ready(self) -> Any:
            return nullcontext()

        def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, Any]:
            return {}  # done by pair_row

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            prefix = "eval_" if any(key.startswith("eval_") for key in logs) else ""
            stored = self._stored_metrics["eval" if prefix else "train"]
            names = {
                "nll": "nll_loss",
                "odds_loss": "log_odds_ratio",
                "accuracy": "rewards/accuracies",
                "margin": "log_odds_chosen",
            }
            for ours, theirs in names.items():
                if values := stored.get(prefix + theirs):
                    sign = -1 if ours == "odds_loss" else 1
                    logs[prefix + ours] = round(sign * float(sum(values) / len(values)), 4)
            super().log(logs, start_time)

        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            super()._save_checkpoint(*args, **kwargs)  # type: ignore[no-untyped-call]
            _mark(self)

    def dataset(rows: Any) -> Any:
        return Dataset.from_list(
            [pair_row(tokenizer, row, text, settings.max_length) for row in rows for text in row["rejected"]]
        )

    given = arguments(settings, checkpoints, bool(held_out))
    given["per_device_train_batch_size"] = settings.batch_size * pairs
    return PairTrainer(
        model=model,
        args=ORPOConfig(**given, beta=settings.weight, max_length=settings.max_length, disable_dropout=False),
        train_dataset=dataset(train),
        eval_dataset=dataset(held_out) if held_out else None,
        processing_class=tokenizer,
    )


def pair_row(tokenizer: Any, row: Mapping[str, Any], rejected: str, max_length: int) -> dict[str, Any]:
    """One pair as TRL's collator takes it, tokens and all."""
    if not rejected.strip():
        raise PreferenceRowError(f"empty response to {row['prompt'][-1]['content'][:80]!r}")
    done: dict[str, Any] = {"prompt": "", "chosen": row["chosen"], "rejected": rejected}
    for name, text in (("chosen", row["chosen"]), ("rejected", rejected)):
        sequence = encode(tokenizer, row["prompt"], text, max_length)
        done[f"{name}_input_ids"], done[f"{name}_labels"] = sequence["input_ids"], sequence["labels"]
        done[f"{name}_attention_mask"] = [1] * len(sequence["input_ids"])
    head = [
        token
        for token, label in zip(done["chosen_input_ids"], done["chosen_labels"], strict=True)
        if label == IGNORED
    ]
    done["prompt_input_ids"], done["prompt_attention_mask"] = head, [1] * len(head)
    return done


def _mark(trainer: Any) -> None:
    if trainer.args.should_save:
        mark_whole(Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}")


def _reporting(report: Report) -> Any:
    from transformers import TrainerCallback

    class Reporting(TrainerCallback):
        """Hands every logged row to `report`, on the first process only."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if state.is_world_process_zero and logs:
                report({"step": state.global_step, **logs})

    return Reporting()
