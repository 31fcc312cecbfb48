"""A palette of an 8B base on one server against the two-server way: memory, time a token, the whole graph.

    python -m benchmarks.one_server --shape 8b --way one --way two --json          # a GPU with 140 GiB
    python -m benchmarks.one_server --shape 8b --way one --way fp8 --gib 24 --json  # the same in 24 GiB
    python -m benchmarks.one_server --shape tiny --way one --way two                # how it runs, on a CPU

Weights are random, of the shape of Llama-3.1-8B: five adapters of rank 16 on every linear layer, a router.
*one*: the base with coloured FFNs, adapters and MoErges in one vLLM (`palette serve up`); *fp8*: the same on
a base that vLLM quantises as it loads; *two*: the base with its adapters, and the mixture written out, in a
vLLM each (`--dense`; the mixture's weights are made by `--load-format dummy`, since only their shape counts).
Measured on each: what vLLM says of weights and cache, ms a token of a stream of the base, an agent and the
MoErges at 1, 8 and 32 streams, tokens a second of a prefill, items and tokens a second of the whole graph.
Tokens are random: their number counts, not their sense. Every way runs in turn on the same GPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
import torch
import yaml
from safetensors.torch import save_file

from benchmarks import moerges
from benchmarks.moerges import KEYS
from benchmarks.serving import Load, run_graph, taken
from cultural_palette.moerges.router import Router, save_routers

BATCHES = (1, 8, 32)
TOGETHER = 0.3, 0.56
"""Shares of a GPU of 140 GiB for base with adapters, and for the mixture."""
PROMPT_TOKENS, NEW_TOKENS, PREFILL_TOKENS = 64, 128, 2000
STEPS = ["1", "2", "4", "8", "16", "32", "64", "128", "256"]
"""Batches for which a CUDA graph is captured: fewer than vLLM's own, for a shorter start."""


class Shape(moerges.Shape):
    """A Llama's sizes, and what is written of them."""

    def config(self, experts: int = 0) -> dict[str, Any]:
        """config.json, of the base or of the mixture written out."""
        kind = ("MixtralForCausalLM", "mixtral") if experts else ("LlamaForCausalLM", "llama")
        common = {
            "architectures": [kind[0]], "model_type": kind[1], "vocab_size": self.vocabulary,
            "hidden_size": self.hidden, "intermediate_size": self.intermediate, "dtype": "bfloat16",
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "hidden_act": "silu",
            "num_key_value_heads": self.kv_heads, "head_dim": self.hidden // self.heads,
            "max_position_embeddings": 8192, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip
        mixture = {
            "num_local_experts": experts,
            "num_experts_per_tok": experts,
            "router_jitter_noise": 0.0,
            "sliding_window": None,
        }
        return common | (mixture if experts else {})

    def linears(self) -> dict[str, tuple[int, int]]:
        """Each linear layer of a block: (out, in)."""
        keys = self.kv_heads * self.hidden // self.heads
        return {
            "self_attn.q_proj": (self.hidden, self.hidden), "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden), "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }  # fmt: skip


SHAPES = {
    "8b": Shape(4096, 14336, 32, 32, 8, 128_256, 16),
    "tiny": Shape(64, 160, 2, 2, 1, 49_152, 8),
}
WAYS = ("one", "fp8", "two")


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="8b", show_default=True)
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), default=("one", "two"))
@click.option("--gib", type=float, help="GiB of the GPU for the one server.  [default: 90 %]")
@click.option("--items", default=128, show_default=True, help="Items of the whole graph.")
@click.option("--at-once", default=64, show_default=True, help="Items in flight.")
@click.option("--max-tokens", default=96, show_default=True, help="Tokens of each draft and account.")
@click.option("--rounds", default=1, show_default=True, help="Of the graph; the best counts.")
@click.option("--fused", is_flag=True, help="The Triton kernel in the one server.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Keep the palette there.  [default: a temporary one]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    shape: str, ways: tuple[str, ...], gib: float | None, items: int, at_once: int, max_tokens: int,
    rounds: int, fused: bool, folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure each way in turn, and print what it takes."""
    results: dict[str, Any] = {"gpu": gpu(), "shape": shape, "gib": gib, "ways": {}}
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        palette = make(SHAPES[shape], folder)
        load = Load(items, at_once, rounds, 0, max_tokens)
        for way in ways:
            with served(palette, way, gib, fused) as (settings, started):
                results["ways"][way] = {
                    **started,
                    **asyncio.run(measure(settings, load, SHAPES[shape].vocabulary)),
                }
            if not as_json:
                click.echo(f"{way}: {json.dumps(results['ways'][way])}")
    if as_json:
        click.echo(json.dumps(results, indent=1))


# -- the palette ----------------------------------------------------------------------------------


def make(shape: Shape, folder: Path) -> Path:
    """A palette of random weights in `folder`, unless it is there."""
    if (folder / "whole").exists():
        return folder
    for name, experts in (("base", 0), ("moerges", len(KEYS))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_tokenizer(shape.vocabulary, folder / name)
        (folder / name / "config.json").write_text(json.dumps(shape.config(experts)))
    write_base(shape, folder / "base")
    for key in KEYS:
        write_adapter(shape, folder / "adapters" / key)
    rows = torch.randn(shape.layers, len(KEYS), shape.hidden) / shape.hidden**0.5
    save_routers(folder / "router.safetensors", {"paper": Router(rows, torch.zeros(rows.shape[:2]))}, KEYS)
    (folder / "whole").touch()
    torch.cuda.empty_cache()
    return folder


def random_weight(*size: int) -> torch.Tensor:
    """Normal, scaled so that activations keep their size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return (torch.randn(*size, device=device) / size[-1] ** 0.5).to(torch.bfloat16).cpu()


def write_base(shape: Shape, folder: Path) -> None:
    """A file a block, and one for the rest."""
    ends = {
        "model.embed_tokens.weight": random_weight(shape.vocabulary, shape.hidden),
        "lm_head.weight": random_weight(shape.vocabulary, shape.hidden),
        "model.norm.weight": torch.ones(shape.hidden, dtype=torch.bfloat16),
    }
    parts = [ends]
    for number in range(shape.layers):
        block = {f"{name}.weight": random_weight(*size) for name, size in shape.linears().items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            block[f"{norm}.weight"] = torch.ones(shape.hidden, dtype=torch.bfloat16)
        parts.append({f"model.layers.{number}.{name}": tensor for name, tensor in block.items()})
    where, size = {}, 0
    for index, part in enumerate(parts, 1):
        file = f"model-{index:05}-of-{len(parts):05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
        size += sum(tensor.nbytes for tensor in part.values())
    index_file = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file))


def write_adapter(shape: Shape, folder: Path) -> None:
    """A LoRA on every linear layer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for number in range(shape.layers):
        for name, (out, into) in shape.linears().items():
            start = f"base_model.model.model.layers.{number}.{name}"
            tensors[f"{start}.lora_A.weight"] = random_weight(shape.rank, into)
            tensors[f"{start}.lora_B.weight"] = random_weight(out, shape.rank) * 0.05
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = [name.rpartition(".")[2] for name in shape.linears()]
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "base", "r": shape.rank,
        "lora_alpha": shape.rank, "lora_dropout": 0.0, "bias": "none", "target_modules": targets,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_tokenizer(vocabulary: int, folder: Path) -> None:
    """The small palette's tokenizer, filled up with pairs of its words that it never makes itself."""
    from cultural_palette.embedded.smollm2 import checkpoint
    from cultural_palette.settings import cache_folder

    source = checkpoint(cache_folder())
    for file in source.glob("*token*"):
        shutil.copy(file, folder / file.name)
    for file in source.glob("*.jinja"):
        shutil.copy(file, folder / file.name)
    whole = json.loads((folder / "tokenizer.json").read_text())
    tokens = whole["model"]["vocab"]
    words = [text for text in tokens if re.fullmatch("Ġ[a-z]{3,8}", text)]
    pairs = (first + second for first in words for second in words)
    while len(tokens) < vocabulary:
        tokens.setdefault(next(pairs), len(tokens))
    (folder / "tokenizer.json").write_text(json.dumps(whole))


# -- the servers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def served(folder: Path, way: str, gib: float | None, fused: bool) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The palette's servers, up: the client's settings, and what vLLM said as it started."""
    on_gpu = torch.cuda.is_available()
    extra = ["--cudagraph-capture-sizes", *STEPS] if on_gpu else []
    serving: dict[str, Any] = {"max_model_len": 4096, "blends": 0, "fused": fused}
    if way == "two":
        serving |= {"lora": {"extra": extra}, "moerges": {"extra": [*extra, "--load-format", "dummy"]}}
        if on_gpu:
            serving["lora"]["memory_share"], serving["moerges"]["memory_share"] = TOGETHER
    else:
        serving["palette"] = {"extra": extra}
        if on_gpu and gib:
            serving["palette"]["memory_share"] = round(gib * 2**30 / gpu()["bytes"], 3)
        if way == "fp8":
            serving["quantization"] = "fp8"
    manifest = folder / f"{way}.yaml"
    files = {"name": f"random-{way}", "base": "base", "router": "router.safetensors", "moerges": "moerges"}
    adapters = {key: f"adapters/{key}" for key in KEYS}
    manifest.write_text(yaml.safe_dump({**files, "adapters": adapters, "serving": serving}))
    home = folder / "home" / way
    home.mkdir(parents=True, exist_ok=True)
    palette = [sys.executable, "-m", "cultural_palette", "serve"]
    up = [*palette, "up", str(manifest), *(["--dense"] if way == "two" else []), "--port", "0"]
    before = gpu().get("used_mib", 0)
    began = time.perf_counter()
    try:
        subprocess.run([*up, "--out", str(home), "--write", str(home / "palette.toml")], check=True)
        started = {
            "start_s": round(time.perf_counter() - began, 1),
            "used_mib": gpu().get("used_mib", 0) - before,
            "servers": {},
        }
        for log in sorted(home.rglob("*.log")):
            text = log.read_text(errors="replace")
            started["servers"][log.stem] = {
                "weights_gib": found(r"[Mm]odel loading took ([\d.]+) GiB", text),
                "cache_tokens": found(r"KV cache size: ([\d,]+) tokens", text),
            }
        yield home / "palette.toml", started
    finally:
        subprocess.run([*palette, "stop", "--out", str(home)], check=False)


def found(pattern: str, text: str) -> float | None:
    """The last number that the pattern finds."""
    numbers = re.findall(pattern, text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def gpu() -> dict[str, Any]:
    """The GPU and its memory; empty without one."""
    if not torch.cuda.is_available() or not shutil.which("nvidia-smi"):
        return {}
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits"]
    name, total, used = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split(", ")
    return {"name": name, "bytes": int(total) * 2**20, "used_mib": int(used)}


# -- the measurements -----------------------------------------------------------------------------


async def measure(settings: Path, load: Load, vocabulary: int) -> dict[str, Any]:
    """Streams and prefills by model, and the graph."""
    models = tomllib.loads(settings.read_text())["models"]  # noqa: ASYNC240
    result: dict[str, Any] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(1800)) as session:
        for part, name in (("base", "base"), ("agent", KEYS[0]), ("moerges", "meta")):
            model, _, url = models[name].removeprefix("openai:").partition("@")
            ask = Asker(session, url, model, vocabulary)
            await ask.all(32, PROMPT_TOKENS, 8)  # whatever is compiled at first use
            result[part] = {f"ms a token, {n} streams": await ask.stream(n) for n in BATCHES}
            result[part]["prefill tokens a second"] = await ask.prefill()
    result["graph"] = await whole_graph(settings, load)
    return result


@dataclass
class Asker:
    """Random tokens to one model of one server."""

    session: aiohttp.ClientSession
    url: str
    model: str
    vocabulary: int

    async def all(self, count: int, prompt: int, new: int) -> float:
        """Seconds until `count` requests of one length are whole."""
        ids = [[random.randrange(100, self.vocabulary) for _ in range(prompt)] for _ in range(count)]
        began = time.perf_counter()
        await asyncio.gather(*(self.one(one, new) for one in ids))
        return time.perf_counter() - began

    async def one(self, prompt: list[int], new: int) -> None:
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": new,
            "ignore_eos": True,
            "temperature": 1.0,
        }
        async with self.session.post(f"{self.url}/completions", json=body) as response:
            reply = await response.json()
            if response.status != 200 or reply["usage"]["completion_tokens"] != new:
                raise RuntimeError(f"HTTP {response.status}: {reply}")

    async def stream(self, count: int) -> float:
        """ms between two tokens: a long reply less a short one, median of three."""
        times = []
        for _ in range(3):
            short = await self.all(count, PROMPT_TOKENS, 8)
            long = await self.all(count, PROMPT_TOKENS, 8 + NEW_TOKENS)
            times.append((long - short) / NEW_TOKENS * 1000)
        return round(statistics.median(times), 3)

    async def prefill(self) -> float:
        """Tokens a second of eight long prompts, median of three."""
        times = [await self.all(8, PREFILL_TOKENS, 1) for _ in range(3)]
        return round(8 * PREFILL_TOKENS / statistics.median(times), 1)


async def whole_graph(settings: Path, load: Load) -> dict[str, Any]:
    """Items and tokens a second of the palette over all inputs: the best round after one to warm up."""
    from cultural_palette.models import close_clients
    from cultural_palette.settings import get_settings, use_settings

    os.chdir(settings.parent)
    chosen = get_settings(
        max_tokens=load.max_tokens, draft_timeout_s=1800.0, request_timeout_s=1800.0, retries=10
    )
    rounds = []
    with use_settings(chosen):
        await run_graph(load.inputs()[: load.items // 4], load.at_once)
        for _ in range(load.rounds):
            kept: list[dict[str, Any]] = []

            async def once(kept: list[dict[str, Any]] = kept) -> None:
                kept.extend(await run_graph(load.inputs(), load.at_once))

            took = await taken(load.items, once)
            written = sum(one["usage"]["output_tokens"] for one in kept)
            read = sum(one["usage"]["input_tokens"] for one in kept)
            rounds.append({
                "items a second": round(load.items / took.seconds, 3),
                "tokens written a second": round(written / took.seconds, 1),
                "tokens read a second": round(read / took.seconds, 1),
                "tokens written an item": written / load.items,
                "client CPU ms an item": round(1000 * took.cpu_s / load.items, 1),
            })  # fmt: skip
        await close_clients()
    return {
        **max(rounds, key=lambda one: one["items a second"]),
        "rounds": [r["items a second"] for r in rounds],
    }


if __name__ == "__main__":
    main()
