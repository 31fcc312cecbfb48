"""ORPO, one community's answer against every other's (Hong, Lee and Thorne 2024, "ORPO: Monolithic Preference
Optimization without Reference Model", arXiv 2403.07691; Cultural Palette, eq. 6).

    L = NLL(y_p | x) + lambda * mean_k[ -log sigmoid( log odds(y_p|x) - log odds(y_rk|x) ) ],  odds = P / (1
    - P)

where log P is the response's mean token log-probability. The paper's eq. 6 prints the ratio of
probabilities; ORPO, which it cites and uses, takes odds, and so do we. The NLL is over the completion, as in
MS-Swift, the paper's tool;
`nll="prompt_and_completion"` is TRL's reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cultural_palette.errors import UsageError
from cultural_palette.training.preferences import PreferenceRowError, check_groups
from cultural_palette.training.sequences import IGNORED, Layout, encode, encode_group, pad

if TYPE_CHECKING:
    import torch

__all__ = [
    "IGNORED",
    "OrpoSettings",
    "PreferenceRowError",
    "align",
    "encode",
    "encode_group",
    "log_odds",
    "orpo_loss",
    "pad",
]

FFN = ("gate_proj", "up_proj", "down_proj")
Report = Callable[[Mapping[str, Any]], None]


class TrainingError(UsageError):
    """A training setting that can not be used, alone or with another."""


@dataclass(frozen=True)
class OrpoSettings:
    """What a run may turn. The paper: lr 5e-5, 2 epochs, weight (lambda) 0.1; `weight=0` leaves plain
    fine-tuning.

    `targets`: LoRA's modules, or ("all-linear",); only the FFN's reach MoErges. `rank=0` trains every weight.
    `batch_size` counts groups on one device; `accumulate`, batches a step. `max_length` is in tokens.
    `layout` "auto": the prompt's keys and values once; packed with gradient checkpointing, or with flex
    attention.
    `warmup_ratio` and `eval_ratio` are shares (0..1) of the steps and of the rows.
    """

    learning_rate: float = 5e-5
    epochs: float = 2
    weight: float = 0.1
    rank: int = 8
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = FFN
    batch_size: int = 8
    accumulate: int = 1
    seed: int = 0
    max_length: int = 1024
    warmup_ratio: float = 0.05
    save_steps: int = 500
    trainer: Literal["grouped", "trl"] = "grouped"
    nll: Literal["completion", "prompt_and_completion"] = "completion"
    layout: Literal["auto", "rows", "packed", "prompt_once"] = "auto"
    attention: Literal["auto", "sdpa", "flex_attention", "eager"] = "auto"
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    gradient_checkpointing: bool = False
    scheduler: str = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    eval_ratio: float = 0.0
    logging_steps: int = 25
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranges = {
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
        }
        if wrong := [name for name, right in ranges.items() if not right]:
            raise TrainingError(f"{wrong[0]} = {getattr(self, wrong[0])!r} is out of range")
        if self.layout == "prompt_once" and self.gradient_checkpointing:
            raise TrainingError(
                "layout prompt_once keeps the prompt's keys: not with gradient_checkpointing; use packed"
            )
        if self.attention == "flex_attention" and self.layout not in ("auto", "packed"):
            raise TrainingError(f"attention flex_attention is for layout packed, not {self.layout}")
        if self.trainer == "trl" and self.nll == "completion" and self.layout != "auto":
            raise TrainingError("layout is the grouped trainer's; --trainer trl has rows only")


def log_odds(mean_logp: torch.Tensor) -> torch.Tensor:
    """Log of P / (1 - P) from log P, stable at both ends. (B,) -> (B,)

    log(1 - exp(x)) loses its digits near x = 0 in one form and near -inf in the other, so each side of -log
    2 has its own (Maechler 2012); x is kept under -1e-6, where the gradient is still finite.
    """
    import torch

    x = mean_logp.clamp(max=-1e-6)
    near = x > -0.6931472
    below = torch.where(near, torch.full_like(x, -1.0), x)  # keeps the unused branch's gradient finite
    above = torch.where(near, x, torch.full_like(x, -0.5))
    log1mexp = torch.where(near, torch.log(-torch.expm1(above)), torch.log1p(-torch.exp(below)))
    return x - log1mexp


def orpo_loss(
    logp_sum: torch.Tensor,
    lengths: torch.Tensor,
    weight: float,
    prompt: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch of groups, the chosen response first in each.

    `logp_sum`: summed token log-probabilities of each response (G, 1 + R); `lengths`: their token counts (G,
    1 + R).
    `prompt`: the same two of each prompt (G), when the NLL is over prompt and completion.
    Returns the scalar loss and detached measures: nll, odds loss, accuracy (chosen above each rejected,
    0..1), margin (of log odds).
    """
    import torch.nn.functional as F

    mean_logp = logp_sum / lengths
    odds = log_odds(mean_logp)
    margins = odds[:, :1] - odds[:, 1:]
    learned, tokens = logp_sum[:, 0].sum(), lengths[:, 0].sum()
    if prompt is not None:
        learned, tokens = learned + prompt[0].sum(), tokens + prompt[1].sum()
    nll = -learned / tokens
    contrast = -F.logsigmoid(margins).mean()
    loss = nll + weight * contrast
    measures = {
        "nll": nll.detach(),
        "odds_loss": contrast.detach(),
        "accuracy": (margins > 0).float().mean().detach(),
        "margin": margins.mean().detach(),
    }
    return loss, measures


def align(
    base: str | Path,
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    settings: OrpoSettings,
    report: Report | None = None,
) -> dict[str, float]:
    """Train one agent on grouped rows (`prompt`, `chosen`, `rejected: [..]`): a LoRA adapter, or all of the
    weights.

    Saved to `out`, the weights last and whole, with the tokenizer when all weights were trained. Goes on
    from the last whole checkpoint under `out/checkpoints` when there is one, to the same weights as an
    undisturbed run's.
    `report` gets every logged row. Returns the last logged measures, `eval_` ones too when rows are held out.
    Raises PreferenceRowError for rows that can not be trained on.
    """
    from transformers import AutoTokenizer, set_seed

    from cultural_palette.training.checkpoints import last_whole_checkpoint, save_whole
    from cultural_palette.training.trainers import build_trainer, load_model

    check_groups(rows)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    set_seed(settings.seed)
    model = load_model(base, settings)
    train, held_out = split(rows, settings)
    trainer = build_trainer(model, tokenizer, train, held_out, out / "checkpoints", settings, report)
    with trainer.ready():
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / "checkpoints"))
        final = trainer.evaluate() if held_out else {}
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        save_whole(model, state, out, tokenizer if settings.rank == 0 else None)
    trainer.accelerator.wait_for_everyone()
    logged = [entry for entry in trainer.state.log_history if "nll" in entry]
    last = {key: logged[-1][key] for key in ("nll", "odds_loss", "accuracy", "margin")} if logged else {}
    return last | {key: value for key, value in final.items() if key.removeprefix("eval_") in (*last, "loss")}


def split(
    rows: Sequence[Mapping[str, Any]], settings: OrpoSettings
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Rows to train on and rows held out: every row of `eval_ratio` of the prompts, drawn by the seed.

    By prompts, so that the joint model is not judged on a question whose other answers it has seen, and all
    agents of a run on the same questions. At least one prompt on each side; nothing is held out of one
    prompt.
    """
    import random

    prompts = list(dict.fromkeys(repr(row["prompt"]) for row in rows))
    if not settings.eval_ratio or len(prompts) < 2:
        return list(rows), []
    count = min(len(prompts) - 1, max(1, round(len(prompts) * settings.eval_ratio)))
    out = set(random.Random(settings.seed).sample(prompts, count))
    return [row for row in rows if repr(row["prompt"]) not in out], [
        row for row in rows if repr(row["prompt"]) in out
    ]


def chosen_layout(settings: OrpoSettings, on_gpu: bool) -> tuple[Layout, str]:
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
