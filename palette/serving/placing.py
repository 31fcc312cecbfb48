"""Where each server runs: on which GPUs with how much memory, or on which cores; the flags for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cultural_palette.models.references import SERVED_MOERGES
from cultural_palette.serving.devices import (
    GIB,
    LEAST_CACHE_GIB,
    OVERHEAD_GIB,
    SHARE_ALONE,
    Device,
    cache_bytes_per_token,
    core_list,
    split_memory,
    weights_gib,
)  # fmt: skip
from cultural_palette.serving.manifest import (
    ManifestError,
    ServedPalette,
    ServerKnobs,
    ServingError,
    Source,
    read_json,
)  # fmt: skip

PALETTE, LORA, MOERGES = "palette", "lora", SERVED_MOERGES
"""Servers: the one that plays every part; or of the dense form, base and adapters, and the mixture."""
BYTES_PER_VALUE = {"float32": 4.0, "float": 4.0, "half": 2.0, "float16": 2.0, "bfloat16": 2.0}
CPU_CACHE = (256 * 2**20, 4 * GIB)
"""Least and most bytes of a server's cache on the CPU, where vLLM does not measure what is free."""
CPU_CONCURRENCY = 8
"""Requests of the longest kind for which that cache has room."""


def server_knobs(palette: ServedPalette, name: str) -> ServerKnobs:
    """One server's own knobs."""
    return {PALETTE: palette.knobs.palette, LORA: palette.knobs.lora, MOERGES: palette.knobs.moerges}[name]


def check_knobs(palette: ServedPalette) -> None:
    """Raise ManifestError when knobs are for a server that this palette does not have."""
    absent = (PALETTE,) if palette.dense else (LORA, MOERGES)
    for name in absent:
        if server_knobs(palette, name) != ServerKnobs():
            there = "lora and serving.moerges" if palette.dense else "palette"
            raise ManifestError(
                f"serving.{name} is for a server that {palette.name} does not have "
                f"({'two servers, --dense' if palette.dense else 'one server'}): set serving.{there}."
            )


@dataclass(frozen=True)
class Placement:
    """Where a server runs: the flags and variables that say so."""

    flags: tuple[str, ...]
    environment: Mapping[str, str]
    gpus: tuple[str, ...] = ()


def place_on_gpus(
    palette: ServedPalette, device: Device, sources: Mapping[str, Source]
) -> dict[str, Placement]:
    """GPUs and memory of each server: as the palette says; else its own GPUs where there are enough, or
    shared ones.
    """
    knobs = palette.knobs
    knobs_of = {name: server_knobs(palette, name) for name in sources}
    numbers = _assign(device, knobs_of)
    shared = set.intersection(*map(set, numbers.values())) if len(sources) > 1 else set()
    shares = {name: server_knobs(palette, name).memory_share or SHARE_ALONE for name in sources}
    if len(sources) == 1:
        _check_room(palette, device, sources, numbers, shares)
    if len(sources) > 1:
        shares = dict.fromkeys(sources, SHARE_ALONE)
    if shared:
        shares = _shares(palette, device, sources, numbers, shared)
    placements = {}
    for name in sources:
        gpus = tuple(device.gpus[number].number for number in numbers[name])
        flags = [
            *("--dtype", knobs.dtype or "auto"),
            *(("--quantization", knobs.quantization) if knobs.quantization else ()),
            *("--tensor-parallel-size", str(knobs_of[name].tensor_parallel)),
            *(("--data-parallel-size", str(knobs_of[name].replicas)) if knobs_of[name].replicas > 1 else ()),
            *("--gpu-memory-utilization", f"{shares[name]:g}"),
        ]
        placements[name] = Placement(tuple(flags), {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}, gpus)
    return placements


def _assign(device: Device, knobs_of: Mapping[str, ServerKnobs]) -> dict[str, tuple[int, ...]]:
    """Positions in `device.gpus` for each server. Raises ManifestError when there are too few."""
    count = len(device.gpus)
    need = {name: knobs.tensor_parallel * knobs.replicas for name, knobs in knobs_of.items()}
    enough = sum(need.values()) <= count
    numbers: dict[str, tuple[int, ...]] = {}
    free = list(range(count))
    for name, knobs in knobs_of.items():
        wanted = knobs.gpus or tuple((free if enough else range(count))[: need[name]])
        if (
            len(wanted) != need[name]
            or len(set(wanted)) < len(wanted)
            or max(wanted) >= count
            or min(wanted) < 0
        ):
            raise ManifestError(
                f"The server {name!r} needs {need[name]} GPUs (tensor_parallel {knobs.tensor_parallel} x "
                f"replicas {knobs.replicas}) and would get {list(wanted)} of the {count} here. Change "
                f"serving.{name}, or use a machine with more."
            )
        numbers[name] = tuple(wanted)
        free = [number for number in free if number not in wanted]
    return numbers


def _shares(
    palette: ServedPalette, device: Device, sources: Mapping[str, Source],
    numbers: Mapping[str, Sequence[int]], shared: set[int],
) -> dict[str, float]:  # fmt: skip
    """Each server's share of the GPUs that both use."""
    fixed = {name: server_knobs(palette, name).memory_share for name in sources}
    if sum(share or 0 for share in fixed.values()) > 0.98:
        raise ManifestError(
            "Both servers share a GPU, and their memory_share adds up to "
            f"{sum(s or 0 for s in fixed.values()):g}: leave some for what neither counts; 0.92 together is "
            "safe."
        )
    needs: dict[str, float] = {}
    for name, source in sources.items():
        size = weights_gib(source, _bytes_per_value(palette))
        if size is None and fixed[name] is None:
            raise ServingError(
                f"{source} is not on this disk, so its size is not known: set serving.{name}.memory_share, "
                "or download it first and name its folder."
            )
        needs[name] = (size or 0.0) / server_knobs(palette, name).tensor_parallel
    totals = [device.gpus[number].memory_gib for number in shared]
    if any(total is None for total in totals) and None in fixed.values():
        raise ServingError(
            "The memory of the GPU is not known: set serving.lora.memory_share and "
            "serving.moerges.memory_share, or --gpu-memory GIB."
        )
    smallest = min((total for total in totals if total is not None), default=1.0)
    return split_memory(needs, smallest, fixed)


def _check_room(
    palette: ServedPalette, device: Device, sources: Mapping[str, Source],
    numbers: Mapping[str, Sequence[int]], shares: Mapping[str, float],
) -> None:  # fmt: skip
    """Raise ServingError when a server alone has too little memory, as far as sizes are known."""
    for name, source in sources.items():
        size = weights_gib(source, _bytes_per_value(palette))
        totals = [device.gpus[number].memory_gib for number in numbers[name]]
        if size is None or None in totals:
            continue
        need = size / server_knobs(palette, name).tensor_parallel + OVERHEAD_GIB + LEAST_CACHE_GIB
        room = shares[name] * min(total for total in totals if total is not None)
        if need > room:
            raise ServingError(
                f"{palette.name} does not fit: the weights take {size:.1f} GiB, with what a server needs "
                f"beside them {need:.1f}, and there are {room:.1f} on each GPU. Spread it over several "
                f"(serving.{name}.tensor_parallel), give it more (serving.{name}.memory_share), or halve "
                "the weights (quantization: fp8)."
            )


def _bytes_per_value(palette: ServedPalette) -> float | None:
    """Bytes of one weight once it is loaded; "auto" loads 16 bits. None: as it is stored, for a base that was
    quantised before.
    """
    if isinstance(palette.base, Path) and read_json(palette.base, "config.json").get("quantization_config"):
        return None
    if palette.knobs.quantization:
        return 1.06 if "8" in palette.knobs.quantization else 2.0  # fp8 with its scales; others: no promise
    return BYTES_PER_VALUE.get(palette.knobs.dtype or "auto", 2.0)


def place_on_cores(
    palette: ServedPalette, device: Device, max_model_len: int, names: Sequence[str]
) -> dict[str, Placement]:
    """All cores for one server, half of them for each of two; on one core, the same for both."""
    for name in names:
        knobs = server_knobs(palette, name)
        if knobs.tensor_parallel * knobs.replicas > 1:
            raise ManifestError(
                f"serving.{name}: tensor_parallel and replicas are for GPUs; the CPU has one each."
            )
    cores = device.cores
    middle = len(cores) // 2
    parts = (cores,) if len(names) == 1 else (cores[:middle] or cores, cores[middle:] or cores)
    cache = _cpu_cache(palette, max_model_len)
    placements = {}
    for name, part in zip(names, parts, strict=True):
        flags = (
            # Without AVX-512 a processor has no kernels for 16 bits: slower, and 0.06 off in log-probability.
            *("--dtype", palette.knobs.dtype or "float32"),
            "--enforce-eager",
            "--no-enable-chunked-prefill",  # a seeded prompt in pieces kills vLLM's CPU engine
            *("--kv-cache-memory-bytes", str(cache)),
        )
        placements[name] = Placement(flags, {"VLLM_CPU_OMP_THREADS_BIND": core_list(part)})
    return placements


def _cpu_cache(palette: ServedPalette, max_model_len: int) -> int:
    least, most = CPU_CACHE
    if not isinstance(palette.base, Path):
        return most
    value_bytes = BYTES_PER_VALUE.get(palette.knobs.dtype or "float32", 4.0)
    config = read_json(palette.base, "config.json")
    if not config:
        raise ManifestError(
            f"{palette.base} has no config.json; it should be the palette's base ('palette pull' prepares "
            "that of a palette which does not bring its own)."
        )
    try:
        one = cache_bytes_per_token(config, value_bytes) * max_model_len
    except ValueError as error:
        raise ManifestError(f"{palette.base / 'config.json'}: {error}.") from None
    return max(least, one, min(most, CPU_CONCURRENCY * one))
