"""What the page offers to choose from: maps, countries, questions, methods, prompts, knobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from cultural_palette.countries import ALIASES, NICKNAMES, all_countries
from cultural_palette.cultural_map import CulturalMap, builtin_maps, load_map
from cultural_palette.embedded.manifest import Manifest, read_manifest
from cultural_palette.errors import ModelError, PaletteError
from cultural_palette.graph.variants import BASELINES, VARIANTS, Variant
from cultural_palette.knobs import Declared, declared_knobs
from cultural_palette.models import BASE, META, ModelRef, resolve_parts
from cultural_palette.nodes.knobs import PROMPT_FIELDS
from cultural_palette.prompts import fields_of, names, template_of
from cultural_palette.settings import Settings, current_settings
from cultural_palette.version import __version__

QUESTIONS = Path(__file__).with_name("questions.yaml")
NODE_OF_PROMPT = {"account": "regulate", "decide_option": "decide"}  # the others go by their node's name
OWN_FIELDS = ("model", "models", "prompt_order", "sampling")  # the page has another place for them, or none


def catalogue() -> dict[str, Any]:
    """All of it, ready for JSON. Reads files: call it in a thread."""
    settings = current_settings()
    own = load_map(settings.map)
    others = [load_map(name) for name in builtin_maps() if name != own.key]
    return {
        "version": __version__,
        "map": own.key,
        "maps": [_map(cultural_map, settings) for cultural_map in (own, *others)],
        "countries": _countries(),
        "questions": yaml.safe_load(QUESTIONS.read_text(encoding="utf-8")),
        "methods": _methods(),
        "prompts": [
            {
                "name": name,
                "node": NODE_OF_PROMPT.get(name, name),
                "text": _template(name, settings),
                "fields": fields_of(name),
            }
            for name in (field.removeprefix("prompt_") for field in PROMPT_FIELDS)
        ],
        "knobs": [_knob(knob, settings) for name, knob in declared_knobs().items() if name not in OWN_FIELDS],
    }


def _map(cultural_map: CulturalMap, settings: Settings) -> dict[str, Any]:
    """A map, and who plays it. `scope`: countries (ISO codes) that an embedded palette's data holds, None
    without such a limit; `missing`: why no model can play it, None where all parts have one.
    """
    missing, models, scope = None, [], None
    try:
        parts = resolve_parts(cultural_map, settings.models, settings.model)
    except PaletteError as error:
        missing = str(error)
    else:
        models = list(dict.fromkeys(str(parts.of(part)) for part in (*parts.agents, META, BASE)))
        if (palette := _embedded(parts.meta)) is not None and palette.scope is not None:
            scope = palette.scope["countries"]
    return {
        "key": cultural_map.key,
        "name": cultural_map.name,
        "source": cultural_map.source,
        "communities": [
            {"key": c.key, "name": c.name, "colour": c.colour, "countries": c.countries}
            for c in cultural_map.communities
        ],
        "models": models,
        "scope": scope,
        "missing": missing,
    }


def _embedded(ref: ModelRef) -> Manifest | None:
    """The palette that an embedded model belongs to; None for a model of a server."""
    if not ref.in_process:
        return None
    palette = ref.name.rpartition("/")[0] or ref.name
    try:
        return read_manifest(palette)
    except ModelError:
        return None


def _countries() -> list[dict[str, Any]]:
    """Every country with the other names it goes by."""
    nicknames: dict[str, list[str]] = {}
    for name, iso3 in NICKNAMES.items():
        nicknames.setdefault(iso3, []).append(name)
    return [
        {
            "iso3": country.iso3,
            "iso2": country.iso2,
            "name": country.name,
            "in_text": country.in_text,
            "aliases": [*ALIASES.get(country.iso3, ()), *nicknames.get(country.iso3, ())],
        }
        for country in all_countries()
    ]


def _methods() -> list[dict[str, str]]:
    """The method, its ablations and the baselines, with their sources."""
    return list(_described(VARIANTS, "method")) + list(_described(BASELINES, "baseline"))


def _described(table: Mapping[str, Variant], kind: str) -> Iterator[dict[str, str]]:
    for name, variant in table.items():
        yield {"name": name, "kind": kind, "source": variant.source}


def _template(name: str, settings: Settings) -> str:
    """The text a run starts from: in the settings' order of parts."""
    prefixed = f"prefix/{name}"
    ours = settings.prompt_order == "prefix" and prefixed in names("prefix")
    return template_of(prefixed if ours else name)


def _knob(knob: Declared, settings: Settings) -> dict[str, Any]:
    """A knob with its limits, and the value it has when nobody turns it."""
    chosen = replace(knob, default=getattr(settings, knob.name))
    return {
        "name": chosen.name,
        "description": chosen.knob.description,
        "default": chosen.default,
        "whole": "int" in str(chosen.type),
        "choices": chosen.choices,
        "at_least": chosen.knob.at_least if chosen.knob.at_least is not None else chosen.knob.above,
        "at_most": chosen.knob.at_most,
    }
