"""Our grouped ORPO trainer against TRL's own on the same queries' four pairs.

    python -m benchmarks.orpo --json

The same random model, the same tokens, LoRA on the FFN, float32 on the CPU (bfloat16 on a GPU), the same
threads, no gradient checkpointing. Every trial is a process of its own, so that its peak memory is its own;
the ways take turns. Queries a second count optimiser steps after the first.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

VARIANTS: dict[str, dict[str, Any]] = {
    "TRL, four pairs": {"trainer": "trl"},
    "rows": {"layout": "rows"},
    "packed": {"layout": "packed"},
    "prompt once": {"layout": "prompt_once"},
}
LENGTHS = ((64, 128), (256, 128))  # tokens: prompt, response
ANSWERS = 5
SHAPES = {
    "small": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
FRAME = 3  # tokens of the template around a prompt: turn, end, turn


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="small", show_default=True)
@click.option("--steps", default=4, show_default=True, help="Counted steps of a trial, after one to warm up.")
@click.option("--batch", default=2, show_default=True, help="Queries a step.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--trial", hidden=True, help="One trial's settings, as JSON.")
def main(
    shape: str, steps: int, batch: int, rounds: int, threads: int, as_json: bool, trial: str | None
) -> None:
    """Measure, and print medians and ratios."""
    if trial:
        click.echo("RESULT " + json.dumps(run_trial(**json.loads(trial))))
        return
    result = measure(shape, steps, batch, rounds, threads)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    for lengths, rows in result["lengths"].items():
        click.echo(f"prompt/response {lengths} tokens, {batch} queries a step, {threads} threads")
        for name, row in rows.items():
            click.echo(
                f"  {name:<16} {row['queries_per_s']:7.2f} queries/s  {row['peak_mib']:7.0f} MiB"
                f"  {row['speedup']:5.2f} times TRL"
            )


def measure(shape: str, steps: int, batch: int, rounds: int, threads: int) -> dict[str, Any]:
    """Median queries a second and peak memory of each way and length, and the ratio to TRL's."""
    import torch
    import transformers
    import trl

    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_base(Path(folder), shape)
        for prompt, response in LENGTHS:
            trials: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
            for _ in range(rounds):
                for name, changes in VARIANTS.items():
                    given = {
                        "base": folder,
                        "prompt": prompt,
                        "response": response,
                        "steps": steps,
                        "batch": batch,
                        "threads": threads,
                        "changes": changes,
                    }
                    trials[name].append(_in_a_process(given))
            results[f"{prompt}/{response}"] = {
                name: _summary(values, batch) for name, values in trials.items()
            }
    for rows in results.values():
        reference = rows["TRL, four pairs"]["queries_per_s"]
        for row in rows.values():
            row["speedup"] = row["queries_per_s"] / reference
    return {
        "what": "ORPO, one chosen and four rejected answers a query, LoRA on the FFN",
        "with": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": trl.__version__,
            "threads": threads,
            "machine": platform.machine(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "shape": shape,
        "steps": steps,
        "batch": batch,
        "rounds": rounds,
        "lengths": results,
    }


def make_base(folder: Path, shape: str) -> None:
    """A random Llama of the shape, and a tokenizer of one token a word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from cultural_palette.training.nano.base import SPECIAL, TEMPLATE

    size = SHAPES[shape]["vocab_size"]
    words = {
        word: number for number, word in enumerate([*SPECIAL, *(f"w{n}" for n in range(size - len(SPECIAL)))])
    }
    plain = Tokenizer(models.WordLevel(words, unk_token="w0"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=list(SPECIAL[2:]),
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    torch.set_default_dtype(torch.bfloat16 if gpu else torch.float32)
    with torch.device("cuda" if gpu else "cpu"):
        model = LlamaForCausalLM(
            LlamaConfig(**SHAPES[shape], max_position_embeddings=1024, tie_word_embeddings=False)
        )
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)


def run_trial(
    base: str, prompt: int, response: int, steps: int, batch: int, threads: int, changes: dict[str, Any]
) -> dict[str, Any]:
    """Train `steps` + 1 steps in this process. Seconds of each counted step; peak memory in MiB."""
    import torch
    from transformers import AutoTokenizer, TrainerCallback

    from cultural_palette.training.grouped_trainer import Lessons
    from cultural_palette.training.orpo_settings import OrpoSettings
    from cultural_palette.training.trainers import build_trainer, load_model

    torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    draw = random.Random(0)
    size = len(tokenizer := AutoTokenizer.from_pretrained(base)) - 10

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(1, size)}" for _ in range(count))

    rows = [
        {
            "prompt": [{"role": "user", "content": words(prompt - FRAME)}],
            "chosen": words(response - 1),
            "rejected": [words(response - 1) for _ in range(ANSWERS - 1)],
        }
        for _ in range(batch * (steps + 1))
    ]
    settings = OrpoSettings(
        epochs=1,
        dropout=0.0,
        batch_size=batch,
        max_length=prompt + response,
        precision="bf16" if gpu else "float32",
        nll="prompt_and_completion",
        **changes,
    )
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes when each step ends."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        model = load_model(base, settings)
        before = _peak_mib(gpu)
        trainer = build_trainer(model, tokenizer, Lessons(rows), Lessons(), Path(folder), settings, None)
        trainer.args.save_strategy = "no"
        trainer.add_callback(Clock())
        with trainer.ready():
            trainer.train()
    return {
        "step_s": [b - a for a, b in pairwise(times)],
        "peak_mib": _peak_mib(gpu),
        "loaded_mib": before,
    }


def _peak_mib(gpu: bool) -> float:
    if gpu:
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _in_a_process(given: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.orpo", "--trial", json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"a trial failed: {given}\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    return result


def _summary(trials: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    steps = [second for trial in trials for second in trial["step_s"]]
    return {
        "queries_per_s": batch / statistics.median(steps),
        "spread_queries_per_s": [batch / max(steps), batch / min(steps)],
        "peak_mib": statistics.median(trial["peak_mib"] for trial in trials),
        "above_loaded_mib": statistics.median(trial["peak_mib"] - trial["loaded_mib"] for trial in trials),
    }


if __name__ == "__main__":
    main()
