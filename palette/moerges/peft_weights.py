"""Which tensors a PEFT LoRA holds, checked against its settings by names and shapes. No torch is needed, so
whoever merges, serves or plays an adapter can ask before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.moerges.headers import Header, headers_of
from cultural_palette.moerges.peft_settings import (
    CONFIG,
    FACTOR,
    FULL_MODEL,
    PREFIX,
    WEIGHTS,
    AdapterError,
    find_weights,
    rank_of,
    scaling_of,
)

BASE_COPY = ".base_layer.weight"
"""End of the name of a base's tensor that PEFT saves along, where heads and embeddings are targets."""


@dataclass(frozen=True)
class Factors:
    """One module's, by their names in the file. `shape`: of the change B A, (out, in)."""

    a: str
    b: str
    rank: int
    shape: tuple[int, int]


@dataclass(frozen=True)
class StoredLora:
    """`factors`: module in the base ("model.layers.0.mlp.up_proj") -> its two; `others`: the base's name of
    every other tensor -> its name in the file.
    """

    file: Path
    factors: Mapping[str, Factors]
    others: Mapping[str, str]


def stored_lora(folder: Path, config: Mapping[str, Any]) -> StoredLora:
    """What the adapter's file holds. Raises AdapterError: no file, cut short, several adapters in one, a
    factor without the other, ranks or shapes that do not fit the settings, a factor's module changed by
    something else too.
    """
    file = find_weights(folder)
    try:
        headers = headers_of(file)
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file} can not be read: {error}. Is the download complete?") from None
    sides: dict[str, dict[str, str]] = {}
    others: dict[str, str] = {}
    names: set[str | None] = set()
    for stored in headers:
        name = stored.removeprefix(PREFIX)
        if match := FACTOR.fullmatch(name):
            names.add(match["name"])
            sides.setdefault(match["module"], {})[match["side"]] = stored
        else:
            others[name] = stored
    if len(names) > 1:
        shown = ", ".join(sorted(name or "(no name)" for name in names))
        raise AdapterError(f"{file} holds several adapters ({shown}): save each in a folder of its own.")
    factors = {module: _factors(folder, config, module, pair, headers) for module, pair in sides.items()}
    for name in others:
        module = next((one for one in _modules_above(name) if one in factors), None)
        if module and not name.endswith(BASE_COPY):
            raise AdapterError(
                f"{folder} holds {name} beside the factors of {module}, so W + B A is not exact there, "
                f"whatever {CONFIG} says: {FULL_MODEL}."
            )
    return StoredLora(file, factors, others)


def _modules_above(name: str) -> list[str]:
    """ "a.b.c" -> ["a.b", "a"]."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _factors(
    folder: Path,
    config: Mapping[str, Any],
    module: str,
    sides: Mapping[str, str],
    headers: Mapping[str, Header],
) -> Factors:
    if set(sides) != {"A", "B"}:
        raise AdapterError(f"{folder}: {module} has lora_{next(iter(sides))} only; the file is not whole.")
    a, b = headers[sides["A"]].shape, headers[sides["B"]].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise AdapterError(f"{folder}: {module} has lora_A {a} and lora_B {b}.")
    rank = rank_of(config, folder, module)
    if rank != a[0]:
        raise AdapterError(
            f"{folder}: {module} has rank {a[0]} in {WEIGHTS} and {rank} in {CONFIG}; one of the two is "
            "another adapter's."
        )
    scaling_of(config, folder, module)
    return Factors(sides["A"], sides["B"], rank, (b[0], a[1]))
