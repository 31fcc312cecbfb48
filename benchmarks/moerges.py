"""What a MoErges costs in memory and time, against its base and against the mixture written out.

    python -m benchmarks.moerges --json

Three ways to play the same part: the dense base (1.0 in every ratio), the base with the communities' low-rank
changes (ours), and the mixture with an FFN a community (written out, as MergeKit makes it). Weights are
random, of the shapes of nano, of SmolLM2-135M, and of one FFN layer of an 8B model; float32, on the CPU.
Every round runs all ways in turn; times are medians, ratios are of medians.
"""

from __future__ import annotations

import gc
import inspect
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaMLP

from cultural_palette.moerges.adapters import Adapter, LowRank
from cultural_palette.moerges.layer import ColouredFFN, Switch, plan
from cultural_palette.moerges.model import install
from cultural_palette.moerges.modes import Routed
from cultural_palette.moerges.router import Router

KEYS = ("africa", "america", "asia", "europe", "oceania")
PROJECTIONS = ("gate", "up", "down")
PROMPT = 64
"""Tokens before a decode step."""


@dataclass(frozen=True)
class Shape:
    """A base's sizes. `layers`: 0 measures one FFN without the rest of a model. `prompts`: of a prefill."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    rank: int
    prompts: int = 8


SHAPES = {
    "nano": Shape(256, 640, 5, 8, 4, 4096, 16),
    "smollm2-135m": Shape(576, 1536, 30, 9, 3, 49152, 8),
    "8b layer": Shape(4096, 14336, 0, 32, 8, 0, 16, prompts=1),
}
Ways = dict[str, Callable[[Any], Any]]


@click.command()
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), help="Again for more.")
@click.option("--rounds", default=5, show_default=True, help="Counted rounds, after one to warm up.")
@click.option("--batch", "batches", multiple=True, default=(1, 8, 32), show_default=True)
@click.option(
    "--prefill",
    default=400,
    show_default=True,
    help="Tokens of a prompt, 8 of them in a batch; one for the layer.",
)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    shapes: tuple[str, ...], rounds: int, batches: tuple[int, ...], prefill: int, threads: int, as_json: bool
) -> None:
    """Measure, and print memory and times as multiples of the dense base."""
    torch.set_num_threads(threads)
    results = {name: measure(SHAPES[name], rounds, batches, prefill) for name in shapes or tuple(SHAPES)}
    if as_json:
        click.echo(json.dumps(results | about(threads), indent=2))
        return
    for name, result in results.items():
        click.echo(f"{name}: base {result['base_mib']:.1f} MiB")
        for row, ratios in result["ratios"].items():
            ours, written = ratios["ours"], ratios["written out"]
            base = f" (base {result['ms'][row]['base']:.2f} ms)" if row in result["ms"] else ""
            click.echo(f"  {row:<22} ours {ours:5.2f}   written out {written:5.2f}{base}")


def measure(shape: Shape, rounds: int, batches: tuple[int, ...], prefill: int) -> dict[str, Any]:
    """Weights in MiB, ms a step and their ratios to the dense base, by what was run."""
    runners, mib = one_ffn(shape) if shape.layers == 0 else whole_models(shape)
    times: dict[str, dict[str, list[float]]] = {}
    runs = {f"decode, batch {batch}": (batch, 1) for batch in batches} | {"prefill": (shape.prompts, prefill)}
    for turn in range(rounds + 1):
        for row, (batch, length) in runs.items():
            for name, run in runners.items():
                seconds = run((batch, length))
                times.setdefault(row, {}).setdefault(name, []).extend([seconds * 1000] if turn else [])
    medians = {row: {name: statistics.median(v) for name, v in cells.items()} for row, cells in times.items()}
    ratios = {"weights in memory": {name: size / mib["base"] for name, size in mib.items()}}
    ratios |= {
        row: {name: ms / cells["base"] for name, ms in cells.items()} for row, cells in medians.items()
    }
    del runners
    gc.collect()
    return {
        "base_mib": round(mib["base"], 2),
        "ms": {row: {name: round(ms, 3) for name, ms in cells.items()} for row, cells in medians.items()},
        "ratios": {row: {name: round(x, 3) for name, x in cells.items()} for row, cells in ratios.items()},
    }


def whole_models(shape: Shape) -> tuple[Ways, dict[str, float]]:
    """Steps of three causal language models, and the MiB that each holds."""
    common = {
        "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "tie_word_embeddings": True, "max_position_embeddings": 2048,
    }  # fmt: skip
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common)).eval()
    config = transformers.MixtralConfig(
        **common, num_local_experts=len(KEYS), num_experts_per_tok=len(KEYS), sliding_window=None
    )
    written = transformers.MixtralForCausalLM(config).eval()
    mib = {"base": size_of(base), "written out": size_of(written)}
    colours = coloured(base, shape)
    mib["ours"] = mib["base"] + colours.bytes / 2**20

    @contextmanager
    def modes(count: int, routed: bool) -> Iterator[None]:
        with colours.use([Routed("paper")] * count if routed else []):
            yield

    def step(model: Any, routed: bool) -> Callable[[tuple[int, int]], float]:
        return lambda size: model_step(model, *size, lambda count: modes(count, routed))

    return {"base": step(base, False), "ours": step(base, True), "written out": step(written, False)}, mib


def model_step(model: Any, batch: int, length: int, modes: Callable[[int], Any]) -> float:
    """Seconds of one forward pass: a decode step behind a prompt for length 1, else a prefill."""
    ids = torch.randint(0, model.config.vocab_size, (batch, length))
    taken = inspect.signature(type(model).forward).parameters
    name, cache = "cache" if "cache" in taken else "past_key_values", None
    with torch.inference_mode():
        if length == 1:
            prompt = torch.randint(0, model.config.vocab_size, (1, PROMPT))
            cache = model(prompt, use_cache=True, logits_to_keep=1)[name]
            cache.batch_repeat_interleave(batch)
        with modes(batch):
            start = time.perf_counter()
            model(ids, use_cache=True, logits_to_keep=1, **{name: cache})
            return time.perf_counter() - start


def one_ffn(shape: Shape) -> tuple[Ways, dict[str, float]]:
    """Steps of one FFN, and the MiB of its weights."""
    config = transformers.LlamaConfig(hidden_size=shape.hidden, intermediate_size=shape.intermediate)
    base = LlamaMLP(config).eval()
    shapes: Any = {part: tuple(getattr(base, f"{part}_proj").weight.shape) for part in PROJECTIONS}
    changes: Any = {
        part: [random_change(shapes[part][0], shapes[part][1], shape.rank) for _ in KEYS]
        for part in PROJECTIONS
    }
    switch = Switch()
    ours = ColouredFFN(base, 0, switch, changes, shapes, torch.float32, torch.device("cpu"))  # type: ignore[arg-type]
    ours.add_router("paper", torch.randn(len(KEYS), shape.hidden) / shape.hidden**0.5)
    experts = [LlamaMLP(config).eval() for _ in KEYS]
    held = sum(b.numel() * 4 for b in ours.buffers()) / 2**20
    mib = {"base": size_of(base), "ours": size_of(base) + held, "written out": sum(map(size_of, experts))}

    def written(x: Any) -> Any:
        gate = (x @ ours.router_paper.T).softmax(-1)
        return sum(gate[..., k : k + 1] * expert(x) for k, expert in enumerate(experts))

    def routed(x: Any) -> Any:
        switch.batch = plan([Routed("paper")] * len(x), KEYS, x.device)
        return ours(x)

    def step(call: Callable[[Any], Any]) -> Callable[[tuple[int, int]], float]:
        def run(size: tuple[int, int]) -> float:
            x = torch.randn(*size, shape.hidden)
            with torch.inference_mode():
                start = time.perf_counter()
                call(x)
                return time.perf_counter() - start

        return run

    return {"base": step(base), "ours": step(routed), "written out": step(written)}, mib


def coloured(base: Any, shape: Shape) -> Any:
    """Five random adapters on every FFN projection, and random router rows."""

    def adapter() -> Adapter:
        changes = {
            f"model.layers.{layer}.mlp.{part}_proj": random_change(
                *(
                    (shape.hidden, shape.intermediate)
                    if part == "down"
                    else (shape.intermediate, shape.hidden)
                ),
                shape.rank,
            )
            for layer in range(shape.layers)
            for part in PROJECTIONS
        }
        return Adapter(Path("random"), {}, changes, {})

    colours = install(base, {key: adapter() for key in KEYS})
    rows = torch.randn(shape.layers, len(KEYS), shape.hidden) / shape.hidden**0.5
    colours.add_router("paper", Router(rows, torch.zeros(shape.layers, len(KEYS))))
    return colours


def random_change(out: int, into: int, rank: int) -> Any:
    """A low-rank change of that shape."""
    return LowRank(torch.randn(rank, into) / into**0.5, torch.randn(out, rank) * 0.02)


def size_of(model: Any) -> float:
    """MiB of a module's parameters; tied ones count once."""
    return float(sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20)


def about(threads: int) -> dict[str, Any]:
    """Machine and versions."""
    return {
        "threads": threads, "machine": platform.machine(), "torch": torch.__version__,
        "transformers": transformers.__version__,
    }  # fmt: skip


if __name__ == "__main__":
    main()
