"""What a training run will need, before it runs: sequences, tokens, memory, time. Estimates, and marked as
such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cultural_palette.training.job import Job, rows_of
from cultural_palette.training.orpo import OrpoSettings, chosen_layout, split
from cultural_palette.training.preferences import read_groups
from cultural_palette.training.sequences import encode_group

SAMPLE = 1000  # groups that are tokenised; more are scaled up
USED = 0.35  # share of the measured matrix speed that training reaches
GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """One job's. `tokens`: positions computed over all epochs; `memory_bytes`: of one device; `exact`: all
    counted."""

    job: Job
    groups: int
    sequences: int
    longest: int
    tokens: int
    tokens_as_rows: int
    steps: int
    trained: int
    parameters: int
    memory_bytes: int
    seconds: float
    exact: bool

    def line(self) -> str:
        """For people."""
        about = "" if self.exact else "about "
        return (
            f"{self.job.name}: {self.groups:,} groups, {self.sequences:,} sequences, {self.steps:,} steps; "
            f"{about}{self.tokens:,} tokens computed ({self.tokens_as_rows:,} without sharing prompts), "
            f"longest group {self.longest:,}; trains {self.trained:,} of {self.parameters:,} weights; "
            f"estimated {self.memory_bytes / GIB:.2f} GiB and {spell(self.seconds)}"
        )


def estimate(jobs: Sequence[Job], flops: float | None = None) -> list[Estimate]:
    """One for each job. `flops`: matrix floating-point operations a second of the device; measured when
    None."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    if not jobs:
        return []
    first = jobs[0]
    tokenizer = AutoTokenizer.from_pretrained(first.base)
    config = AutoConfig.from_pretrained(first.base)
    groups = read_groups(first.data, first.communities)
    speed = flops or measured_flops(first.settings.precision)
    total, trained = weights(config, first.settings)
    on_gpu = torch.cuda.is_available()
    done = []
    for job in jobs:
        rows, _ = split(rows_of(groups, job.agent), job.settings)
        sample = rows[:: -(-len(rows) // SAMPLE)] if rows else []
        encoded = [encode_group(tokenizer, row, job.settings.max_length) for row in sample]
        scale = len(rows) / max(1, len(sample)) * job.settings.epochs
        layout, _ = chosen_layout(job.settings, on_gpu)
        as_rows = round(scale * sum(group.tokens_as_rows for group in encoded))
        once = round(scale * sum(group.tokens_once for group in encoded))
        tokens = as_rows if layout == "rows" or job.settings.trainer == "trl" else once
        longest = max((group.tokens_once for group in encoded), default=0)
        widest = max(
            (group.tokens_as_rows if layout == "rows" else group.tokens_once for group in encoded), default=0
        )
        batch = job.settings.batch_size * job.settings.accumulate
        done.append(
            Estimate(
                job=job,
                groups=len(rows),
                sequences=sum(1 + len(row["rejected"]) for row in rows),
                longest=longest,
                tokens=tokens,
                tokens_as_rows=as_rows,
                steps=round(job.settings.epochs * -(-len(rows) // batch)),
                trained=trained,
                parameters=total,
                memory_bytes=memory(config, job.settings, total, trained, widest),
                seconds=tokens * operations(job.settings) * total / (speed * USED),
                exact=len(sample) == len(rows),
            )
        )
    return done


def weights(config: Any, settings: OrpoSettings) -> tuple[int, int]:
    """(all weights, those that learn), counted on a model without storage."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = build(config)
        total = sum(p.numel() for p in model.parameters())
        if not settings.rank:
            return total, total
        targets = "all-linear" if settings.targets == ("all-linear",) else list(settings.targets)
        tuned = get_peft_model(
            model, LoraConfig(r=settings.rank, target_modules=targets, task_type="CAUSAL_LM")
        )
        return total, sum(p.numel() for p in tuned.parameters() if p.requires_grad)


def operations(settings: OrpoSettings) -> int:
    """Floating-point operations a weight and token: 2 forward, 2 for the inputs' gradient, 2 for the
    weights' when they learn, 2 more to compute again what checkpointing dropped."""
    return 4 + (0 if settings.rank else 2) + (2 if settings.gradient_checkpointing else 0)


def memory(config: Any, settings: OrpoSettings, total: int, trained: int, widest: int) -> int:
    """Bytes on one device: weights; gradient and Adam's two moments of what learns, float32; activations of
    a batch."""
    held = 4 if settings.precision == "float32" or not settings.rank else 2
    size = 4 if settings.precision == "float32" else 2
    states = total * held + trained * 12 + (trained * 4 if settings.rank else 0)
    positions = settings.batch_size * widest
    hidden, inner = config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size)
    layer = positions * (10 * hidden + 4 * inner) * size
    kept = positions * hidden * size * config.num_hidden_layers
    activations = kept + layer if settings.gradient_checkpointing else layer * config.num_hidden_layers
    return int(states + activations)


def measured_flops(precision: str) -> float:
    """Operations a second of a matrix product on the device that would train; under a second."""
    import time

    import torch

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


def spell(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
