"""A palette on disk: which weights play which part, described by `manifest.json`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.errors import ModelError
from cultural_palette.jsonl import read_object
from cultural_palette.provenance import hash_file

BUILT_IN = {"nano": Path(__file__).parent / "nano"}


@dataclass(frozen=True)
class Manifest:
    """Paths are absolute. `adapters`: community -> LoRA folder, in the experts' order of the MoErges.

    The MoErges is kept in parts, since it is nothing but the base, the adapters and its router: `router`
    holds one tensor (communities, hidden) a layer, named as in the checkpoint that was merged. `scope`:
    what the palette knows ("countries": ISO codes, "words": lower-case words, "options": lists of options it
    can choose among), `None` for a palette without such a limit.
    """

    name: str
    cultural_map: str
    base: Path
    adapters: Mapping[str, Path]
    router: Path
    scope: Mapping[str, Any] | None = None

    @property
    def communities(self) -> tuple[str, ...]:
        """Community keys, in the experts' order."""
        return tuple(self.adapters)


def read_manifest(name_or_path: str) -> Manifest:
    """The manifest of a built-in palette ("nano") or of a folder; a ModelError names what is missing."""
    try:
        folder = BUILT_IN.get(name_or_path, Path(name_or_path)).resolve()
        path = folder / "manifest.json"
        there = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a null in the path
        raise ModelError(f"No palette {name_or_path!r}: {error}") from None
    if not there:
        raise ModelError(
            f"No palette {name_or_path!r}: {path} is not there. Built in: {', '.join(BUILT_IN)}; "
            "or name a folder with a manifest.json ('python -m training.nano --help' makes one)."
        )
    try:
        raw = read_object(path)
        for key in ("name", "map", "base", "router"):
            if not isinstance(raw[key], str):
                raise TypeError(f"{key} is {raw[key]!r}, expected a text")
        if not isinstance(raw.get("scope") or {}, dict):
            raise TypeError(f"scope is {raw['scope']!r}, expected an object")
        return Manifest(
            name=raw["name"],
            cultural_map=raw["map"],
            base=folder / raw["base"],
            adapters={key: folder / value for key, value in raw["adapters"].items()},
            router=folder / raw["router"],
            scope=raw.get("scope"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is no palette manifest: {error!r}") from error


@functools.cache
def revision_of(name: str) -> str:
    """What tells a palette's weights from others, for a model name such as "nano/africa": a hash of its
    folder's files.
    """
    palette = name.rpartition("/")[0] or name
    folder = BUILT_IN.get(palette, Path(palette))
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        hash_file(digest, file)
    return digest.hexdigest()


IN_MEMORY: set[str] = set()
"""The palettes whose weights this process has read; the engine writes it."""


def unloaded(name: str) -> str | None:
    """The palette of a model such as "nano/africa", as long as its weights are not in memory."""
    palette = name.rpartition("/")[0] or name
    return None if palette in IN_MEMORY else palette
