"""Our trainer: one chosen answer against all others of its prompt, in one pass; and a survey's shares, one
question for all of its countries in one pass. A batch may hold either, or some of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from transformers import Trainer, TrainingArguments

from cultural_palette.training import shares
from cultural_palette.training.logps import answering_with_logps
from cultural_palette.training.orpo import MEASURES as ORPO_MEASURES
from cultural_palette.training.orpo import orpo_loss
from cultural_palette.training.orpo_settings import Layout, OrpoSettings, resolve_layout
from cultural_palette.training.preferences import Group
from cultural_palette.training.sequences import TokenGroup, encode_group, lay_out
from cultural_palette.training.share_questions import Shown
from cultural_palette.training.share_tokens import ShareTokens, encode_shown, lay_out_shares
from cultural_palette.training.trainer_arguments import MarkWholeCheckpoints, trainer_arguments

MEASURES = (*ORPO_MEASURES, *shares.MEASURES)


class GroupedTrainer(Trainer):
    """transformers' Trainer with ORPO's loss over groups, and the loss of shares; train within `ready()`."""

    loss_is_scaled_for_ga = False

    def __init__(self, *, settings: OrpoSettings, answers_a_group: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.answers_a_group = answers_a_group
        self.prompt_too = settings.nll == "prompt_and_completion"
        self._since_last_log: dict[str, list[torch.Tensor]] = {}
        self._evaluation: dict[str, float] = {}

    @contextmanager
    def ready(self) -> Iterator[None]:
        """While open, the model's forward returns log-probabilities of groups."""
        self._since_last_log = {}
        with answering_with_logps(self.model, self.prompt_too), without_casts(self.model, self.settings):
            yield

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch that `Collator` made; its measures wait for the next log.

        Groups and questions of a batch count alike, a question `shares_weight` times.
        """
        logps = model(batch=inputs)
        losses, counts = [], []
        measures: dict[str, Any] = {}
        if "answers" in logps:
            loss, measures = self._orpo(logps, inputs)
            losses.append(loss)
            counts.append(len(inputs["prompt_lengths"]))
        if "labels" in logps:
            batch: Any = inputs["shares"]
            loss, of_shares = shares.shares_loss(
                logps["labels"], batch["gold"], batch["row_weights"], self.settings.mass_weight
            )
            losses.append(loss * self.settings.shares_weight)
            counts.append(int(batch["questions"]))
            measures = measures | of_shares
        total = sum(counts)
        loss = torch.stack([loss * (count / total) for loss, count in zip(losses, counts, strict=True)]).sum()
        prefix = "" if model.training else "eval_"
        for key, value in measures.items():
            self._since_last_log.setdefault(prefix + key, []).append(value)
        return (loss, measures) if return_outputs else loss

    def _orpo(
        self, logps: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        prompt = (logps["prompts"], inputs["prompt_lengths"]) if self.prompt_too else None
        logp_sum = logps["answers"].view(-1, self.answers_a_group)
        lengths = inputs["lengths"].view(-1, self.answers_a_group)
        softmax = self.settings.preference.startswith("softmax")
        weights = inputs.get("rejected_weights")
        return orpo_loss(logp_sum, lengths, self.settings.weight, prompt, softmax, weights)

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, None, None]:
        """The loss of a held-out batch."""
        with torch.no_grad():
            loss: torch.Tensor = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """transformers' metrics, with the measures of the held-out groups."""
        self._evaluation = {}
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        return metrics | self._evaluation

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the measures to a row of the log: also to a run's last, for what no row has taken yet."""
        prefix = "eval_" if "eval_loss" in logs else ""
        if prefix or "loss" in logs or "train_loss" in logs:
            measures = self._mean_measures(prefix)
            if prefix:
                self._evaluation = measures
            logs |= measures
        super().log(logs, start_time)

    def _mean_measures(self, prefix: str) -> dict[str, float]:
        """Means over the batches since the last log and over the processes."""
        names = [prefix + key for key in MEASURES if prefix + key in self._since_last_log]
        if not names:
            return {}
        means = torch.stack([torch.stack(self._since_last_log.pop(name)).mean() for name in names])
        means = self.accelerator.reduce(means, "mean")
        return {name: round(float(value), 4) for name, value in zip(names, means, strict=True)}


def without_casts(model: Any, settings: OrpoSettings) -> AbstractContextManager[None]:
    """A context in which an adapter takes its input as it comes.

    Under autocast PEFT's casts, to float32 and back, change nothing but the time: a seventh of it on a CPU.
    """
    if settings.precision == "float32" or not settings.rank:
        return nullcontext()
    casts: AbstractContextManager[None] = disable_input_dtype_casting(model)
    return casts


class Collator:
    """Lays a batch of rows out as tensors: groups ({"group": TokenGroup}), and under "shares" questions
    ({"shown": ShareTokens}).
    """

    def __init__(self, layout: Layout, pad_id: int) -> None:
        self.layout, self.pad_id = layout, pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        groups: list[TokenGroup] = [row["group"] for row in rows if "group" in row]
        shown: list[ShareTokens] = [row["shown"] for row in rows if "shown" in row]
        laid: dict[str, Any] = lay_out(groups, self.layout, self.pad_id) if groups else {}
        if groups and groups[0].weights:
            laid["rejected_weights"] = torch.tensor([group.weights for group in groups])
        return laid | ({"shares": lay_out_shares(shown, self.layout, self.pad_id)} if shown else {})


@dataclass(frozen=True)
class Lessons:
    """What a job trains on, or holds out: preference groups, and questions as they are shown."""

    groups: Sequence[Group] = ()
    shown: Sequence[Shown] = ()

    def __len__(self) -> int:
        return len(self.groups) + len(self.shown)

    def tokens(self, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
        """Rows for `Collator`."""
        return [
            *({"group": encode_group(tokenizer, group, max_length)} for group in self.groups),
            *({"shown": encode_shown(tokenizer, one, max_length)} for one in self.shown),
        ]


def build_grouped_trainer(
    model: Any,
    tokenizer: Any,
    train: Lessons,
    held_out: Lessons,
    checkpoints: Path,
    settings: OrpoSettings,
) -> GroupedTrainer:
    """The trainer with its rows as tokens."""
    return GroupedTrainer(
        settings=settings,
        answers_a_group=1 + len(train.groups[0]["rejected"]) if train.groups else 0,
        model=model,
        args=TrainingArguments(**trainer_arguments(settings, checkpoints, bool(held_out))),
        train_dataset=train.tokens(tokenizer, settings.max_length),
        eval_dataset=held_out.tokens(tokenizer, settings.max_length) if held_out else None,
        data_collator=Collator(layout_for(model.config, settings), tokenizer.pad_token_id),
        callbacks=[MarkWholeCheckpoints()],
    )


def layout_for(config: Any, settings: OrpoSettings) -> Layout:
    """The settings' layout on this device; rows for a sliding window, which our block mask has not."""
    layout, _ = resolve_layout(settings, torch.cuda.is_available())
    window = getattr(config, "sliding_window", None)
    slides = window and window < settings.max_length and getattr(config, "use_sliding_window", True)
    return "rows" if layout == "packed" and slides else layout
