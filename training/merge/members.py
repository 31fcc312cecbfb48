"""What is merged: each community's weights, as a LoRA adapter over the base or as a full model.

Both answer the same two questions: does this community change that tensor, and what is the tensor then. All
arithmetic is float32: in bfloat16 most of a small LoRA change is rounded away before it is merged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from cultural_palette.jsonl import read_object
from cultural_palette.moerges.peft_settings import (
    FULL_MODEL,
    OUTSIDE,
    WITHIN_FFN,
    AdapterError,
    check_settings,
    scaling_of,
)
from cultural_palette.moerges.peft_weights import BASE_COPY, Factors, stored_lora
from cultural_palette.moerges.quantised import quantised_by, why_not
from cultural_palette.provenance import file_sha256
from cultural_palette.training.merge.checkpoint import Checkpoint, MergeError, open_shard, read_json

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
EMBEDDING = "model.embed_tokens.weight"
WHOLE = frozenset(["modules_to_save"])
"""What a flat merge takes beside low-rank changes: tensors that were trained whole."""


class Member(Protocol):
    """A community's weights over the base."""

    key: str
    path: Path

    def touches(self, name: str) -> bool:
        """Whether the community may change the base's tensor of that name."""

    def weight(self, name: str, base: Any) -> Any:
        """The community's tensor in float32, given the base's in float32."""

    def changed(self) -> list[str]:
        """Names of the base's tensors that the community may change."""

    def change_norm(self, name: str, base: Any, weight: Any) -> float:
        """Frobenius norm of the community's change to that tensor; `weight` is what `weight` gave."""


class Adapter:
    """A PEFT LoRA adapter. Raises MergeError when it is of another kind, or was trained on another base."""

    def __init__(
        self, key: str, path: Path, base: Checkpoint, *, any_base: bool = False, ffn_only: bool = False
    ) -> None:
        self.key, self.path, self.base, self.ffn_only = key, path, base, ffn_only
        self.config = read_json(path / ADAPTER_CONFIG)
        try:
            check_settings(self.config, path, tolerated=OUTSIDE if ffn_only else WHOLE)
            stored = stored_lora(path, self.config)
        except AdapterError as error:
            raise MergeError(str(error)) from None
        if not any_base:
            self._check_base_name()
        self._file = open_shard(stored.file)
        self.outside: list[str] = []
        self._factors: dict[str, Factors] = {}
        self._whole: dict[str, str] = {}
        self._copies: dict[str, str] = {}
        for module, factors in stored.factors.items():
            if self.ffn_only and not WITHIN_FFN.match(module):
                self.outside.append(module + ".weight")
            else:
                self._factors[module + ".weight"] = factors
        for name, stored_name in stored.others.items():
            self._sort_in(name, stored_name)
        self._check_shapes()

    def touches(self, name: str) -> bool:
        """Whether the adapter has a change to that tensor."""
        return name in self._factors or name in self._whole

    def changed(self) -> list[str]:
        """Names of the tensors that the adapter changes, also of those that stay out of a MoErges."""
        return [*self._factors, *self._whole, *self.outside]

    def weight(self, name: str, base: Any) -> Any:
        """W + (B A) * scaling, as PEFT merges it. (out, in)"""
        if name in self._whole:
            return self._file.get_tensor(self._whole[name]).float()
        if name not in self._factors:
            return base
        factors = self._factors[name]
        a, b = (self._file.get_tensor(side).float() for side in (factors.a, factors.b))
        return torch.addmm(base, b, a, alpha=self._scaling(name))

    def change_norm(self, name: str, base: Any, weight: Any) -> float:
        """Norm of the change, from A and B alone: |B A|^2 is the sum over (B'B) * (A A')."""
        if name in self._whole:
            return norm(weight - base)
        factors = self._factors[name]
        a, b = (self._file.get_tensor(side).double() for side in (factors.a, factors.b))
        square = float(((b.T @ b) * (a @ a.T)).sum())
        return self._scaling(name) * math.sqrt(max(square, 0.0))

    def _scaling(self, name: str) -> float:
        return scaling_of(self.config, self.path, name.removesuffix(".weight"))

    def _sort_in(self, name: str, stored: str) -> None:
        if self.ffn_only and not WITHIN_FFN.match(name):
            self.outside.append(name)
        elif "lora_" in name:
            raise MergeError(
                f"{self.path} changes {name.partition('.lora_')[0]} by a LoRA that is none on a linear "
                f"layer: {FULL_MODEL}."
            )
        elif name.endswith(BASE_COPY):  # PEFT saves head and embedding along, where they are targets
            self._copies[name.removesuffix(BASE_COPY) + ".weight"] = stored
        else:  # trained whole, by PEFT's modules_to_save
            self._whole[name.replace(".modules_to_save.default", "")] = stored

    def _check_base_name(self) -> None:
        trained_on = self.config.get("base_model_name_or_path")
        if not trained_on or model_name(str(trained_on)) == model_name(str(self.base.folder)):
            return
        known_as = self.base.config.get("_name_or_path")
        if known_as and model_name(str(known_as)) == model_name(str(trained_on)):
            return
        raise MergeError(
            f"{self.path} was trained on {model_name(str(trained_on))!r}, and the base is "
            f"{model_name(str(self.base.folder))!r}. "
            "If that is the same model under another name, say --any-base."
        )

    def _check_shapes(self) -> None:
        if not self.changed():
            raise MergeError(f"{self.path} has no weights.")
        for name, factors in self._factors.items():
            self._check_fits(name, factors.shape)
        for name, stored in self._whole.items():
            self._check_fits(name, tuple(self._file.get_slice(stored).get_shape()))
            if name == EMBEDDING and self.base.config.get("tie_word_embeddings"):
                raise MergeError(
                    f"{self.path} trained embed_tokens whole, to which {self.base.folder} ties its head, "
                    f"and the adapter does not: {FULL_MODEL}."
                )
        for name, stored in self._copies.items():
            self._check_copy(name, self._file.get_tensor(stored))

    def _check_copy(self, name: str, copy: Any) -> None:
        """The base's own tensor, saved along, is the base's own."""
        self._check_fits(name, tuple(copy.shape))
        if not torch.equal(copy.float(), self.base.tensor(name).float()):
            raise MergeError(
                f"{self.path} was trained over another {name} than {self.base.folder} has: {FULL_MODEL}."
            )

    def _check_fits(self, name: str, shape: tuple[int, ...]) -> None:
        if name == "lm_head.weight" and name not in self.base and self.base.config.get("tie_word_embeddings"):
            raise MergeError(
                f"{self.path} changes lm_head, which {self.base.folder} ties to its embedding: {FULL_MODEL}."
            )
        if name not in self.base:
            raise MergeError(f"{self.path} is for another base: {self.base.folder} has no {name}.")
        if shape != self.base.shape(name):
            raise MergeError(
                f"{self.path} is for another base: its {name} is {shape}, the base's {self.base.shape(name)}."
            )


class FullModel:
    """A fully fine-tuned model of the base's shape. Raises MergeError when tensors or shapes differ."""

    def __init__(self, key: str, path: Path, base: Checkpoint) -> None:
        self.key, self.path = key, path
        self._weights = Checkpoint(path)
        if self._weights.model_type != base.model_type:
            raise MergeError(f"{path} is a {self._weights.model_type} model, the base a {base.model_type}.")
        # Rotary frequencies are computed; older checkpoints hold them all the same.
        differ = set(base.files) ^ set(self._weights.files)
        if missing := sorted(name for name in differ if "rotary_emb" not in name):
            raise MergeError(f"{path} is not of the base's shape: {missing[0]} is in one of the two only.")
        for name in set(base.files) & set(self._weights.files):
            if base.shape(name) != self._weights.shape(name):
                raise MergeError(
                    f"{path} is for another base: its {name} is {self._weights.shape(name)}, the base's "
                    f"{base.shape(name)}."
                )

    def touches(self, name: str) -> bool:
        """A full model may change every tensor."""
        return name in self._weights

    def changed(self) -> list[str]:
        """Every tensor's name."""
        return list(self._weights.files)

    def weight(self, name: str, base: Any) -> Any:
        """The model's own tensor, float32; `base` is not needed."""
        return self._weights.tensor(name).float()

    def change_norm(self, name: str, base: Any, weight: Any) -> float:
        """Norm of the difference."""
        return norm(weight - base)


def open_members(
    base: Checkpoint, paths: Mapping[str, Path], *, any_base: bool = False, ffn_only: bool = False
) -> list[Member]:
    """Each community's adapter or full model, checked against the base: kind, shapes, name and tokenizer.

    `any_base`: take an adapter whose configuration names another base, if its shapes fit. `ffn_only`: of an
    adapter only the FFN is wanted, and what else it changes is counted and stays out.
    """
    members: list[Member] = []
    refuse_quantised(base.folder)
    for key, path in paths.items():
        path = Path(path)
        if (path / ADAPTER_CONFIG).is_file():
            members.append(Adapter(key, path, base, any_base=any_base, ffn_only=ffn_only))
        elif (path / "config.json").is_file():
            refuse_quantised(path)
            members.append(FullModel(key, path, base))
        else:
            raise MergeError(f"{path} has neither {ADAPTER_CONFIG} nor config.json: no adapter and no model.")
        check_tokenizer(base.folder, path)
    return members


def refuse_quantised(folder: Path) -> None:
    """Raise MergeError for weights that are stored quantised: without their scales they mean nothing."""
    if method := quantised_by(folder):
        raise MergeError(why_not(folder, method, "merging them"))


def check_tokenizer(base: Path, other: Path) -> None:
    """Raise MergeError when `other` has a tokenizer whose pieces or ids are not the base's."""
    ours, theirs = (_pieces(folder) for folder in (base, other))
    if ours is None or theirs is None or ours == theirs:
        return
    for what in ("vocabulary", "merges", "special tokens"):
        if ours[what] != theirs[what]:
            raise MergeError(
                f"{other} has another tokenizer than the base {base} (their {what} differ): "
                "token ids would mean different words. Merge models of one tokenizer."
            )


def fingerprint(member: Member) -> dict[str, Any]:
    """Kind, path name and SHA-256 of an adapter's weights (of the configuration, for a full model)."""
    adapter = isinstance(member, Adapter)
    file = member.path / (ADAPTER if adapter else "config.json")
    return {
        "kind": "adapter" if adapter else "model",
        "folder": member.path.name,
        "file": file.name,
        "sha256": file_sha256(file),
    }


def norm(tensor: Any) -> float:
    """Frobenius norm."""
    return float(torch.linalg.vector_norm(tensor))


def model_name(reference: str) -> str:
    """The model's own name from a hub id, a folder, or a folder of the hub's cache."""
    cached = re.search(r"models--[^/]+?--([^/]+)/snapshots/", reference.rstrip("/") + "/")
    return cached[1] if cached else reference.rstrip("/").rpartition("/")[2]


def _pieces(folder: Path) -> dict[str, Any] | None:
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        content = read_object(file, nan=True)
        model = content["model"]
        return {
            "vocabulary": model["vocab"],
            "merges": [
                pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges") or []
            ],
            "special tokens": [(t["id"], t["content"]) for t in content.get("added_tokens") or []],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MergeError(f"{file} can not be read: {error!r}") from None
