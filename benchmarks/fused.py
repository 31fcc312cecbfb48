"""One FFN of an 8B model on a GPU: the base's, ours in PyTorch, ours by the Triton kernel, and written out.

    python -m benchmarks.fused --json

First both forms of ours are held against float64 (relative error of `h` and `y`), in float32 and bfloat16,
at odd sizes, twice each, since a race shows in a difference between two runs. Then times: medians of CUDA
graphs' replays, as vLLM runs a decoding step; ratios to the dense base's FFN. Random weights, five
communities.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from cultural_palette.moerges import mixture as plain
from cultural_palette.moerges.fused import fused
from cultural_palette.moerges.mixture import LowRanks, mixture

HIDDEN, WIDTH, COUNT = 4096, 14336, 5
TOKENS = (1, 8, 32, 256, 2048)
CHECKED = ((1, 16), (3, 16), (17, 8), (100, 64), (1030, 16))
"""Tokens and rank."""


@click.command()
@click.option("--rounds", default=7, show_default=True)
@click.option("--rank", default=16, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(rounds: int, rank: int, as_json: bool) -> None:
    """Check, measure, and print."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rank": rank,
        "errors": [errors(tokens, rank, dtype) for tokens, rank in CHECKED
                   for dtype in (torch.float32, torch.bfloat16)],
        "ffn": {str(tokens): times(tokens, rank, rounds) for tokens in TOKENS},
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    click.echo(f"{result['gpu']}, torch {result['torch']}, rank {rank}, bfloat16")
    for row in result["errors"]:
        click.echo(f"  {row}")
    for tokens, row in result["ffn"].items():
        click.echo(f"  {tokens:>5} tokens: {row}")


def low_ranks(rank: int, dtype: torch.dtype) -> LowRanks:
    """Random changes of five communities."""

    def random(*size: int) -> Tensor:
        return torch.randn(*size, device="cuda", dtype=torch.float32)

    into, out = random(COUNT, rank, HIDDEN) / HIDDEN**0.5, random(COUNT, rank, WIDTH) * 0.1
    up_in, up_out = random(COUNT, rank, HIDDEN) / HIDDEN**0.5, random(COUNT, rank, WIDTH) * 0.1
    down_in, down_out = random(COUNT, rank, WIDTH) / WIDTH**0.5, random(COUNT, rank, HIDDEN) * 0.1
    return LowRanks(*(t.to(dtype) for t in (into, out, up_in, up_out, down_in, down_out)))


def errors(tokens: int, rank: int, dtype: torch.dtype) -> dict[str, Any]:
    """Relative errors of both forms against float64, and whether two runs of the kernel are the same bits."""
    low = low_ranks(rank, dtype)
    x = torch.randn(tokens, HIDDEN, device="cuda").to(dtype)
    gate, up = (torch.randn(tokens, WIDTH, device="cuda").to(dtype) for _ in range(2))
    weights = torch.randn(tokens, COUNT, device="cuda").softmax(-1)
    double = LowRanks(*(t.double() for t in low))
    true = [
        t.double()
        for t in plain._one_by_one(x.double(), gate.double(), up.double(), weights.double(), double, silu)
    ]

    def off(found: tuple[Tensor, Tensor]) -> list[float]:
        return [
            float(f"{float((one.double() - right).norm() / right.norm()):.2e}")
            for one, right in zip(found, true, strict=True)
        ]

    once, again = (fused(x, gate, up, weights, low) for _ in range(2))
    same = all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    return {
        "tokens": tokens, "rank": rank, "dtype": str(dtype).removeprefix("torch."),
        "plain": off(mixture(x, gate, up, weights, low)), "fused": off(once), "same twice": same,
    }  # fmt: skip


def times(tokens: int, rank: int, rounds: int) -> dict[str, float]:
    """Microseconds of the base's FFN, and the others as multiples of it."""
    dtype = torch.bfloat16
    low = low_ranks(rank, dtype)
    router = torch.randn(COUNT, HIDDEN, device="cuda") / HIDDEN**0.5
    sets = [[(torch.randn(*size, device="cuda") / size[-1] ** 0.5).to(dtype)
             for size in ((2 * WIDTH, HIDDEN), (HIDDEN, WIDTH))] for _ in range(COUNT)]  # fmt: skip
    gate_up, down = sets[0]
    x = torch.randn(tokens, HIDDEN, device="cuda").to(dtype)

    def dense(two: Tensor, one: Tensor) -> Tensor:
        gate, up = linear(x, two).chunk(2, -1)
        return linear(silu(gate) * up, one)

    def shares() -> Tensor:
        return (x.float() @ router.T).softmax(-1)

    def coloured(blend: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        gate, up = linear(x, gate_up).chunk(2, -1)
        h, y = blend(x, gate, up, shares(), low)
        return linear(h, down) + y

    def written() -> Tensor:
        share = shares().to(dtype)
        return sum(share[:, k : k + 1] * dense(*sets[k]) for k in range(COUNT))  # type: ignore[return-value]

    ways: dict[str, Callable[[], Tensor]] = {
        "base": partial(dense, gate_up, down), "plain": partial(coloured, mixture),
        "fused": partial(coloured, fused), "written out": written,
    }  # fmt: skip
    micro = {name: replayed(way, rounds) for name, way in ways.items()}
    ratios = {name: round(time / micro["base"], 3) for name, time in micro.items() if name != "base"}
    return {"base us": round(micro["base"], 1), **ratios}


def replayed(way: Callable[[], Tensor], rounds: int) -> float:
    """Median microseconds of a CUDA graph of it."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            way()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        way()
    taken = []
    for _ in range(rounds + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end) * 100)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
