"""A PEFT LoRA folder as low-rank changes to linear layers: W + B A, with the scaling folded into B.

Which settings of PEFT leave that form exact is the matter of `peft_settings.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cultural_palette.moerges.peft_settings import (
    CONFIG,
    FACTOR,
    FFN,
    FULL_MODEL,
    OUTSIDE,
    PREFIX,
    WEIGHTS,
    AdapterError,
    check_settings,
    find_weights,
    read_config,
)

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
    pairs, others = _read_pairs(folder)
    for module, sides in pairs.items():
        if FFN.fullmatch(module):
            ffn[module] = _change(folder, config, module, sides)
        elif ATTENTION.fullmatch(module):
            attention[module] = _change(folder, config, module, sides)
        else:
            left_out.append(module)
    left_out += others
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


def _read_pairs(folder: Path) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Module -> {"A": tensor, "B": tensor}, and the names of all other tensors."""
    path = find_weights(folder)
    pairs: dict[str, dict[str, Tensor]] = {}
    others: list[str] = []
    names: set[str | None] = set()
    try:
        with safe_open(path, framework="pt") as file:
            for stored in file.keys():  # noqa: SIM118 (not a dict)
                match = FACTOR.fullmatch(stored.removeprefix(PREFIX))
                if match is None:
                    others.append(stored.removeprefix(PREFIX))
                    continue
                names.add(match["name"])
                pairs.setdefault(match["module"], {})[match["side"]] = file.get_tensor(stored).float()
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} can not be read: {error}. Is the download complete?") from None
    if len(names) > 1:
        shown = ", ".join(sorted(name or "(no name)" for name in names))
        raise AdapterError(f"{path} holds several adapters ({shown}): save each in a folder of its own.")
    return pairs, others


def _change(folder: Path, config: Mapping[str, Any], module: str, sides: Mapping[str, Tensor]) -> LowRank:
    if set(sides) != {"A", "B"}:
        raise AdapterError(f"{folder}: {module} has lora_{next(iter(sides))} only; the file is not whole.")
    a, b = sides["A"], sides["B"]
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise AdapterError(f"{folder}: {module} has lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)}.")
    rank = _setting(folder, config, "rank_pattern", "r", module)
    if rank != a.shape[0]:
        raise AdapterError(
            f"{folder}: {module} has rank {a.shape[0]} in {WEIGHTS} and {rank:g} in {CONFIG}; one of the two "
            "is another adapter's."
        )
    if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
        raise AdapterError(f"{folder}: {module} has values that are not finite.")
    alpha = _setting(folder, config, "alpha_pattern", "lora_alpha", module)
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LowRank(a.contiguous(), (b * scaling).contiguous())


def _setting(folder: Path, config: Mapping[str, Any], pattern: str, default: str, module: str) -> float:
    """PEFT's rule: the first pattern that matches the module's name at its end, else the default."""
    patterns = config.get(pattern) or {}
    setting = config.get(default)
    if not isinstance(patterns, dict):
        raise AdapterError(f"{folder}: {pattern} is {patterns!r}; expected an object of names and numbers.")
    for key, value in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({key})$", module)
        except re.error as error:
            raise AdapterError(f"{folder}: {pattern} has {key!r}, no regular expression: {error}.") from None
        if matches:
            setting = value
            break
    if (
        isinstance(setting, bool)
        or not isinstance(setting, int | float)
        or not math.isfinite(setting)
        or setting <= 0
    ):
        raise AdapterError(f"{folder}: {default} of {module} is {setting!r}; expected a positive number.")
    return float(setting)


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
