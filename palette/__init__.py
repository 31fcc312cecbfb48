"""Cultural Palette: ask what a country would say, and see whose cultures the answer is blended from.

    import cultural_palette as cp
    answer = cp.ask("KEN", "What is a good life?", options=["Family", "Freedom"])

Names load when first used: the import itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cultural_palette.version import __version__ as __version__

if TYPE_CHECKING:
    from cultural_palette.answers import Answer, CountryQuestion, Decided, DraftText
    from cultural_palette.countries import Country, all_countries, find_country
    from cultural_palette.cultural_map import Community, CulturalMap, builtin_maps, load_map
    from cultural_palette.distributions import Distribution
    from cultural_palette.errors import ModelError, PaletteError, UsageError
    from cultural_palette.graph.front_door import aask, ask, batch, build, stream
    from cultural_palette.models import ModelRef, Sampling, chat_model
    from cultural_palette.models.readout import read_options
    from cultural_palette.nodes.events import (
        AccountDone,
        AccountStarted,
        AccountToken,
        AnswerToken,
        Blended,
        Degraded,
        DraftDone,
        DraftFailed,
        DraftStarted,
        DraftToken,
        Event,
        ModelsLoading,
        Note,
        TurnStarted,
    )
    from cultural_palette.nodes.knobs import PaletteContext
    from cultural_palette.nodes.state import PaletteState
    from cultural_palette.questions import Question
    from cultural_palette.settings import Settings, get_settings, use_settings


NAMES_BY_MODULE = {
    "cultural_palette.answers": ("Answer", "CountryQuestion", "Decided", "DraftText"),
    "cultural_palette.countries": ("Country", "all_countries", "find_country"),
    "cultural_palette.cultural_map": ("Community", "CulturalMap", "builtin_maps", "load_map"),
    "cultural_palette.distributions": ("Distribution",),
    "cultural_palette.errors": ("ModelError", "PaletteError", "UsageError"),
    "cultural_palette.graph.front_door": ("aask", "ask", "batch", "build", "stream"),
    "cultural_palette.models": ("ModelRef", "Sampling", "chat_model"),
    "cultural_palette.nodes.events": (
        *("AccountDone", "AccountStarted", "AccountToken", "AnswerToken", "Blended", "Degraded", "DraftDone"),
        *("DraftFailed", "DraftStarted", "DraftToken", "Event", "ModelsLoading", "Note", "TurnStarted"),
    ),
    "cultural_palette.nodes.knobs": ("PaletteContext",),
    "cultural_palette.nodes.state": ("PaletteState",),
    "cultural_palette.questions": ("Question",),
    "cultural_palette.models.readout": ("read_options",),
    "cultural_palette.settings": ("Settings", "get_settings", "use_settings"),
}
MODULE_OF = {name: module for module, names in NAMES_BY_MODULE.items() for name in names}

__all__ = [
    "AccountDone",
    "AccountStarted",
    "AccountToken",
    "Answer",
    "AnswerToken",
    "Blended",
    "Community",
    "Country",
    "CountryQuestion",
    "CulturalMap",
    "Decided",
    "Degraded",
    "Distribution",
    "DraftDone",
    "DraftFailed",
    "DraftStarted",
    "DraftText",
    "DraftToken",
    "Event",
    "ModelError",
    "ModelRef",
    "ModelsLoading",
    "Note",
    "PaletteContext",
    "PaletteError",
    "PaletteState",
    "Question",
    "Sampling",
    "Settings",
    "TurnStarted",
    "UsageError",
    "aask",
    "all_countries",
    "ask",
    "batch",
    "build",
    "builtin_maps",
    "chat_model",
    "find_country",
    "get_settings",
    "load_map",
    "read_options",
    "stream",
    "use_settings",
]


def __getattr__(name: str) -> Any:
    if name not in MODULE_OF:
        raise AttributeError(f"module 'cultural_palette' has no attribute {name!r}")
    return getattr(import_module(MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *MODULE_OF])
