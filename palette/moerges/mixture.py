"""The communities' FFNs under weights, token by token, as plain tensors: the one place of the formula.

    g = W_gate x, u = W_up x                                 the base's, given
    h_C = act(g + B_C A_C x) * (u + B_C A_C x)               each community's own changes
    h = sum_C G_C h_C,  y = sum_C G_C B_C A_C h_C            (Cultural Palette, eq. 1, with W_C = W + B_C A_C)

What follows, `W_down h + y`, is the caller's: the base's layer may be quantised, or a tensor-parallel rank's
share of the width (then `h`, and `y` as a part of a sum, are that share's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

CHUNK_TOKENS = {"cpu": 256, "cuda": 2048}
"""Tokens that are worked on together: on a CPU, longer ones fall out of its caches; on a GPU, memory."""
FEW_TOKENS = 16
"""Up to here all communities go through one batched product; beyond, one after the other."""

Act = Callable[[Tensor], Tensor]


class LowRanks(NamedTuple):
    """Each community's change to one FFN. Axes: community, rank, then the width in or out; `*_b` scaled."""

    gate_a: Tensor
    gate_b: Tensor
    up_a: Tensor
    up_b: Tensor
    down_a: Tensor
    down_b: Tensor


def mixture(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    weights: Tensor,
    low: LowRanks,
    act: Act = silu,
    *,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The weighted activations `h`, (tokens, width); the low-rank part of the output `y`, (tokens, hidden).

    `x`: (tokens, hidden); `gate`, `up`: (tokens, width), the base's; `weights`: (tokens, communities),
    float32. `out`: takes `h`; it may be `gate` itself. Sums are in float32.
    """
    if _fused is not None and x.is_cuda and act is silu:
        h, y = _fused(x, gate, up, weights, low)
        return (h if out is None else out.copy_(h)), y
    if len(x) <= FEW_TOKENS:
        h, y = _of_few(x, gate, up, weights, low, act)
        return (h if out is None else out.copy_(h)), y
    h = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) if out is None else out
    y = torch.empty_like(x)
    for part in pieces(x):
        h[part], y[part] = _one_by_one(x[part], gate[part], up[part], weights[part], low, act)
    return h, y


_fused: Callable[..., tuple[Tensor, Tensor]] | None = None


def enable_fused() -> None:
    """From now on GPUs take one Triton kernel for it. Raises ImportError without Triton."""
    global _fused
    from cultural_palette.moerges.fused import fused

    _fused = fused


def pieces(x: Tensor) -> Iterator[slice]:
    """Tokens to work on together, one piece after the other."""
    size = CHUNK_TOKENS.get(x.device.type, CHUNK_TOKENS["cuda"])
    for start in range(0, len(x), size):
        yield slice(start, start + size)


def _of_few(
    x: Tensor, gate: Tensor, up: Tensor, weights: Tensor, low: LowRanks, act: Act
) -> tuple[Tensor, Tensor]:
    count = weights.shape[1]
    every = x.expand(count, -1, -1)
    g = torch.baddbmm(gate.expand(count, -1, -1), every @ low.gate_a.transpose(1, 2), low.gate_b)
    u = torch.baddbmm(up.expand(count, -1, -1), every @ low.up_a.transpose(1, 2), low.up_b)
    h = act(g).mul_(u).mul_(weights.T[:, :, None].to(x.dtype))
    y = torch.bmm(h @ low.down_a.transpose(1, 2), low.down_b)
    return h.sum(0, dtype=torch.float32).to(gate.dtype), y.sum(0, dtype=torch.float32).to(x.dtype)


def _one_by_one(
    x: Tensor, gate: Tensor, up: Tensor, weights: Tensor, low: LowRanks, act: Act
) -> tuple[Tensor, Tensor]:
    total = torch.zeros(gate.shape, dtype=torch.float32, device=x.device)
    shares = weights.to(x.dtype)
    lows = []
    for index in range(weights.shape[1]):
        g = torch.addmm(gate, x @ low.gate_a[index].T, low.gate_b[index])
        u = torch.addmm(up, x @ low.up_a[index].T, low.up_b[index])
        h = act(g).mul_(u).mul_(shares[:, index : index + 1])
        total.add_(h)
        lows.append(h @ low.down_a[index].T)
    return total.to(gate.dtype), torch.cat(lows, -1) @ low.down_b.flatten(0, 1)
