"""Linear layers of an embedded base with their weights in oneDNN's order: the same float32 numbers, read
quicker when a step has a handful of tokens.

One core, the linear layers and the output layer of a step of SmolLM2-135M (five rows): 98 ms with
`torch.nn.functional.linear`, 48 packed; sums are taken in another order (1e-6 of the largest).
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor

ROWS = 5
"""Tokens of a step that the order suits: a draft of each community. Others are computed in it too."""


class PackedLinear(torch.nn.Module):
    """A linear layer without bias in the place of another. The packed weights are its only copy; `weight`, in
    a state dict too, is written out when it is asked for.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight = layer.weight.detach()
        self.out_features, self.in_features = weight.shape
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)

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


def can_pack() -> bool:
    """Whether this machine and this torch have what it takes."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


@torch.inference_mode()
def pack(model: Any) -> None:
    """Put packed layers in the place of all float32 linear layers without bias; a tied output layer's are a
    copy, for the embedding keeps its own.
    """
    for parent in [module for module in model.modules() if not isinstance(module, torch.nn.Linear)]:
        for name in [name for name, child in parent.named_children() if _is_plain(child)]:
            setattr(parent, name, PackedLinear(getattr(parent, name)))


def _is_plain(layer: torch.nn.Module) -> bool:
    """Whether it is a linear layer of float32 on the CPU, without bias."""
    if not isinstance(layer, torch.nn.Linear) or layer.bias is not None:
        return False
    return layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"
