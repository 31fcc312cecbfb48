"""Putting a palette's base into the cache, where it does not lie in the palette's own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cultural_palette.embedded.manifest import Manifest, read_manifest
from cultural_palette.errors import ModelError

Say = Callable[[str], None]


_ready: set[str] = set()
"""Palettes that this process has seen to."""


@dataclass(frozen=True)
class Place:
    """A folder that a palette reads, and its size in bytes, 0 where it is not there yet."""

    what: str
    path: Path
    size: int


def is_ready(manifest: Manifest) -> bool:
    """Whether the base is there."""
    return (manifest.base / "config.json").is_file()


def prepare(manifest: Manifest, say: Say = lambda line: None) -> None:
    """Make the base out of the wheel's model and the task adapter, once; nothing when it is there already.

    Whole or not there. Raises ModelError with the way out: a package is missing, the wheel is, the disk full.
    """
    if is_ready(manifest) or manifest.task is None:
        return
    try:
        from cultural_palette.embedded import smollm2
    except ImportError as error:
        raise ModelError(
            f"The palette {manifest.name!r} needs {error.name}, which is not installed: "
            "pip install 'cultural-palette[small]'"
        ) from error
    try:
        plain = smollm2.checkpoint(manifest.base.parent, say)
        say(f"Merging {manifest.name}'s task adapter into it: some seconds")
        smollm2.merge_adapter(plain, manifest.task, manifest.base)
    except OSError as error:
        raise ModelError(f"{manifest.base} can not be written: {error}") from error


def prepare_part(name: str, say: Say = lambda line: None) -> None:
    """The same for the palette that a model name such as "small/africa" is of."""
    palette = name.rpartition("/")[0] or name
    if palette not in _ready:  # a run asks before every question
        prepare(read_manifest(palette), say)
        _ready.add(palette)


def places(manifest: Manifest) -> Iterator[Place]:
    """What the palette reads, and how big it is."""
    yield Place("base", manifest.base, _size(manifest.base))
    for key, path in manifest.adapters.items():
        yield Place(f"adapter {key}", path, _size(path))
    yield Place("router", manifest.router, manifest.router.stat().st_size if manifest.router.is_file() else 0)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
