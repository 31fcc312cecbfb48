"""What there is to run on, and who gets how much of its memory. Sizes are in GiB (2**30 bytes)."""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cultural_palette.jsonl import parse_object
from cultural_palette.serving.manifest import ServingError, Source

GIB = 2**30
SHARE_ALONE = 0.9
"""Share of a GPU's memory for a server that has it to itself."""
SHARE_TOGETHER = 0.92
"""Share of a GPU's memory that two servers divide; the rest is for what neither counts, such as contexts."""
OVERHEAD_GIB = 2.0
"""What a server needs besides weights and cache: activations, CUDA graphs, kernels' workspace."""
LEAST_CACHE_GIB = 1.0
"""A server with less room for its cache than this serves a few requests at a time."""


@dataclass(frozen=True)
class Gpu:
    """`number`: as CUDA_VISIBLE_DEVICES names it. `memory_gib`: None when it is not known."""

    number: str
    memory_gib: float | None
    name: str = ""


@dataclass(frozen=True)
class Device:
    """NVIDIA GPUs, or the processor with the cores that this process may use."""

    kind: Literal["cuda", "cpu"]
    gpus: tuple[Gpu, ...] = ()
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind == "cuda") != bool(self.gpus):
            raise ValueError(f"a {self.kind} device with {len(self.gpus)} GPUs")

    def __str__(self) -> str:
        if self.kind == "cpu":
            return f"the CPU, {len(self.cores)} core{'s' * (len(self.cores) != 1)}"
        names = sorted({gpu.name or "GPU" for gpu in self.gpus})
        return f"{len(self.gpus)} x {' and '.join(names)}"


def find_device(wanted: Literal["auto", "cuda", "cpu"] = "auto") -> Device:
    """The GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES lets through, else the CPU.

    Raises ServingError when GPUs are required and there are none.
    """
    if wanted != "cpu":
        gpus = _visible(_listed_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        if gpus:
            return Device("cuda", gpus)
        if wanted == "cuda":
            raise ServingError(
                "nvidia-smi shows no GPU here (or CUDA_VISIBLE_DEVICES hides it). To see the commands for "
                "a machine that has one: --print --gpus 1 --gpu-memory 80. To serve on the processor: "
                "--device cpu."
            )
    return Device("cpu", cores=_cores())


def described_gpus(count: int, memory_gib: float | None) -> Device:
    """GPUs as a person describes them, for commands that another machine will run."""
    return Device("cuda", tuple(Gpu(str(number), memory_gib) for number in range(count)))


def split_memory(
    needs_gib: Mapping[str, float], total_gib: float, fixed: Mapping[str, float | None]
) -> dict[str, float]:
    """Share (0..1) of one GPU's memory for each server on it: its weights and overhead, and an equal part of
    what is left for the cache. `fixed`: shares that a person gave.

    Raises ServingError when they do not fit together.
    """
    fixed_shares = {name: share for name, share in fixed.items() if share is not None}
    others = [name for name in needs_gib if name not in fixed_shares]
    room = (SHARE_TOGETHER - sum(fixed_shares.values())) * total_gib - sum(
        needs_gib[n] + OVERHEAD_GIB for n in others
    )
    if others and room < LEAST_CACHE_GIB * len(others):
        weights = ", ".join(f"{name} {need:.1f}" for name, need in needs_gib.items())
        raise ServingError(
            f"Both servers do not fit on one GPU of {total_gib:.0f} GiB: the weights take {weights} GiB, "
            f"and each server needs about {OVERHEAD_GIB + LEAST_CACHE_GIB:.0f} GiB more. Give each a GPU "
            "(serving.lora.gpus: [0], serving.moerges.gpus: [1]), spread one over several "
            "(tensor_parallel), or halve the weights (quantization: fp8)."
        )
    divided = {
        name: math.floor(1000 * (needs_gib[name] + OVERHEAD_GIB + room / len(others)) / total_gib) / 1000
        for name in others
    }
    return {name: fixed_shares.get(name) or divided[name] for name in needs_gib}


def weights_gib(source: Source, bytes_per_value: float | None) -> float | None:
    """Size of a model's weights as they are served, from the headers of its safetensors; None when it is not
    on this disk. `bytes_per_value`: once it is loaded, None for as it is stored.
    """
    if not isinstance(source, Path):
        return None
    files = sorted(source.glob("*.safetensors"))
    if not files:
        return None
    sizes = [_header_sizes(file) for file in files]
    values, stored = sum(v for v, _ in sizes), sum(b for _, b in sizes)
    return (stored if bytes_per_value is None else values * bytes_per_value) / GIB


def cache_bytes_per_token(config: Mapping[str, object], bytes_per_value: float) -> int:
    """Keys and values of one token in all layers. 2 * layers * kv heads * head size * bytes.

    Raises ValueError for sizes that are none.
    """

    def size(name: str) -> int:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number from 1")
        return value

    layers, heads = size("num_hidden_layers"), size("num_attention_heads")
    kv_heads = size("num_key_value_heads") if config.get("num_key_value_heads") else heads
    head = size("head_dim") if config.get("head_dim") else size("hidden_size") // heads
    return int(2 * layers * kv_heads * head * bytes_per_value)


def core_list(cores: Sequence[int]) -> str:
    """Cores as taskset writes them: (0, 1, 2, 5) is "0-2,5"."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _listed_gpus() -> list[tuple[Gpu, str]]:
    """Each GPU with its UUID; none without nvidia-smi or when it fails, as it does without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    gpus = []
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        number, uuid, memory, name = (part.strip() for part in line.split(",", 3))
        gpus.append((Gpu(number, float(memory) / 1024 if memory.isdigit() else None, name), uuid))
    return gpus


def _visible(listed: Sequence[tuple[Gpu, str]], variable: str | None) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES lets through, under the names it uses (number, UUID, part of one)."""
    if variable is None:
        return tuple(gpu for gpu, _ in listed)
    known = {gpu.number: gpu for gpu, _ in listed} | {uuid: gpu for gpu, uuid in listed}
    names = [name.strip() for name in variable.split(",") if name.strip() not in ("", "-1")]
    gpus = []
    for name in names:
        gpu = known.get(name)
        gpus.append(Gpu(name, gpu.memory_gib if gpu else None, gpu.name if gpu else ""))
    return tuple(gpus) if listed else ()


def _cores() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


HEADER_BYTES = 100_000_000  # as safetensors has it


def _header_sizes(file: Path) -> tuple[int, int]:
    """(values, bytes) of all tensors of a safetensors file, from its header alone."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = parse_object(stream.read(min(length, HEADER_BYTES)))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        values = sum(math.prod(entry["shape"]) for entry in tensors)
        stored = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in tensors)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ServingError(f"{file} can not be read: {error!r}. Is the download complete?") from None
    return values, stored
