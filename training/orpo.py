"""ORPO, one community's answer against every other's (Hong, Lee and Thorne 2024, "ORPO: Monolithic Preference
Optimization without Reference Model", arXiv 2403.07691; Cultural Palette, eq. 6).

    L = NLL(y_p | x) + lambda * mean_k[ -log sigmoid( log odds(y_p|x) - log odds(y_rk|x) ) ],  odds = P / (1 - P)

where log P is the response's mean token log-probability. The paper's eq. 6 prints the ratio of probabilities; ORPO,
which it cites and uses, takes odds, and so do we. The NLL is over the completion, as in MS-Swift, the paper's tool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palette.errors import PaletteError

if TYPE_CHECKING:
    import torch

IGNORED = -100


class PreferenceRowError(PaletteError):
    """A preference row that cannot be trained on; names the row and what it lacks."""


@dataclass(frozen=True)
class OrpoSettings:
    """What a run may turn. The paper: lr 5e-5, 2 epochs, weight (lambda) 0.1; `weight=0` leaves plain fine-tuning."""

    learning_rate: float = 5e-5
    epochs: float = 2
    weight: float = 0.1
    rank: int = 8
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    batch_size: int = 8
    seed: int = 0
    max_length: int = 1024
    warmup_ratio: float = 0.05
    save_steps: int = 500


def log_odds(mean_logp: torch.Tensor) -> torch.Tensor:
    """Log of P / (1 - P) from log P, stable at both ends. (B,) -> (B,)

    log(1 - exp(x)) loses its digits near x = 0 in one form and near -inf in the other, so each side of -log 2 has its
    own (Maechler 2012); x is kept under -1e-6, where the gradient is still finite.
    """
    import torch

    x = mean_logp.clamp(max=-1e-6)
    near = x > -0.6931472
    below = torch.where(near, torch.full_like(x, -1.0), x)  # keeps the unused branch's gradient finite
    above = torch.where(near, x, torch.full_like(x, -0.5))
    log1mexp = torch.where(near, torch.log(-torch.expm1(above)), torch.log1p(-torch.exp(below)))
    return x - log1mexp


def orpo_loss(
    logp_sum: torch.Tensor, lengths: torch.Tensor, weight: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch of groups, the chosen response first in each.

    `logp_sum`: summed token log-probabilities of each response (G, 1 + R); `lengths`: their token counts (G, 1 + R).
    Returns the scalar loss and detached measures: nll, odds loss, accuracy (chosen above each rejected), margin.
    """
    import torch.nn.functional as F

    mean_logp = logp_sum / lengths
    odds = log_odds(mean_logp)
    margins = odds[:, :1] - odds[:, 1:]
    nll = -logp_sum[:, 0].sum() / lengths[:, 0].sum()
    contrast = -F.logsigmoid(margins).mean()
    loss = nll + weight * contrast
    measures = {
        "nll": nll.detach(),
        "odds_loss": contrast.detach(),
        "accuracy": (margins > 0).float().mean().detach(),
        "margin": margins.mean().detach(),
    }
    return loss, measures


def response_logps(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Summed log-probability of each row's completion; the head runs on completion positions only.

    `input_ids`, `labels`, `mask`: (B, L), labels -100 outside the completion. Returns (B,), float32.
    """
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.model(input_ids=input_ids, attention_mask=mask).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    where = wanted != IGNORED
    logits = inner.lm_head(hidden[where]).float()
    logps = torch.log_softmax(logits, dim=-1).gather(1, wanted[where][:, None])[:, 0]
    rows = torch.arange(len(wanted), device=wanted.device)[:, None].expand_as(wanted)[where]
    return torch.zeros(len(wanted), device=wanted.device).index_add(0, rows, logps)


def encode(
    tokenizer: Any, prompt: Sequence[Mapping[str, str]], response: str, max_length: int
) -> dict[str, list[int]]:
    """One sequence through the chat template, with exactly one end token; a prompt too long is cut from the left."""
    head = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False)
    tail = tokenizer(response, add_special_tokens=False)["input_ids"]
    if not tail:
        raise PreferenceRowError(
            f"empty response to {prompt[-1]['content'][:80]!r}: every community must answer"
        )
    tail = [*tail, tokenizer.eos_token_id][: max_length - 1]
    head = head[max(0, len(head) + len(tail) - max_length) :]
    return {"input_ids": [*head, *tail], "labels": [*([IGNORED] * len(head)), *tail]}


def encode_group(tokenizer: Any, row: Mapping[str, Any], max_length: int) -> list[dict[str, list[int]]]:
    """The chosen response's sequence, then each rejected one's."""
    return [encode(tokenizer, row["prompt"], text, max_length) for text in (row["chosen"], *row["rejected"])]


def pad(sequences: Sequence[Mapping[str, list[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded tensors (B, L): input_ids, labels, attention_mask."""
    import torch

    longest = max(len(s["input_ids"]) for s in sequences)
    fill = {"input_ids": pad_id, "labels": IGNORED}
    batch = {
        key: torch.tensor([s[key] + [value] * (longest - len(s[key])) for s in sequences])
        for key, value in fill.items()
    }
    lengths = torch.tensor([len(s["input_ids"]) for s in sequences])
    batch["attention_mask"] = (torch.arange(longest)[None] < lengths[:, None]).long()
    return batch


def align(
    base: Path, rows: Sequence[Mapping[str, Any]], out: Path, settings: OrpoSettings
) -> dict[str, float]:
    """Train one community's LoRA adapter on grouped rows (`prompt`, `chosen`, `rejected: [..]`) and save it to `out`.

    Goes on from the last checkpoint under `out/checkpoints` when there is one. Returns the last logged measures.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(base)
    _check(rows)
    groups = [{"group": encode_group(tokenizer, row, settings.max_length)} for row in rows]
    size = len(groups[0]["group"])
    set_seed(settings.seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout,
                      target_modules=list(settings.targets), task_type="CAUSAL_LM")  # fmt: skip
    peft_model = get_peft_model(model, lora)

    class GroupedTrainer(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False,
                         num_items_in_batch: Any = None) -> Any:  # fmt: skip
            sums = response_logps(model, inputs["input_ids"], inputs["labels"], inputs["attention_mask"])
            lengths = (inputs["labels"][:, 1:] != IGNORED).sum(1)
            loss, measures = orpo_loss(sums.view(-1, size), lengths.view(-1, size), settings.weight)
            if self.state.global_step % self.args.logging_steps == 0:
                self.log({key: round(float(value), 4) for key, value in measures.items()})
            return (loss, measures) if return_outputs else loss

    checkpoints = out / "checkpoints"
    arguments = TrainingArguments(
        output_dir=str(checkpoints), learning_rate=settings.learning_rate, num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size, warmup_steps=settings.warmup_ratio,
        lr_scheduler_type="cosine", logging_steps=25, save_steps=settings.save_steps, save_total_limit=1,
        report_to=[], seed=settings.seed, remove_unused_columns=False, use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )  # fmt: skip
    trainer = GroupedTrainer(
        model=peft_model, args=arguments, train_dataset=groups,
        data_collator=lambda batch: pad([s for row in batch for s in row["group"]], tokenizer.pad_token_id),
    )  # fmt: skip
    trainer.model_accepts_loss_kwargs = False  # we return a mean; gradient accumulation must average it
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    peft_model.save_pretrained(str(out))
    logged = [entry for entry in trainer.state.log_history if "nll" in entry]
    return {key: logged[-1][key] for key in ("nll", "odds_loss", "accuracy", "margin")} if logged else {}


def _check(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        raise PreferenceRowError("no preference rows to train on")
    rejected = len(rows[0]["rejected"])
    for number, row in enumerate(rows):
        if len(row["rejected"]) != rejected or not rejected:
            raise PreferenceRowError(
                f"row {number} has {len(row['rejected'])} rejected answers, row 0 has {rejected}: a community is missing"
            )
