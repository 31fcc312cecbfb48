"""Which models and blends a caller of our server may name: a run's context comes from outside, and must not
make the server send requests to any address, or read any folder or file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from cultural_palette.embedded.manifest import BUILT_IN
from cultural_palette.errors import SettingsError
from cultural_palette.fitted_blends import OF_PALETTE, has_name, is_fitted
from cultural_palette.models.references import ModelRef
from cultural_palette.moerges.modes import FITTED
from cultural_palette.settings import OPENAI_URL, Settings, current_settings

MODEL_KNOBS = ("model", "models", "teacher")


def refuse_places(context: Mapping[str, Any]) -> None:
    """Raise SettingsError for a model at an address that neither the settings name nor `allowed_addresses`
    does, for an embedded palette in a folder that the settings do not name, and for a fitted blend by a path.
    """
    settings = current_settings()
    _refuse_file(context.get("blend"), settings)
    for text in _models_in(context):
        ref = ModelRef.parse(text)
        if ref.in_process:
            palette = ref.name.rpartition("/")[0] or ref.name
            if ref.name not in BUILT_IN and palette not in BUILT_IN and not _is_ours(ref, settings):
                raise SettingsError(
                    f"Model {text!r}: this server reads no folder that a caller names. Embedded palettes "
                    f"here: {', '.join(sorted(BUILT_IN))}."
                )
        elif ref.base_url is not None and _origin(ref.base_url) not in _allowed(settings):
            raise SettingsError(
                f"Model {text!r}: this server asks no model at {ref.base_url}, which its settings do not "
                "name. Whoever runs it may allow the address: PALETTE_ALLOWED_ADDRESSES="
                f"'[\"{'://'.join(_origin(ref.base_url))}\"]'."
            )


def _refuse_file(blend: Any, settings: Settings) -> None:
    if not isinstance(blend, str) or not is_fitted(blend) or blend == settings.blend:
        return
    if not has_name(blend, settings):
        names = ", ".join(f"{FITTED}{name}" for name in (OF_PALETTE, *settings.fitted_blends))
        raise SettingsError(
            f"Blend {blend!r}: this server reads no file that a caller names. Fitted blends here: {names}. "
            'Whoever runs it may name another: PALETTE_FITTED_BLENDS=\'{"NAME": "FILE"}\'.'
        )


def _models_in(context: Mapping[str, Any]) -> Iterator[str]:
    for name in MODEL_KNOBS:
        value = context.get(name)
        values = value.values() if isinstance(value, Mapping) else [value]
        yield from (text for text in values if isinstance(text, str) and text)


def _of_settings(settings: Settings) -> list[ModelRef]:
    return [ModelRef.parse(text) for text in (settings.model, *settings.models.values()) if text]


def _is_ours(ref: ModelRef, settings: Settings) -> bool:
    """Whether the settings name it: itself, or its palette. Names are compared whole: what only begins alike
    may lead elsewhere ("pal/../other").
    """
    names = (ref.name, ref.name.rpartition("/")[0])
    return any(ours.name in names for ours in _of_settings(settings) if ours.in_process)


def _allowed(settings: Settings) -> set[tuple[str, str]]:
    urls = [OPENAI_URL, settings.base_url, *settings.allowed_addresses]
    urls += [ref.base_url for ref in _of_settings(settings)]
    return {_origin(url) for url in urls if url}


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
