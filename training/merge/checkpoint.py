"""Checkpoints read tensor by tensor, and results that are either whole or not there.

A model of any size passes through here one tensor at a time: safetensors maps its files, MergeKit's writer
fills one shard at a time, and `unfinished` renames the folder last.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mergekit.io import TensorWriter
from safetensors import SafetensorError, safe_open

from cultural_palette.artifacts import claim
from cultural_palette.errors import ArtifactError, PaletteError
from cultural_palette.jsonl import read_object

SHARD_BYTES = 2_000_000_000
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# What a tokenizer and a generation need besides the weights; taken from the base as it stands.
CARRIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
)  # fmt: skip


class MergeError(PaletteError):
    """A merge that can not be made from these inputs, or whose result is not what it should be."""


class Checkpoint:
    """A model folder whose weights are safetensors; tensors are read when asked for.

    Raises MergeError: no such folder, no configuration, no safetensors, a shard missing or cut short.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise MergeError(f"No folder {folder}: give a model's folder, with its config.json.")
        self.config = read_json(self.folder / "config.json")
        self._open: dict[str, Any] = {}

    @cached_property
    def files(self) -> dict[str, str]:
        """Tensor name to shard, in the order of the shards."""
        if (self.folder / INDEX).is_file():
            return dict(read_json(self.folder / INDEX)["weight_map"])
        if not (self.folder / SINGLE).is_file():
            raise MergeError(f"{self.folder} has no {SINGLE} and no {INDEX}; save the model as safetensors.")
        return dict.fromkeys(self._shard(SINGLE).keys(), SINGLE)

    @property
    def model_type(self) -> str:
        """The architecture as transformers names it, such as "llama"."""
        return str(self.config.get("model_type"))

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def tensor(self, name: str) -> Any:
        """The tensor as it is stored."""
        return self._shard(self.files[name]).get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from the shard's header."""
        return tuple(self._shard(self.files[name]).get_slice(name).get_shape())

    @cached_property
    def dtype(self) -> Any:
        """The dtype of the largest tensor, which stands for the checkpoint's."""
        return self.tensor(max(self.files, key=lambda name: math.prod(self.shape(name)))).dtype

    def count(self, only: str = "") -> int:
        """Number of values in all tensors whose name contains `only`."""
        return sum(math.prod(self.shape(name)) for name in self.files if only in name)

    def _shard(self, file: str) -> Any:
        if file not in self._open:
            self._open[file] = open_shard(self.folder / file)
        return self._open[file]


def open_shard(path: Path) -> Any:
    """A safetensors file, mapped. Raises MergeError when it is missing, cut short or something else."""
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise MergeError(f"{path} can not be read: {error}. Is the download complete?") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's folder."""
    try:
        return read_object(path, nan=True)
    except FileNotFoundError:
        raise MergeError(f"{path.parent} has no {path.name}; is it a model's folder?") from None
    except (OSError, ValueError) as error:
        raise MergeError(f"{path} can not be read: {error}") from None


class Shards:
    """Writes a result's tensors through MergeKit's writer; a value that is not finite ends the merge."""

    def __init__(self, folder: Path, dtype: Any) -> None:
        self.dtype = dtype
        self.written: dict[str, tuple[int, ...]] = {}
        self.bytes = 0
        self._writer = TensorWriter(str(folder), max_shard_size=SHARD_BYTES)

    def write(self, name: str, tensor: Any) -> None:
        """Store one tensor, floats in the result's dtype. Raises MergeError when a value is not finite."""
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
            # A sum is finite only when all its parts are; it may overflow, so the parts have the last word.
            if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
                raise MergeError(f"{name} has values that are not finite; look at the inputs' own {name}.")
        self.written[name] = tuple(tensor.shape)
        self.bytes += tensor.numel() * tensor.element_size()
        self._writer.save_tensor(name, tensor)

    def close(self) -> None:
        """Write the last shard and the index."""
        self._writer.finalize()


@contextlib.contextmanager
def unfinished(out: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """A folder to work in, which becomes `out` when the block ends well, and goes away when not.

    What stood at `out` is replaced then, and not before. Raises MergeError: another run writes there; before
    the work, when the disk has less than `needed_bytes`; in place of the system's error when it runs full.
    """
    try:
        with claim(out) as place:
            if place.out.exists() and not place.out.is_dir():
                raise MergeError(f"{out} is a file: take another folder for the result.")
            free = shutil.disk_usage(place.out.parent).free
            if free < needed_bytes:
                raise MergeError(
                    f"{out} needs {needed_bytes / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left: "
                    "make room, or write to another disk."
                )
            with place.whole_folder() as work:
                yield work
    except ArtifactError as error:
        raise MergeError(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise MergeError(f"{out} was not written: {error}. Is the disk full?") from error


def carry(base: Path, out: Path) -> list[str]:
    """Copy tokenizer, chat template and generation settings of the base; the names of what there was."""
    names = [name for name in CARRIED if (base / name).is_file()]
    for name in names:
        shutil.copy2(base / name, out / name)
    return names


def dtype_of(name: str | None) -> Any:
    """A torch dtype by its name; None keeps each tensor's own."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is None:
        return None
    if name not in known:
        raise MergeError(f"Unknown dtype {name!r}. It is one of {', '.join(known)}.")
    return known[name]
