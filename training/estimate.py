"""What training jobs will need, before they run: sequences, tokens, memory, time. All of it estimated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cultural_palette.training.align import lessons
from cultural_palette.training.durations import duration_words
from cultural_palette.training.grouped_trainer import Lessons
from cultural_palette.training.jobs import Job
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError, resolve_layout
from cultural_palette.training.sequences import first_line

SAMPLE = 1000  # groups that are tokenised; more are scaled up
USED = 0.35  # share of the measured matrix speed that training reaches
GIB = 2**30


@dataclass(frozen=True)
class TrainingEstimate:
    """One job's. `tokens`: positions computed over all epochs; `memory_bytes`: of one device.

    `questions`: survey questions in the orders that a pass shows them in. `prompts_cut`, `answers_cut`: how
    many lose tokens to max_length. `exact`: every group was tokenised.
    """

    job: Job
    groups: int
    questions: int
    sequences: int
    longest: int
    tokens: int
    tokens_as_rows: int
    steps: int
    trained: int
    parameters: int
    memory_bytes: int
    seconds: float
    prompts_cut: int
    answers_cut: int
    exact: bool

    def line(self) -> str:
        """For people."""
        about = "" if self.exact else "about "
        return (
            f"{self.job.name}: {self._what()}, {self.sequences:,} sequences, {self.steps:,} steps; "
            f"{about}{self.tokens:,} tokens computed ({self.tokens_as_rows:,} without sharing prompts), "
            f"longest group {self.longest:,}{self._cut_words()}; "
            f"trains {self.trained:,} of {self.parameters:,} weights; "
            f"estimated {self.memory_bytes / GIB:.2f} GiB and {duration_words(self.seconds)}"
        )

    def _what(self) -> str:
        texts = [f"{self.groups:,} groups"] if self.groups or not self.questions else []
        return ", ".join([*texts, *([f"{self.questions:,} questions shown"] if self.questions else [])])

    def _cut_words(self) -> str:
        if not (self.prompts_cut or self.answers_cut):
            return ""
        about = "" if self.exact else "about "
        return (
            f", CUT to max_length {self.job.settings.max_length:,}: {about}{self.prompts_cut:,} prompts and "
            f"{self.answers_cut:,} answers"
        )


def estimate_training(jobs: Sequence[Job], flops: float | None = None) -> list[TrainingEstimate]:
    """One for each job. `flops`: matrix floating-point operations a second of the device; None: measured."""
    if not jobs:
        return []
    first = jobs[0]
    tokenizer = AutoTokenizer.from_pretrained(first.base)
    config = AutoConfig.from_pretrained(first.base)
    speed = flops or measured_flops(first.settings.precision)
    total, trained = weights(config, first.settings)
    on_gpu = torch.cuda.is_available()
    estimates = []
    for job in jobs:
        settings = job.settings
        train, _ = lessons(*job.lessons(), settings)
        groups, shown = train.groups, train.shown
        sample = Lessons(groups[:: -(-len(groups) // SAMPLE) or 1], shown[:: -(-len(shown) // SAMPLE) or 1])
        rows = sample.tokens(tokenizer, settings.max_length)
        encoded = [row.get("group") or row["shown"] for row in rows]
        rows_per_sample = len(train) / max(1, len(sample))
        scale = rows_per_sample * settings.epochs
        layout, _ = resolve_layout(settings, on_gpu)
        as_rows = round(scale * sum(group.tokens_as_rows for group in encoded))
        once = round(scale * sum(group.tokens_once for group in encoded))
        tokens = as_rows if layout == "rows" or settings.trainer == "trl" else once
        longest = max((group.tokens_once for group in encoded), default=0)
        widest = max(
            (group.tokens_as_rows if layout == "rows" else group.tokens_once for group in encoded), default=0
        )
        batch = settings.batch_size * settings.accumulate
        estimates.append(
            TrainingEstimate(
                job=job,
                groups=len(groups),
                questions=len(shown),
                sequences=sum(1 + len(group["rejected"]) for group in groups)
                + sum(len(one.countries) for one in shown),
                longest=longest,
                tokens=tokens,
                tokens_as_rows=as_rows,
                steps=round(settings.epochs * -(-len(train) // batch)),
                trained=trained,
                parameters=total,
                memory_bytes=memory(config, settings, total, trained, widest),
                seconds=tokens * operations(settings) * total / (speed * USED),
                prompts_cut=round(
                    rows_per_sample * sum(row["group"].prompt_cut > 0 for row in rows if "group" in row)
                ),
                answers_cut=round(
                    rows_per_sample * sum(row["group"].answers_cut for row in rows if "group" in row)
                ),
                exact=len(sample) == len(train),
            )
        )
    return estimates


def weights(config: Any, settings: OrpoSettings) -> tuple[int, int]:
    """(all weights, those that learn), counted on a model without storage. Raises TrainingError for targets
    that the base has not.
    """
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = build(config)
        total = sum(p.numel() for p in model.parameters())
        if not settings.rank:
            return total, total
        lora = LoraConfig(r=settings.rank, target_modules=settings.lora_targets, task_type="CAUSAL_LM")
        try:
            tuned = get_peft_model(model, lora)
        except ValueError as error:
            raise TrainingError(
                f"targets {', '.join(settings.targets)} do not fit the base: {first_line(error)}"
            ) from None
        return total, sum(p.numel() for p in tuned.parameters() if p.requires_grad)


def operations(settings: OrpoSettings) -> int:
    """Floating-point operations a weight and token.

    2 forward, 2 for the inputs' gradient, 2 for the weights' when they learn, 2 more to compute again what
    checkpointing dropped.
    """
    return 4 + (0 if settings.rank else 2) + (2 if settings.gradient_checkpointing else 0)


def memory(config: Any, settings: OrpoSettings, total: int, trained: int, widest: int) -> int:
    """Bytes on one device: weights, gradient and Adam's moments of what learns, a batch's activations.

    `total`, `trained`: weights; `widest`: positions of the widest group.
    """
    weight_bytes = 4 if settings.precision == "float32" or not settings.rank else 2
    size = 4 if settings.precision == "float32" else 2
    states = total * weight_bytes + trained * 12 + (trained * 4 if settings.rank else 0)
    positions = settings.batch_size * widest
    hidden, inner = config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size)
    layer = positions * (10 * hidden + 4 * inner) * size
    checkpointed = positions * hidden * size * config.num_hidden_layers
    activations = (
        checkpointed + layer if settings.gradient_checkpointing else layer * config.num_hidden_layers
    )
    return int(states + activations)


def measured_flops(precision: str) -> float:
    """Operations a second of a matrix product on the device that would train; under a second."""
    gpu = torch.cuda.is_available()
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    size = 8192 if gpu else 768
    a = torch.randn(size, size, dtype=dtype, device="cuda" if gpu else "cpu")
    a @ a
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        a @ a
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
