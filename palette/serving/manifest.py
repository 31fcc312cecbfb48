"""What is to be served: a base, an adapter a community, what mixes them to MoErges, and how to serve them.

A palette comes as a built-in name ("nano") or a folder with `manifest.json` (as the embedded engine reads
it), or as a YAML or JSON file of one's own. A `Path` is a folder on this disk; a `str` is a model on the
Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cultural_palette.embedded.manifest import BUILT_IN, read_manifest
from cultural_palette.errors import PaletteError, UsageError
from cultural_palette.jsonl import parse_json, read_object
from cultural_palette.knobs import SamplingRole, SamplingShape
from cultural_palette.moerges.headers import read_headers
from cultural_palette.moerges.peft_settings import AdapterError, check_settings
from cultural_palette.moerges.peft_weights import stored_lora
from cultural_palette.provenance import Hash, hash_file
from cultural_palette.serving.vllm_plugin.config import BLENDS
from cultural_palette.yaml_files import YamlFault, read_yaml

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
RESERVED_NAMES = ("base", "moerges", "meta")
"""Names that a community's adapter can not have: the servers' other models have them."""
RESERVED_FLAGS = (
    "--api-key", "--host", "--port", "--served-model-name", "--lora-modules", "--model", "--enable-lora",
    "--hf-overrides", "--additional-config", "--worker-extension-cls",
)  # fmt: skip
WHOLE_BYTES, EDGE_BYTES = 2**28, 2**20
"""Files of a model up to so many bytes are hashed whole; of larger ones so many bytes at either end."""
MOST_BLENDS = 256
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's --max-lora-rank takes."""

Source = Path | str


class ServingError(PaletteError):
    """A server that can not be started, reached or stopped; the message says why and the way out."""


class ManifestError(UsageError):
    """A palette that can not be served as it is written; names the file and the field."""


class _Knobs(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerKnobs(_Knobs):
    """One server's own. `gpus`: their numbers; `memory_share` (0..1) of a GPU that both servers use;
    `replicas`: vLLM's data parallel.
    """

    port: int | None = Field(default=None, ge=1, le=65_535)
    gpus: tuple[int, ...] | None = Field(default=None, min_length=1)
    tensor_parallel: int = Field(default=1, ge=1)
    replicas: int = Field(default=1, ge=1)
    memory_share: float | None = Field(default=None, gt=0, lt=1)
    extra: tuple[str, ...] = ()

    @field_validator("extra")
    @classmethod
    def _not_reserved(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        for flag in flags:
            if (name := flag.partition("=")[0]) in RESERVED_FLAGS:
                hint = "; set PALETTE_API_KEY instead" if name == "--api-key" else ""
                raise ValueError(f"{name} is given by palette serve itself{hint}")
        return flags


class ServingKnobs(_Knobs):
    """How to serve. What is left out is chosen: see `plan.py` and docs/serving.md."""

    host: str = "127.0.0.1"
    dtype: str | None = Field(default=None, pattern="^(auto|half|float16|bfloat16|float32|float)$")
    quantization: str | None = None
    max_model_len: int | None = Field(default=None, ge=64)
    max_num_seqs: int | None = Field(default=None, ge=1)
    max_lora_rank: int | None = Field(default=None, ge=1, le=LORA_RANKS[-1])
    python: str | None = None
    fused: bool = False
    blends: int = Field(default=BLENDS, ge=0, le=MOST_BLENDS)
    palette: ServerKnobs = ServerKnobs()
    lora: ServerKnobs = ServerKnobs()
    moerges: ServerKnobs = ServerKnobs()


class _File(_Knobs):
    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    map: str = "continents"
    base: str
    adapters: dict[str, str] = Field(min_length=2)
    router: str | None = None
    blend: str = "paper"
    moerges: str | None = None
    sampling: dict[SamplingRole, SamplingShape] = {}
    serving: ServingKnobs = ServingKnobs()

    @model_validator(mode="after")
    def _check_names_and_router(self) -> Self:
        if both := sorted(set(RESERVED_NAMES) & set(self.adapters)):
            raise ValueError(f"a community can not be called {both[0]!r}, which names another model")
        if self.router is None and self.moerges is None:
            raise ValueError(
                "router is missing: the file with the router's rows that 'palette merge --method moerges' "
                "wrote (or moerges: the folder of a mixture that is written out)"
            )
        return self


@dataclass(frozen=True)
class ServedPalette:
    """A palette as it is served. In one server: `router` is a file, and `blend` names the router in it that
    mixes. With `dense`, in two: `moerges` is the mixture written out; None for a palette kept in parts, which
    `parts` then names for `checkpoint.py` to write. `sampling`: how its "draft" and "meta" replies are drawn.
    `prompts`: the folder of its own.
    """

    name: str
    cultural_map: str
    base: Source
    adapters: Mapping[str, Source]
    router: Path | None = None
    blend: str = "paper"
    moerges: Source | None = None
    parts: str | None = None
    dense: bool = False
    knobs: ServingKnobs = field(default_factory=ServingKnobs)
    sampling: Mapping[SamplingRole, Mapping[str, Any]] = field(default_factory=dict)
    prompts: Path | None = None

    def __post_init__(self) -> None:
        if self.dense and (self.moerges is None) == (self.parts is None):
            raise ValueError("a dense palette has either a MoErges checkpoint or the parts of one")
        if not self.dense and self.router is None:
            raise ValueError("a palette in one server has a router")


def read_palette(name_or_path: str, *, dense: bool = False) -> ServedPalette:
    """A built-in palette, a folder with manifest.json, or a YAML or JSON file. Raises ManifestError.

    `dense`: the mixture written out, in a server of its own, also where one server would do. Folders need not
    be there yet: `check_folders` asks for that.
    """
    path = Path(name_or_path)
    if "\0" in name_or_path:
        raise ManifestError(f"No palette {name_or_path!r}: a path holds no null.")
    if name_or_path in BUILT_IN or path.is_dir():
        manifest = read_manifest(name_or_path)
        if not dense:
            check_router(manifest.router, tuple(manifest.adapters), manifest.blend)
        return ServedPalette(
            manifest.name, manifest.cultural_map, manifest.base, manifest.adapters, router=manifest.router,
            blend=manifest.blend, parts=name_or_path, dense=dense, sampling=manifest.sampling,
            prompts=manifest.prompts,
        )  # fmt: skip
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise ManifestError(
            f"No palette {name_or_path!r}: it is no folder and no YAML or JSON file. Built in: "
            f"{', '.join(BUILT_IN)}; docs/serving.md shows how to write your own."
        )
    try:
        raw = read_yaml(path)  # JSON is YAML
        file = _File.model_validate(raw if isinstance(raw, dict) else {})
    except OSError as error:
        raise ManifestError(f"{path} can not be read: {error.strerror or error}.") from None
    except YamlFault as error:
        raise ManifestError(f"{path} can not be read: {error}.") from None
    except ValidationError as error:
        raise ManifestError(f"{path}: {_describe(error)}") from None
    home = path.resolve().parent
    if dense and file.moerges is None:
        raise ManifestError(
            f"{path} has no moerges, and --dense serves the mixture written out: "
            "'palette merge --method moerges --dense' writes it."
        )
    return ServedPalette(
        name=file.name,
        cultural_map=_map(file.map, home),
        base=_source(file.base, home, f"{path}: base"),
        adapters={k: _source(v, home, f"{path}: adapters.{k}") for k, v in file.adapters.items()},
        router=None if file.router is None else (home / Path(file.router).expanduser()).resolve(),
        blend=file.blend,
        moerges=None if file.moerges is None else _source(file.moerges, home, f"{path}: moerges"),
        dense=dense or file.router is None,
        knobs=file.serving,
        sampling={role: dict(shape) for role, shape in file.sampling.items()},
    )


def check_folders(palette: ServedPalette) -> None:
    """Raise ManifestError when a folder is missing or is not what it is given as."""
    _config(palette.base, "config.json", "the base")
    for community, source in palette.adapters.items():
        _adapter(source, community)
    if not palette.dense and not (palette.router is not None and palette.router.is_file()):
        raise ManifestError(
            f"{palette.router} is not there; it should be the router's rows, as "
            "'palette merge --method moerges' writes them."
        )
    if palette.dense and palette.moerges is not None:
        config = _config(palette.moerges, "config.json", "the MoErges")
        count = config.get("num_local_experts") or config.get("num_experts")
        if config and count is None:
            raise ManifestError(
                f"{palette.moerges} is a {config.get('model_type')!r} model without experts, no MoErges: "
                "make one with 'palette merge --method moerges'."
            )
        active = config.get("num_experts_per_tok")
        if config and active != count:
            raise ManifestError(
                f"{palette.moerges} has {active} of its {count} experts active; a MoErges has all. "
                "Set num_experts_per_tok in its config.json, or merge it with 'palette merge'."
            )


def check_router(file: Path, communities: Sequence[str], blend: str) -> None:
    """Raise ManifestError when the router's file can not be read, is for other communities, or has none that
    is called `blend`.
    """
    try:
        headers, notes = read_headers(file)
        named = parse_json(notes.get("communities", "[]"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{file} can not be read: {error}. It should be the palette's router.") from None
    if named and named != list(communities):
        others = ", ".join(map(str, named)) if isinstance(named, list) else repr(named)
        raise ManifestError(
            f"{file} is the router of {others}; the palette has {', '.join(communities)}, in this order."
        )
    rows = {name.removesuffix(".rows"): one for name, one in headers.items() if name.endswith(".rows")}
    names = sorted(rows) or ["paper"]  # a file of one has MergeKit's names
    if blend not in names:
        raise ManifestError(f"{file} has no router {blend!r}; it has {', '.join(names)}.")
    for name, one in rows.items():
        if len(one.shape) != 3 or one.shape[1] != len(communities):
            raise ManifestError(
                f"{file}: the router {name!r} is {one.shape} (layers, communities, width); the palette has "
                f"{len(communities)} communities."
            )


def content_digest(palette: ServedPalette) -> str:
    """Twelve hex digits over what one server is made of: base, adapters, router and blend, wherever they lie.
    A model on the hub counts by its name.
    """
    digest = hashlib.sha256(f"{palette.blend} {list(palette.adapters)}".encode())
    for source, pattern in (
        (palette.base, "*"),
        *((adapter, "adapter_*") for adapter in palette.adapters.values()),
    ):
        if isinstance(source, str):
            digest.update(source.encode())
        else:
            digest_files(digest, source, pattern)
    if palette.router is not None and palette.router.is_file():
        hash_file(digest, palette.router)
    return digest.hexdigest()[:12]


def digest_files(digest: Hash, folder: Path, pattern: str) -> None:
    """Add a folder's files to `digest`: small ones whole, of large ones the size and both ends."""
    for file in sorted(folder.glob(pattern)):
        if not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        if size <= WHOLE_BYTES:
            hash_file(digest, file)
            continue
        with file.open("rb") as stream:
            digest.update(stream.read(EDGE_BYTES))
            stream.seek(-EDGE_BYTES, os.SEEK_END)
            digest.update(stream.read())


def lora_rank(palette: ServedPalette) -> int:
    """The value for --max-lora-rank: the adapters' largest rank, rounded up to what vLLM takes.

    Raises ManifestError: a kind of adapter that vLLM does not serve, a rank beyond vLLM's largest.
    """
    if palette.knobs.max_lora_rank is not None:
        largest = palette.knobs.max_lora_rank
    else:
        largest = max(_rank(source, community) for community, source in palette.adapters.items())
    for rank in LORA_RANKS:
        if rank >= largest:
            return rank
    raise ManifestError(
        f"An adapter has rank {largest}; vLLM serves up to {LORA_RANKS[-1]}. Merge it into a model."
    )


def lora_targets(palette: ServedPalette) -> list[str]:
    """The layers that the adapters change, by the last part of their names; empty when they do not say it
    plainly.
    """
    layers: set[str] = set()
    for source in palette.adapters.values():
        targets = (
            read_json(source, "adapter_config.json").get("target_modules")
            if isinstance(source, Path)
            else None
        )
        if not isinstance(targets, list) or not all(isinstance(t, str) and t.isidentifier() for t in targets):
            return []
        layers |= set(targets)
    return sorted(layers)


def read_json(folder: Path, file: str) -> dict[str, Any]:
    """A JSON object of a model's folder; empty when it is not there. Raises ManifestError when broken."""
    try:
        return read_object(folder / file, nan=True)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ManifestError(f"{folder / file} can not be read: {error}") from None


def _rank(source: Source, community: str) -> int:
    if not isinstance(source, Path):
        raise ManifestError(
            f"The adapter of {community} is on the hub ({source}): set serving.max_lora_rank, the largest "
            "rank of the adapters."
        )
    config = _adapter(source, community)
    patterns = config.get("rank_pattern") or {}
    ranks: list[Any] = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else [patterns])]
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ManifestError(
                f"{source}: r and rank_pattern of adapter_config.json hold {rank!r}; expected whole numbers "
                "from 1."
            )
    return int(max(ranks))


def _adapter(source: Source, community: str) -> dict[str, Any]:
    """The settings of a plain LoRA, whose file holds what they say; empty for one on the hub, which vLLM
    itself then checks.
    """
    config = _config(source, "adapter_config.json", f"the adapter of {community}")
    if isinstance(source, Path):
        try:
            check_settings(config, source)
            stored_lora(source, config)
        except AdapterError as error:
            raise ManifestError(str(error)) from None
    return config


def _config(source: Source, file: str, what: str) -> dict[str, Any]:
    """The JSON file of a folder, which has to be there; empty for a model on the hub."""
    if not isinstance(source, Path):
        return {}
    if not source.is_dir():
        raise ManifestError(f"{source} is not there; it should be {what}.")
    config = read_json(source, file)
    if not config:
        other = " It is a full model; vLLM serves adapters of one base." if _is_model(source, file) else ""
        raise ManifestError(f"{source} has no {file}; it should be {what}.{other}")
    return config


def _is_model(source: Path, file: str) -> bool:
    return file == "adapter_config.json" and (source / "config.json").is_file()


def _source(text: str, home: Path, where: str) -> Source:
    """A folder, relative to the manifest's, or a hub name. What begins like a folder here is a folder."""
    try:
        path = home / Path(text).expanduser()
        plain = text.startswith((".", "/", "~")) or path.exists() or (home / Path(text).parts[0]).is_dir()
        if plain or text.count("/") != 1:
            return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null in it, the home of nobody
        raise ManifestError(f"{where}: {text!r} is no folder: {error}.") from None
    if not HUB_ID.fullmatch(text):
        raise ManifestError(f"{where}: {text!r} is neither a folder nor a hub name like 'org/model'.")
    return text


def _map(text: str, home: Path) -> str:
    """A built-in map by name; a file's path made whole, since the settings may be read elsewhere."""
    return str((home / text).resolve()) if text.endswith((".yaml", ".yml")) else text


def _describe(error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in fault["loc"]) or "the file"
        problem = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            problem = "there is no such field"
        elif fault["type"] == "missing":
            problem = "is missing"
        lines.append(f"{where}: {problem}.")
    return " ".join(lines)
