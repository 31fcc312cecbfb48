"""A task adapter: plain fine-tuning on worked examples of a graph's own steps, before communities are
aligned.

A small base can not distil drafts or choose a letter unshown. The loss of an example is the mean over its
reply's tokens of the cross-entropy; examples count alike, whatever their length. A reply that is a letter may
carry the people's shares of every letter: its first token then learns the whole distribution, not the mode.

    {"prompt": [..messages], "response": "..", "shares": {"A": 0.6, "B": 0.4} or null}
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Trainer, TrainingArguments

from cultural_palette.artifacts import RunFolder
from cultural_palette.provenance import installed_versions, short_sha256
from cultural_palette.training.checkpoints import last_whole_checkpoint, save_whole
from cultural_palette.training.identity import base_identity
from cultural_palette.training.job import PACKAGES, saved
from cultural_palette.training.orpo_settings import OrpoSettings
from cultural_palette.training.preferences import Group
from cultural_palette.training.seeding import seeded
from cultural_palette.training.sequences import IGNORED, encode_group, pad
from cultural_palette.training.trainer_arguments import LogReporter, MarkWholeCheckpoints, trainer_arguments
from cultural_palette.training.trainers import load_model

BATCH_TOKENS = 700
"""Positions of a batch, padding included: enough to keep a core's matrix products busy."""


@dataclass(frozen=True)
class Tokens:
    """An example's tokens; `labels` are IGNORED over the prompt. `shares`: token id -> share, for the first
    token of the reply. `prompt_cut`, `reply_cut`: whether max_length took some of it.
    """

    input_ids: list[int]
    labels: list[int]
    shares: Mapping[int, float] | None
    prompt_cut: bool = False
    reply_cut: bool = False

    @property
    def first(self) -> int:
        """Where the reply begins."""
        return next(i for i, label in enumerate(self.labels) if label != IGNORED)


def encoded(rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int) -> list[Tokens]:
    """Token sequences through the chat template."""
    out = []
    for number, row in enumerate(rows, 1):
        group = encode_group(
            tokenizer,
            Group(prompt=row["prompt"], chosen=row["response"], rejected=[], place=f"example {number}"),
            max_length,
        )
        (reply,) = group.answers
        shares = row.get("shares")
        letters = {_token(tokenizer, letter): share for letter, share in shares.items()} if shares else None
        out.append(
            Tokens(
                [*group.prompt, *reply], [*([IGNORED] * len(group.prompt)), *reply], letters,
                group.prompt_cut > 0, group.answers_cut > 0,
            )
        )  # fmt: skip
    return out


def cut_of(sequences: Sequence[Tokens]) -> dict[str, int]:
    """How many prompts and replies lose tokens to max_length."""
    return {
        "prompts": sum(each.prompt_cut for each in sequences),
        "replies": sum(each.reply_cut for each in sequences),
    }


def _token(tokenizer: Any, letter: str) -> int:
    ids: list[int] = tokenizer(letter, add_special_tokens=False)["input_ids"]
    return ids[0]


def batches(sequences: Sequence[Tokens], most: int = BATCH_TOKENS) -> list[list[Tokens]]:
    """Sequences of like length together, at most `most` positions a batch with padding (one sequence, where
    it is longer). Fixed by the sequences alone; a trainer draws their order."""
    out: list[list[Tokens]] = []
    for sequence in sorted(sequences, key=lambda s: len(s.input_ids)):
        if out and len(sequence.input_ids) * (len(out[-1]) + 1) <= most:
            out[-1].append(sequence)
        else:
            out.append([sequence])
    return out


def collate(batch: Sequence[Tokens], pad_id: int) -> dict[str, torch.Tensor]:
    """One batch as tensors: ids and mask (B, L); over the T predicted tokens `where` (T), the flat position
    that predicts it, `targets` (T) and `weights` (T), each example's summing to 1 / B; for soft replies
    `soft_rows`, indices into T (S), and `soft` (S, V as pairs of `soft_ids` and `soft_shares`, padded (S,
    K)).
    """
    tensors = pad([{"input_ids": s.input_ids, "labels": s.labels} for s in batch], pad_id)
    length = tensors["input_ids"].shape[1]
    where: list[Any] = []
    targets, weights, soft = [], [], []
    for row, sequence in enumerate(batch):
        count = len(sequence.labels) - sequence.first
        if sequence.shares:
            soft.append((len(where), sequence.shares))
        for at in range(sequence.first, len(sequence.labels)):
            where.append(row * length + at - 1)
            targets.append(sequence.labels[at])
            weights.append(1.0 / count / len(batch))
    most = max((len(shares) for _, shares in soft), default=1)
    ids = [[*shares, *[0] * (most - len(shares))] for _, shares in soft]
    values = [[*shares.values(), *[0.0] * (most - len(shares))] for _, shares in soft]
    return {
        "input_ids": tensors["input_ids"],
        "attention_mask": tensors["attention_mask"],
        "where": torch.tensor(where),
        "targets": torch.tensor(targets),
        "weights": torch.tensor(weights),
        "soft_rows": torch.tensor([at for at, _ in soft], dtype=torch.long),
        "soft_ids": torch.tensor(ids, dtype=torch.long).view(len(soft), most),
        "soft_shares": torch.tensor(values).view(len(soft), most),
    }


def task_loss(logps: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean over the examples of their mean cross-entropy. `logps`: over the vocabulary, (T, V) -> scalar."""
    losses = -logps.gather(1, batch["targets"][:, None])[:, 0]
    if len(batch["soft_rows"]):
        rows = batch["soft_rows"]
        expected = -(batch["soft_shares"] * logps[rows].gather(1, batch["soft_ids"])).sum(1)
        losses = losses.index_copy(0, rows, expected)
    return (losses * batch["weights"]).sum()


class TaskTrainer(Trainer):
    """Cross-entropy over the replies; the head reads only the positions that predict one."""

    loss_is_scaled_for_ga = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of one laid-out batch."""
        given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        where = inputs["input_ids"].device.type
        with torch.autocast(where, torch.bfloat16, enabled=self.args.bf16):
            inner = self.accelerator.unwrap_model(model).get_base_model()
            states = inner.get_decoder()(**given, use_cache=False).last_hidden_state
            logits = inner.get_output_embeddings()(states.flatten(0, 1)[inputs["where"]])
        loss = task_loss(logits.float().log_softmax(-1), inputs)
        return (loss, {"logits": logits}) if return_outputs else loss


def planned(base: Path, rows: Sequence[Mapping[str, Any]], settings: OrpoSettings) -> dict[str, Any]:
    """What a run would read, without running it: examples and tokens of each form, cuts, batches, steps."""
    sequences = encoded(rows, AutoTokenizer.from_pretrained(base), settings.max_length)
    forms: dict[str, dict[str, int]] = {}
    for row, sequence in zip(rows, sequences, strict=True):
        counted = forms.setdefault(row.get("form") or "chat", {"examples": 0, "tokens": 0, "of_replies": 0})
        counted["examples"] += 1
        counted["tokens"] += len(sequence.input_ids)
        counted["of_replies"] += len(sequence.input_ids) - sequence.first
    laid = batches(sequences)
    return {
        "forms": dict(sorted(forms.items())),
        "examples": len(sequences),
        "tokens": sum(len(s.input_ids) for s in sequences),
        "cut": cut_of(sequences),
        "batches": len(laid),
        "steps": int(settings.epochs * len(laid) / settings.accumulate),
    }


def tune(base: Path, rows: Sequence[Mapping[str, Any]], out: Path, settings: OrpoSettings) -> dict[str, Any]:
    """Train the task adapter into `out`, or go on with it; what is finished is left as it is. Returns the
    manifest. `settings`: those of `palette train`; `weight`, `nll` and `layout` are not used here.

    Raises ArtifactError when another process works in the folder or the config has changed.
    """
    digest = short_sha256(repr([(row["prompt"], row["response"], row.get("shares")) for row in rows]))
    config = {
        "kind": "task",
        "base": base_identity(str(base)),
        "rows": digest,
        "settings": settings.as_config(),
    }
    if RunFolder(out).finished:
        return RunFolder(out, config).same_manifest()
    started = time.perf_counter()
    with RunFolder(out, config) as folder:
        tokenizer = AutoTokenizer.from_pretrained(base)
        sequences = encoded(rows, tokenizer, settings.max_length)
        laid = batches(sequences)
        given = trainer_arguments(settings, out / "checkpoints", evaluates=False)
        with seeded(settings.seed):
            model = load_model(base, settings)
            trainer = TaskTrainer(
                model=model,
                args=TrainingArguments(**given | {"per_device_train_batch_size": 1}),
                train_dataset=[{"batch": batch} for batch in laid],
                data_collator=lambda features: collate(features[0]["batch"], tokenizer.pad_token_id),
                callbacks=[MarkWholeCheckpoints(), LogReporter(folder.append)],
            )
            trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / "checkpoints"))
        save_whole(model, trainer.accelerator.get_state_dict(trainer.model_wrapped), out, None)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        manifest = {
            **config,
            "examples": len(rows),
            "cut": cut_of(sequences),
            "measures": {"loss": losses[-1]} if losses else {},
            "seconds": round(time.perf_counter() - started, 1),
            "versions": installed_versions(PACKAGES),
            "files": saved(out),
        }
        folder.finish(manifest)
    return manifest
