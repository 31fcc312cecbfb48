"""Cultural Palette: the shared language. Names load when first used, so `import palette` costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palette.countries import Country, all_countries, find_country
    from palette.cultural_map import Community, CulturalMap, builtin_maps, load_map
    from palette.distributions import Distribution
    from palette.errors import PaletteError, UsageError
    from palette.models import ModelRef, chat_model
    from palette.questions import Question
    from palette.readout import read_options
    from palette.settings import get_settings

__version__ = "0.1.0"

HOMES = {
    "palette.countries": ("Country", "all_countries", "find_country"),
    "palette.cultural_map": ("Community", "CulturalMap", "builtin_maps", "load_map"),
    "palette.distributions": ("Distribution",),
    "palette.errors": ("PaletteError", "UsageError"),
    "palette.models": ("ModelRef", "chat_model"),
    "palette.questions": ("Question",),
    "palette.readout": ("read_options",),
    "palette.settings": ("get_settings",),
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
        raise AttributeError(f"module 'palette' has no attribute {name!r}")
    return getattr(import_module(HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOME_OF])
