"""Making a MoErges, against copying as many bytes.

    python -m benchmarks.moerges --json

A random Llama base with five random LoRA adapters on the FFN, in bfloat16. The merge is `merge_moerges` as
a person runs it, with router rows, checks and report. The rival copies the result's weights, file by file.
Both write to the same disk; the ratio is of medians.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click

KEYS = ("africa", "america", "asia", "europe", "oceania")
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
BLOCK = 1 << 24  # bytes; a plain read and write, which no file system answers by sharing the blocks
WORDS = ["Africa", "America", "Asia", "Europe", "Oceania", "people", "in", "life"]


@click.command()
@click.option("--layers", default=8, show_default=True)
@click.option("--hidden", default=1024, show_default=True)
@click.option("--intermediate", default=3584, show_default=True)
@click.option("--vocabulary", default=32_000, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Counted rounds, after one to warm up.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="On the disk to measure.  [default: temporary]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    layers: int,
    hidden: int,
    intermediate: int,
    vocabulary: int,
    rounds: int,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Measure, and print medians and their ratio."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        result = measure(Path(work), layers, hidden, intermediate, vocabulary, rounds)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(f"{result['gigabytes']:.2f} GB, {rounds} rounds, median seconds")
    for name, seconds in result["seconds"].items():
        click.echo(f"  {name:<8} {seconds:8.2f}")
    click.echo(
        f"  merging takes {result['merge_over_copy']:.2f} times the copy; peak {result['peak_gib']} GiB"
    )


def measure(
    work: Path, layers: int, hidden: int, intermediate: int, vocabulary: int, rounds: int
) -> dict[str, Any]:
    """Median seconds of merge, reading its router rows alone, and copy; bytes written and peak memory."""
    import torch
    import transformers

    from cultural_palette.training.merge import merge_moerges
    from cultural_palette.training.merge.router import read_states

    base = make_base(work / "base", layers, hidden, intermediate, vocabulary)
    adapters = {key: make_adapter(base, work / key, seed) for seed, key in enumerate(KEYS)}
    prompts = {key: [key.title()] for key in KEYS}
    times: dict[str, list[float]] = {"merge": [], "rows": [], "copy": []}
    for turn in range(rounds + 1):
        found = {
            "merge": timed(lambda: merge_moerges(base, adapters, prompts, work / "out", dtype=None)),
            "rows": timed(lambda: read_states(base, prompts)),
            "copy": timed(lambda: copy(work / "out", work / "copy")),
        }
        shutil.rmtree(work / "copy")
        for name, seconds in found.items():
            times[name] += [seconds] if turn else []
    medians = {name: statistics.median(values) for name, values in times.items()}
    size = sum(file.stat().st_size for file in (work / "out").glob("*.safetensors"))
    return {
        "layers": layers, "hidden": hidden, "intermediate": intermediate, "vocabulary": vocabulary,
        "rounds": rounds, "gigabytes": round(size / 1e9, 3),
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "merge_over_copy": round(medians["merge"] / medians["copy"], 2), "peak_gib": peak_gib(),
        "threads": torch.get_num_threads(), "machine": platform.machine(),
        "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip


def make_base(folder: Path, layers: int, hidden: int, intermediate: int, vocabulary: int) -> Path:
    """A random Llama with Llama 3.1's RoPE scaling and a tokenizer of a few words."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {word: index for index, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    heads = max(1, hidden // 64)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=max(1, heads // 4), head_dim=64, bos_token_id=0,
        eos_token_id=1, pad_token_id=1, max_position_embeddings=131_072, rope_parameters={
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int, rank: int = 16) -> Path:
    """A random LoRA on the FFN projections, as PEFT stores it, with the base's shapes."""
    import torch
    from safetensors.torch import save_file

    from cultural_palette.training.merge import Checkpoint

    source, generator = Checkpoint(base), torch.Generator().manual_seed(seed)
    weights = {}
    for name in source.files:
        if not name.endswith(tuple(f"{part}.weight" for part in PROJECTIONS)):
            continue
        rows, columns = source.shape(name)
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        weights[f"{stem}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * 0.02
        weights[f"{stem}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * 0.02
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "base_model_name_or_path": base.name, "r": rank, "lora_alpha": 2 * rank,
        "target_modules": list(PROJECTIONS),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def copy(source: Path, target: Path) -> None:
    """The weights' bytes, read and written."""
    target.mkdir()
    for file in source.glob("*.safetensors"):
        with file.open("rb") as read, (target / file.name).open("wb") as write:
            while block := read.read(BLOCK):
                write.write(block)


def timed(work: Any) -> float:
    """Seconds that `work()` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_gib() -> float | None:
    """The process' peak resident memory, mapped files among it; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << (30 if platform.system() == "Darwin" else 20)), 2)


if __name__ == "__main__":
    main()
