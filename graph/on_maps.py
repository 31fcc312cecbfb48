"""The method and its ablations on the built-in maps, for `palette ui`: a graph goes by its variant's name on
the settings' map (graph/export.py), and by `NAME@MAP` on another.
"""

from __future__ import annotations

from typing import Any

from cultural_palette.cultural_map import builtin_maps
from cultural_palette.graph.export import served
from cultural_palette.graph.variants import VARIANTS, build_variant
from cultural_palette.nodes.knobs import PaletteContext


def _on(name: str, cultural_map: str) -> Any:
    return served(lambda _: build_variant(name, cultural_map), PaletteContext)


_GRAPHS = {f"{name}@{other}": _on(name, other) for other in builtin_maps() for name in VARIANTS}
globals().update(_GRAPHS)  # the server looks a graph up by its name in this module


def graphs_on_maps(own: str) -> dict[str, Any]:
    """Ids of the graphs on the built-in maps other than `own`, as the server takes them."""
    return {
        name: {"path": f"{__name__}:{name}", "description": f"{VARIANTS[variant].source}, on {other}."}
        for name in _GRAPHS
        for variant, _, other in [name.partition("@")]
        if other != own
    }
