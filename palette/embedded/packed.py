"""Linear layers of an embedded base with their weights in an order that is read quicker when a step has a
handful of tokens.

A step is mostly reading weights. A base saved in 16 bits, as nearly all are, is read in 16: FBGEMM keeps them
as float16, widens them in registers and computes in float32, so the numbers are the same and half as many
bytes come from memory. Weights that float16 does not hold are kept in float32, in oneDNN's order.

One core, the layers of SmolLM2-135M out of the caches: the output layer for one row 9.7 ms with
`torch.nn.functional.linear`, 7.8 in oneDNN's order, 1.8 in float16. For hundreds of rows, as of a prompt,
float16 takes 3 to 20 % longer than oneDNN's. Sums are taken in another order (1e-6 of the largest).
"""

from __future__ import annotations

import functools
import platform
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ROWS = 5
"""Tokens of a step that oneDNN's order suits: a draft of each community. Others are computed in it too."""
PLAIN = (torch.float32, torch.bfloat16, torch.float16)
"""Types of weights that are no quantised ones."""


class PackedLinear(torch.nn.Module):
    """A linear layer without bias in the place of another. The packed weights are its only copy; `weight`, in
    a state dict too, is written out when it is asked for.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        self.out_features, self.in_features = weight.shape
        self.packed: Any = self._pack(weight)

    @staticmethod
    def _pack(weight: Tensor) -> Any:
        return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)

    @property
    def weight(self) -> Tensor:
        """The weight in the plain order, a copy. (out, in)"""
        plain: Tensor = self.packed.to_dense()
        return plain

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight

    def forward(self, states: Tensor) -> Tensor:
        """(.., in) -> (.., out)"""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, self.packed, None, "none", [], "")
        return product


class HalfLinear(PackedLinear):
    """One whose weights are kept in float16; what goes in, sums and what comes out are float32."""

    @staticmethod
    def _pack(weight: Tensor) -> Any:
        return torch.ops.quantized.linear_prepack_fp16(weight, None)

    @property
    def weight(self) -> Tensor:
        """As of PackedLinear; float32."""
        plain: Tensor = torch.ops.quantized.linear_unpack_fp16(self.packed)[0]
        return plain

    def forward(self, states: Tensor) -> Tensor:
        """(.., in) -> (.., out)"""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(states, self.packed)
        return product


def can_pack() -> bool:
    """Whether this machine and this torch have what it takes."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


@functools.cache
def can_halve() -> bool:
    """Whether FBGEMM reads float16 here: it was built in, and the processor widens it (F16C)."""
    layer = SimpleNamespace(weight=torch.eye(16))  # a real one would draw its weights
    try:
        with torch.inference_mode():
            return bool(torch.equal(HalfLinear(layer)(torch.ones(1, 16)), torch.ones(1, 16)))
    except (RuntimeError, AttributeError):
        return False


@torch.inference_mode()
def pack(model: Any) -> None:
    """Put packed layers in the place of all linear layers without bias, in the precision of their weights; a
    tied output layer's are a copy, for the embedding keeps its own. What is left is as it was.
    """
    for parent in [module for module in model.modules() if not isinstance(module, torch.nn.Linear)]:
        for name in [name for name, child in parent.named_children() if _is_plain(child)]:
            layer = getattr(parent, name)
            half = can_halve() and fits_half(layer.weight)
            setattr(parent, name, HalfLinear(layer) if half else PackedLinear(layer))


def fits_half(weight: Tensor) -> bool:
    """Whether float16 holds numbers of this type; of bfloat16, what is below its smallest step is lost: 3e-8
    at most.
    """
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return False
    low, high = weight.aminmax()
    return bool(max(-low, high) <= torch.finfo(torch.float16).max)


def _is_plain(layer: torch.nn.Module) -> bool:
    """Whether it is a linear layer of floating numbers on the CPU, without bias."""
    if not isinstance(layer, torch.nn.Linear) or layer.bias is not None:
        return False
    return layer.weight.dtype in PLAIN and layer.weight.device.type == "cpu"
