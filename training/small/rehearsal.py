"""The whole chain that makes the small palette, on a few rows a stage: does it repeat to the bit?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cultural_palette.artifacts import write_whole
from cultural_palette.provenance import file_sha256
from cultural_palette.training.small import build


def rehearse(folder: Path, first: int) -> dict[str, str]:
    """Every stage from the data to the router, on the first `first` rows of each file that is trained on;
    nothing is shipped. File -> SHA-256 of all weights that came out. Finished jobs are kept.
    """
    build.data(folder)
    for path in trained_on(folder):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_whole(path, "".join(lines[:first]))
    build.base(folder)
    build.task(folder)
    build.agents(folder)
    build.joint(folder)
    build.merges(folder)
    build.router(folder)
    return weights(folder)


def trained_on(folder: Path) -> Iterator[Path]:
    """What `data` wrote for the stages that train."""
    yield folder / "task.jsonl"
    yield from sorted(folder.glob("*/groups_*.jsonl"))


def weights(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of weights that the stages leave, by its path in the folder; of adapters those
    that a later stage reads.
    """
    patterns = (
        "task*/adapter_model.safetensors", "base/*.safetensors", "agents/*/run-1/*/adapter_model.safetensors",
        "ties/*.safetensors", "model_stock/*.safetensors", "router.safetensors",
    )  # fmt: skip
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): file_sha256(path) for path in found}
