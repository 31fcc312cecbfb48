"""Run with TRITON_INTERPRET=1 by a Python that has torch and triton: the largest difference from the plain
form, relative, for several shapes, as JSON.
"""

from __future__ import annotations

import json

import torch

from cultural_palette.moerges.fused import fused
from cultural_palette.moerges.mixture import LowRanks, mixture

# tokens, hidden, width, communities, ranks of gate, up, down
SHAPES = {
    "one token": (1, 24, 72, 5, (8, 8, 8)),
    "ranks differ, odd width": (37, 40, 150, 3, (3, 20, 5)),
    "width in shares": (18, 32, 64 * 70, 2, (16, 16, 16)),
}


def difference(tokens: int, hidden: int, width: int, count: int, ranks: tuple[int, int, int]) -> float:
    torch.manual_seed(0)
    gate_r, up_r, down_r = ranks
    sizes = (
        (gate_r, hidden), (gate_r, width), (up_r, hidden), (up_r, width), (down_r, width), (down_r, hidden),
    )  # fmt: skip
    low = LowRanks(*(torch.randn(count, *size) / 4 for size in sizes))
    x, gate_up = torch.randn(tokens, hidden), torch.randn(tokens, 2 * width)
    gate, up = gate_up.chunk(2, -1)
    weights = torch.randn(tokens, count).softmax(-1)
    weights[0] = torch.eye(count)[0]
    pairs = zip(fused(x, gate, up, weights, low), mixture(x, gate, up, weights, low), strict=True)
    return max(float((ours - plain).abs().max() / plain.abs().max()) for ours, plain in pairs)


if __name__ == "__main__":
    print(json.dumps({name: difference(*shape) for name, shape in SHAPES.items()}))
