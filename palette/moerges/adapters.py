"""A PEFT LoRA folder as low-rank changes to linear layers: W + B A, with the scaling folded into B.

Which settings of PEFT leave that form exact is the matter of `peft_settings.py`, which tensors do that of
`peft_weights.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cultural_palette.moerges.peft_settings import (
    FFN,
    FULL_MODEL,
    OUTSIDE,
    WEIGHTS,
    WITHIN_FFN,
    AdapterError,
    check_settings,
    read_config,
    scaling_of,
)
from cultural_palette.moerges.peft_weights import StoredLora, stored_lora

ATTENTION = re.compile(r"model\.layers\.\d+\.self_attn\.[qkvo]_proj")


@dataclass(frozen=True)
class LowRank:
    """A change to a linear layer's weight, b @ a, float32. `a`: (rank, in); `b`: (out, rank), scaled."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """The number of rows of `a`."""
        return int(self.a.shape[0])

    def delta(self) -> Tensor:
        """The change written out. (out, in)"""
        return self.b @ self.a


@dataclass(frozen=True)
class Adapter:
    """A community's changes. `ffn`, `attention`: module name in the base ("model.layers.0.mlp.up_proj") ->
    change. `left_out`: names of what the file holds besides, which no part plays.
    """

    folder: Path
    config: Mapping[str, Any]
    ffn: Mapping[str, LowRank]
    attention: Mapping[str, LowRank]
    left_out: tuple[str, ...] = ()

    @property
    def stays_out_of_moerges(self) -> tuple[str, ...]:
        """What the agent has and a MoErges leaves out: modules of attention, then `left_out`."""
        return (*self.attention, *self.left_out)

    @property
    def bytes(self) -> int:
        """Size of the FFN's changes in float32."""
        return sum(4 * (change.a.numel() + change.b.numel()) for change in self.ffn.values())


def read_adapter(folder: Path, *, ffn_only: bool = False) -> Adapter:
    """A LoRA folder as PEFT writes it. Raises AdapterError.

    `ffn_only`: take the FFN's changes and list what else there is in `left_out`, as a MoErges does; without
    it, whatever an agent could not play exactly is an error.
    """
    folder = Path(folder)
    config = read_config(folder)
    check_settings(config, folder, tolerated=OUTSIDE if ffn_only else frozenset())
    ffn: dict[str, LowRank] = {}
    attention: dict[str, LowRank] = {}
    left_out: list[str] = []
    stored = stored_lora(folder, config)
    if whole := next((name for name in stored.others if WITHIN_FFN.match(name)), None):
        raise AdapterError(
            f"{folder} has {whole}, a tensor of the FFN that is no low-rank change: the dense way (--dense) "
            "takes it."
        )
    for module, change in _changes(stored, config, folder):
        if FFN.fullmatch(module):
            ffn[module] = change
        elif ATTENTION.fullmatch(module):
            attention[module] = change
        else:
            left_out.append(module)
    left_out += stored.others
    if left_out and not ffn_only:
        raise AdapterError(
            f"{folder} changes {left_out[0]} too, which is neither FFN nor attention projection of a layer: "
            f"an agent without it would be another one; {FULL_MODEL}."
        )
    if not ffn and not attention:
        raise AdapterError(f"{folder}: {WEIGHTS} changes no FFN or attention projection of any layer.")
    if ffn_only and not ffn:
        raise AdapterError(
            f"{folder} changes no FFN projection, and a MoErges is made of FFNs: train on gate_proj, up_proj "
            "and down_proj."
        )
    return Adapter(folder, config, ffn, attention, tuple(left_out))


def _changes(stored: StoredLora, config: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, LowRank]]:
    """Each module's change, with the scaling in B."""
    try:
        with safe_open(stored.file, framework="pt") as file:
            for module, factors in stored.factors.items():
                a, b = (file.get_tensor(name).float() for name in (factors.a, factors.b))
                if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
                    raise AdapterError(f"{folder}: {module} has values that are not finite.")
                yield module, LowRank(a.contiguous(), (b * scaling_of(config, folder, module)).contiguous())
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{stored.file} can not be read: {error}. Is the download complete?") from None


def check_fits(adapter: Adapter, linear_shapes: Mapping[str, tuple[int, int]], base: str) -> None:
    """Raise AdapterError when a change has no module in the base, or another shape. `linear_shapes`: module
    name -> (out, in)."""
    for module, change in (*adapter.ffn.items(), *adapter.attention.items()):
        if module not in linear_shapes:
            raise AdapterError(f"{adapter.folder} is for another base: {base} has no linear layer {module}.")
        shape = (change.b.shape[0], change.a.shape[1])
        if shape != linear_shapes[module]:
            raise AdapterError(
                f"{adapter.folder} is for another base: its {module} is {shape}, that of {base} "
                f"{linear_shapes[module]}."
            )


def stack(changes: list[LowRank | None], out_features: int, in_features: int) -> tuple[Tensor, Tensor]:
    """Changes of several communities to one layer, padded with zeros to the highest rank.

    `a`: (communities, rank, in); `b`: (communities, rank, out). None is no change.
    """
    rank = max((change.rank for change in changes if change is not None), default=0)
    a = torch.zeros(len(changes), rank, in_features)
    b = torch.zeros(len(changes), rank, out_features)
    for index, change in enumerate(changes):
        if change is not None:
            a[index, : change.rank] = change.a
            b[index, : change.rank] = change.b.T
    return a, b
