"""Which model plays which part. A part is a community's key, "meta" (distils and decides) or "base"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.embedded.manifest import read_manifest
from cultural_palette.errors import ModelError, SettingsError
from cultural_palette.models.references import EMBEDDED, ModelRef
from cultural_palette.suggestions import did_you_mean

META, BASE = "meta", "base"
DEFAULT_PALETTE = "nano"


@dataclass(frozen=True)
class Parts:
    """Every part's model. `prompted`: one model plays several communities, told apart by the prompt alone."""

    agents: Mapping[str, ModelRef]
    meta: ModelRef
    base: ModelRef
    prompted: bool

    def of(self, part: str) -> ModelRef:
        """The model of a community, of "meta" or of "base"."""
        return {**self.agents, META: self.meta, BASE: self.base}[part]


def make_ready(parts: Parts, say: Callable[[str], None] = lambda line: None) -> None:
    """Do what must be done once on this machine before these models can answer; blocks, so call it in a
    thread from async code. `say` hears what takes long. Raises ModelError with the way out.
    """
    for ref in dict.fromkeys((*parts.agents.values(), parts.meta, parts.base)):
        ref.runs_on.make_ready(ref, say)


def resolve_parts(cultural_map: CulturalMap, models: Mapping[str, str], model: str | None) -> Parts:
    """A model for every part: `models` by part, then the one `model`, then the embedded nano palette.

    Reads the manifest of an embedded palette: call it in a thread from async code. Raises SettingsError for
    unknown parts and names, ModelError when the embedded palette lacks a community of the map.
    """
    keys = [community.key for community in cultural_map.communities]
    parts = (*keys, META, BASE)
    for part in models:
        if part not in parts:
            hint = did_you_mean(part, parts)
            raise SettingsError(f"Unknown part {part!r} in `models`.{hint} The parts are {', '.join(parts)}.")
    default = ModelRef.parse(model) if model else ModelRef(EMBEDDED, DEFAULT_PALETTE)
    chosen: dict[str, ModelRef] = {}
    lacking: dict[str, list[str]] = {}
    for part in parts:
        ref = ModelRef.parse(models[part]) if part in models else default
        if ref.provider == EMBEDDED:
            ref, has_part = _part_of_palette(ref, part)
            if not has_part:
                palette, _, own = ref.name.rpartition("/")
                lacking.setdefault(palette, []).append(own)
        chosen[part] = ref
    for palette, missing in lacking.items():
        raise ModelError(
            f"The embedded palette {palette!r} has no model for {', '.join(missing)} of the map "
            f"{cultural_map.name!r}. Name a model that plays every part (--model openai:NAME), or one for "
            "each part (`models` in palette.toml)."
        )
    agents = {key: chosen[key] for key in keys}
    return Parts(agents, chosen[META], chosen[BASE], prompted=len(set(agents.values())) < len(keys))


def _part_of_palette(ref: ModelRef, part: str) -> tuple[ModelRef, bool]:
    """The model of a part in an embedded palette, and whether the palette has it. A palette named without a
    part plays each part with its own model.
    """
    palette, _, own = ref.name.rpartition("/")
    try:
        manifest = read_manifest(ref.name)
    except ModelError:
        if not palette:
            raise
        manifest = read_manifest(palette)
    else:
        palette, own = ref.name, part
    known = own.partition("[")[0] in (META,) or own in (*manifest.communities, BASE)
    return ModelRef(EMBEDDED, f"{palette}/{own}"), known


def weights_to_load(parts: Parts) -> list[str]:
    """What has to be read into this process before these parts can answer: "embedded:nano", each once."""
    refs = [*parts.agents.values(), parts.meta, parts.base]
    return list(dict.fromkeys(name for ref in refs if (name := ref.runs_on.to_load(ref)) is not None))
