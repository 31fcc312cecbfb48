"""The communities' FFNs under weights, for a flat batch of tokens, as plain tensors.

The sum is that of `cultural_palette.moerges.layer`; here the base's own products come from vLLM's layers, and
a tensor-parallel rank holds its share of the intermediate width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

CHUNK_TOKENS = {"cpu": 256, "cuda": 2048}
"""Tokens that are worked on together: on a CPU, longer ones fall out of its caches; on a GPU, memory."""
FEW_TOKENS = 32
"""Up to here all communities go through one batched product; beyond, one after the other."""


class LowRanks(NamedTuple):
    """Each community's change to one FFN. Axes: community, rank, then the width in or out; `*_b` scaled."""

    gate_a: Tensor
    gate_b: Tensor
    up_a: Tensor
    up_b: Tensor
    down_a: Tensor
    down_b: Tensor


def mixture(x: Tensor, gate_up: Tensor, weights: Tensor, low: LowRanks) -> tuple[Tensor, Tensor]:
    """The weighted activations, and the low-rank part of the output.

    `x`: (tokens, hidden); `gate_up`: (tokens, 2 * width), the base's; `weights`: (tokens, communities),
    float32. Gives (tokens, width), the base's down projection's input, and (tokens, hidden), to be added to
    its output.
    """
    gate, up = gate_up.chunk(2, -1)
    if len(x) <= FEW_TOKENS:
        return _of_few(x, gate, up, weights, low)
    size = CHUNK_TOKENS.get(x.device.type, CHUNK_TOKENS["cuda"])
    h, y = torch.empty_like(gate), torch.empty_like(x)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        h[part], y[part] = _one_by_one(x[part], gate[part], up[part], weights[part], low)
    return h, y


def _of_few(x: Tensor, gate: Tensor, up: Tensor, weights: Tensor, low: LowRanks) -> tuple[Tensor, Tensor]:
    count = weights.shape[1]
    every = x.expand(count, -1, -1)
    g = torch.baddbmm(gate.expand(count, -1, -1), every @ low.gate_a.transpose(1, 2), low.gate_b)
    u = torch.baddbmm(up.expand(count, -1, -1), every @ low.up_a.transpose(1, 2), low.up_b)
    h = silu(g).mul_(u).mul_(weights.T[:, :, None].to(x.dtype))
    y = torch.bmm(h @ low.down_a.transpose(1, 2), low.down_b)
    return h.sum(0, dtype=torch.float32).to(gate.dtype), y.sum(0, dtype=torch.float32).to(x.dtype)


def _one_by_one(x: Tensor, gate: Tensor, up: Tensor, weights: Tensor, low: LowRanks) -> tuple[Tensor, Tensor]:
    """One community after the other; sums in float32."""
    total = torch.zeros(gate.shape, dtype=torch.float32, device=x.device)
    shares = weights.to(x.dtype)
    lows = []
    for index in range(weights.shape[1]):
        g = torch.addmm(gate, x @ low.gate_a[index].T, low.gate_b[index])
        u = torch.addmm(up, x @ low.up_a[index].T, low.up_b[index])
        h = silu(g).mul_(u).mul_(shares[:, index : index + 1])
        total.add_(h)
        lows.append(h @ low.down_a[index].T)
    y = torch.cat(lows, -1) @ low.down_b.flatten(0, 1)
    return total.to(gate.dtype), y
