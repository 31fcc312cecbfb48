"""A state as intake leaves it, and a runtime with a context: nodes run without a graph."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.cultural_map import load_map
from cultural_palette.nodes.knobs import PaletteContext

CONTINENTS = load_map("continents")
KEYS = tuple(community.key for community in CONTINENTS.communities)


def runtime(**context: Any) -> Any:
    return Runtime(context=PaletteContext(**context))


def state(query: str = "Is tea good?", options: tuple[str, ...] = (), **more: Any) -> Any:
    return {
        "country": "USA",
        "turn": {"query": query, "options": list(options), "in_chat": False},
        "parts": {part: f"scripted:{part}" for part in (*KEYS, "meta", "base")},
        "communities": {c.key: c.name for c in CONTINENTS.communities},
        "messages": [],
        **more,
    }


def drafted(text: str | None, error: str | None = None) -> dict[str, Any]:
    return {"text": text, "seconds": 0.1, "error": error, "model": "scripted:x"}
