"""The sum of `mixture.py` as one Triton kernel, for GPUs: no community's activations leave the chip.

The plain form writes and reads five activations a token; this one reads the base's `gate` and `up` and writes
`h`, once each. What goes to the rank (`x A`) and comes back from it (`.. B`) stays two small products of
PyTorch's.

Triton is not required: `mixture` comes here only after `enable_fused`, in a process that has it. A test holds
it against the plain form by Triton's interpreter on a CPU, `benchmarks/fused.py` on a GPU (an H200's figures
are in docs/serving.md). It has not run under a whole server yet, so it is asked for by name (`fused: true`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS, WIDTH = 16, 64
"""A block: tokens, and positions of the FFN's width."""
SPLITS = 32
"""Programs, at most, that share the width of one block of tokens: a decoding step has only one such block."""


@triton.jit  # type: ignore[untyped-decorator]
def _sum(  # type: ignore[no-untyped-def]
    gate, up, to_gate, to_up, gate_b, up_b, down_a, weights, h, parts,
    tokens, width, gate_stride, up_stride, share,
    COUNT: tl.constexpr, GATE: tl.constexpr, UP: tl.constexpr, DOWN: tl.constexpr,
    GATE_P: tl.constexpr, UP_P: tl.constexpr, DOWN_P: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """One block of tokens, and its share of the width. `*_P`: ranks, filled up to what `tl.dot` takes."""
    row = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    split = tl.program_id(1)
    in_row = row < tokens
    to_g, to_u, to_d = tl.arange(0, GATE_P), tl.arange(0, UP_P), tl.arange(0, DOWN_P)
    begin = split * share
    for start in range(0, share, BLOCK_W):
        col = begin + start + tl.arange(0, BLOCK_W)
        in_col = (col < width) & (start + tl.arange(0, BLOCK_W) < share)
        here = in_row[:, None] & in_col[None, :]
        base_g = tl.load(gate + row[:, None] * gate_stride + col[None, :], here, 0.0).to(tl.float32)
        base_u = tl.load(up + row[:, None] * up_stride + col[None, :], here, 0.0).to(tl.float32)
        total = tl.zeros((BLOCK_T, BLOCK_W), tl.float32)
        for c in range(COUNT):
            low = tl.load(
                to_gate + row[:, None] * (COUNT * GATE) + c * GATE + to_g[None, :],
                in_row[:, None] & (to_g < GATE)[None, :], 0.0,
            )  # fmt: skip
            back = tl.load(
                gate_b + (c * GATE + to_g[:, None]) * width + col[None, :],
                (to_g < GATE)[:, None] & in_col[None, :], 0.0,
            )  # fmt: skip
            g = base_g + tl.dot(low, back, input_precision="ieee")
            low = tl.load(
                to_up + row[:, None] * (COUNT * UP) + c * UP + to_u[None, :],
                in_row[:, None] & (to_u < UP)[None, :], 0.0,
            )  # fmt: skip
            back = tl.load(
                up_b + (c * UP + to_u[:, None]) * width + col[None, :],
                (to_u < UP)[:, None] & in_col[None, :], 0.0,
            )  # fmt: skip
            u = base_u + tl.dot(low, back, input_precision="ieee")
            weight = tl.load(weights + row * COUNT + c, in_row, 0.0)
            mine = g * tl.sigmoid(g) * u * weight[:, None]
            total += mine
            away = tl.load(
                down_a + (c * DOWN + to_d[None, :]) * width + col[:, None],
                in_col[:, None] & (to_d < DOWN)[None, :], 0.0,
            )  # fmt: skip
            # Of this program alone, so no other adds here at the same time.
            place = parts + (split * tokens + row[:, None]) * (COUNT * DOWN) + c * DOWN + to_d[None, :]
            ours = in_row[:, None] & (to_d < DOWN)[None, :]
            part = tl.dot(mine.to(away.dtype), away, input_precision="ieee")
            tl.store(place, tl.load(place, ours, 0.0) + part, ours)
        tl.store(h + row[:, None] * width + col[None, :], total.to(h.dtype.element_ty), here)


def fused(x: Tensor, gate: Tensor, up: Tensor, weights: Tensor, low: Any) -> tuple[Tensor, Tensor]:
    """`mixture` with SiLU. Same arguments and results; sums in float32, and in the same order each time."""
    tokens, width = gate.shape
    count = weights.shape[1]
    ranks = {name: getattr(low, f"{name}_a").shape[1] for name in ("gate", "up", "down")}
    filled = {name: max(16, triton.next_power_of_2(rank)) for name, rank in ranks.items()}
    blocks = triton.cdiv(width, WIDTH)
    splits = min(SPLITS, blocks)
    share = triton.cdiv(blocks, splits) * WIDTH
    splits = triton.cdiv(width, share)
    h = torch.empty((tokens, width), dtype=gate.dtype, device=x.device)
    parts = torch.zeros((splits, tokens, count * ranks["down"]), dtype=torch.float32, device=x.device)
    _sum[triton.cdiv(tokens, TOKENS), splits](
        gate, up, x @ low.gate_a.flatten(0, 1).T, x @ low.up_a.flatten(0, 1).T,
        low.gate_b.contiguous(), low.up_b.contiguous(), low.down_a.contiguous(),
        weights.float().contiguous(), h, parts,
        tokens, width, gate.stride(0), up.stride(0), share,
        COUNT=count, GATE=ranks["gate"], UP=ranks["up"], DOWN=ranks["down"],
        GATE_P=filled["gate"], UP_P=filled["up"], DOWN_P=filled["down"],
        BLOCK_T=TOKENS, BLOCK_W=WIDTH,
    )  # fmt: skip
    return h, parts.sum(0).to(x.dtype) @ low.down_b.flatten(0, 1)
