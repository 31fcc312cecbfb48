"""Cultural Palette: the shared language. Names load when first used: the import itself costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cultural_palette.countries import Country, all_countries, find_country
    from cultural_palette.cultural_map import Community, CulturalMap, builtin_maps, load_map
    from cultural_palette.distributions import Distribution
    from cultural_palette.errors import PaletteError, UsageError
    from cultural_palette.models import ModelRef, chat_model
    from cultural_palette.questions import Question
    from cultural_palette.readout import read_options
    from cultural_palette.settings import get_settings

__version__ = "0.1.0"

HOMES = {
    "cultural_palette.countries": ("Country", "all_countries", "find_country"),
    "cultural_palette.cultural_map": ("Community", "CulturalMap", "builtin_maps", "load_map"),
    "cultural_palette.distributions": ("Distribution",),
    "cultural_palette.errors": ("PaletteError", "UsageError"),
    "cultural_palette.models": ("ModelRef", "chat_model"),
    "cultural_palette.questions": ("Question",),
    "cultural_palette.readout": ("read_options",),
    "cultural_palette.settings": ("get_settings",),
}
HOME_OF = {name: module for module, names in HOMES.items() for name in names}

__all__ = [
    "Community",
    "Country",
    "CulturalMap",
    "Distribution",
    "ModelRef",
    "PaletteError",
    "Question",
    "UsageError",
    "all_countries",
    "builtin_maps",
    "chat_model",
    "find_country",
    "get_settings",
    "load_map",
    "read_options",
]


def __getattr__(name: str) -> Any:
    if name not in HOME_OF:
        raise AttributeError(f"module 'cultural_palette' has no attribute {name!r}")
    return getattr(import_module(HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOME_OF])
