"""The settings of ORPO training, and what "auto" stands for on a device."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from cultural_palette.errors import UsageError

Layout = Literal["rows", "packed", "prompt_once"]
Objective = Literal["orpo", "shares", "orpo+shares"]
Preference = Literal["sigmoids", "softmax", "sigmoids-by-distance", "softmax-by-distance"]
OBJECTIVES: tuple[Objective, ...] = ("orpo", "shares", "orpo+shares")
LAYOUTS: tuple[Layout, ...] = ("rows", "packed", "prompt_once")
FFN = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ("all-linear",)
LATER = ("objective", "preference", "shares_weight", "mass_weight", "orders", "countries")
"""Settings that came after the first runs were written."""


class TrainingError(UsageError):
    """A training setting that can not be used, alone or with another."""


@dataclass(frozen=True)
class OrpoSettings:
    """Everything a training run may change. Learning rate, epochs and weight default to the paper's.

    Raises TrainingError for a value out of range and for values that exclude each other.
    """

    # Objective
    objective: Objective = "orpo"  # communities' texts, surveys' shares, or both in one job
    weight: float = 0.1  # lambda of the odds-ratio term, 0 or more; 0 leaves plain fine-tuning
    preference: Preference = "sigmoids"  # how a group's rejected answers count; see orpo.py
    nll: Literal["completion", "prompt_and_completion"] = "completion"  # which tokens; TRL takes both
    trainer: Literal["grouped", "trl"] = "grouped"  # ours on whole groups, or TRL's own on pairs
    shares_weight: float = 1.0  # of a question's loss beside a group's, in orpo+shares
    mass_weight: float = 0.1  # of -log of the mass on the labels, in the loss of shares; 0 or more
    orders: int = 1  # option orders that a question is shown in, a pass; balanced over the questions
    countries: int = 12  # at most, of a question in one order, drawn by the seed; 0 for all

    # What learns
    rank: int = 8  # of the LoRA adapter; 0 trains every weight
    alpha: int = 32  # LoRA's scale is alpha / rank
    dropout: float = 0.05  # LoRA's, share of its inputs, 0..1
    targets: tuple[str, ...] = FFN  # modules that get an adapter, or ("all-linear",); MoErges needs the FFN's

    # Optimiser
    learning_rate: float = 5e-5  # peak, of AdamW
    epochs: float = 2  # passes over the groups
    warmup_ratio: float = 0.05  # share of the steps, 0..1
    scheduler: str = "cosine"  # by transformers' name
    weight_decay: float = 0.0  # of AdamW
    max_grad_norm: float = 1.0  # gradients are clipped to this L2 norm
    seed: int = 0  # of the adapter's start, the order of the groups, dropout and the held-out prompts

    # Batches
    batch_size: int = 8  # groups on one device at a time
    accumulate: int = 1  # batches a step
    max_length: int = 1024  # tokens of a prompt and one answer, at least 8
    layout: Literal["auto", "rows", "packed", "prompt_once"] = "auto"  # of a group; see sequences.py

    # Device
    attention: Literal["auto", "sdpa", "flex_attention", "eager"] = "auto"  # transformers' implementation
    precision: Literal["float32", "bf16", "fp16"] = "float32"  # of the computation and of a frozen base
    gradient_checkpointing: bool = False  # compute activations twice, keep few of them

    # Records
    eval_ratio: float = 0.0  # share of the prompts held out, 0..1
    save_steps: int = 500  # steps between checkpoints, and between evaluations
    logging_steps: int = 25  # steps between logged rows
    report_to: tuple[str, ...] = ()  # transformers' integrations, such as "tensorboard"

    def __post_init__(self) -> None:
        in_range = {
            "learning_rate": self.learning_rate > 0,
            "epochs": self.epochs > 0,
            "weight": self.weight >= 0,
            "rank": self.rank >= 0,
            "alpha": self.alpha > 0,
            "dropout": 0 <= self.dropout < 1,
            "batch_size": self.batch_size > 0,
            "accumulate": self.accumulate > 0,
            "max_length": self.max_length >= 8,
            "warmup_ratio": 0 <= self.warmup_ratio < 1,
            "save_steps": self.save_steps > 0,
            "eval_ratio": 0 <= self.eval_ratio < 1,
            "logging_steps": self.logging_steps > 0,
            "targets": bool(self.targets),
            "weight_decay": self.weight_decay >= 0,
            "shares_weight": self.shares_weight > 0,
            "mass_weight": self.mass_weight >= 0,
            "orders": self.orders > 0,
            "countries": self.countries >= 0,
        }
        if wrong := [name for name, right in in_range.items() if not right]:
            raise TrainingError(f"{wrong[0]} = {getattr(self, wrong[0])!r} is out of range")
        if self.layout == "prompt_once" and self.gradient_checkpointing:
            raise TrainingError(
                "layout prompt_once keeps the prompt's keys: not with gradient_checkpointing; use packed"
            )
        if self.attention == "flex_attention" and self.layout not in ("auto", "packed"):
            raise TrainingError(f"attention flex_attention is for layout packed, not {self.layout}")
        if self.trainer == "trl" and self.nll == "completion" and self.layout != "auto":
            raise TrainingError("layout is the grouped trainer's; --trainer trl has rows only")
        if self.trainer == "trl" and self.objective != "orpo":
            raise TrainingError(f"objective {self.objective} is the grouped trainer's, not --trainer trl's")
        if self.trainer == "trl" and self.preference != "sigmoids":
            raise TrainingError(f"preference {self.preference} is the grouped trainer's, not --trainer trl's")

    @property
    def by_distance(self) -> bool:
        """Whether rejected answers are weighed by how far their culture lies."""
        return self.preference.endswith("-by-distance")

    @property
    def learns_texts(self) -> bool:
        """Whether there are preference groups to learn from."""
        return self.objective in ("orpo", "orpo+shares")

    @property
    def learns_shares(self) -> bool:
        """Whether there are survey questions to learn from."""
        return self.objective in ("shares", "orpo+shares")

    def as_config(self) -> dict[str, Any]:
        """Every setting, but for those of `LATER` that stand at their default: a run begun before they came
        goes on.
        """
        return {
            one.name: value
            for one in fields(self)
            if (value := getattr(self, one.name)) != one.default or one.name not in LATER
        }

    @property
    def lora_targets(self) -> str | list[str]:
        """`targets` as peft takes them."""
        return "all-linear" if self.targets == ALL_LINEAR else list(self.targets)


def resolve_layout(settings: OrpoSettings, on_gpu: bool) -> tuple[Layout, str]:
    """The layout and the attention that "auto" stands for on this device.

    On a GPU flex attention skips the blocks that the mask shuts out; it has no backward pass on the CPU.
    """
    layout, attention = settings.layout, settings.attention
    if attention == "auto":
        flex = on_gpu and (layout == "packed" or (layout == "auto" and settings.gradient_checkpointing))
        attention = "flex_attention" if flex else "sdpa"
    if layout == "auto":
        once = not settings.gradient_checkpointing and attention != "flex_attention"
        layout = "prompt_once" if once else "packed"
    return layout, attention
