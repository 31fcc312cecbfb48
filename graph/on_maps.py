"""What `palette ui` serves: the method, its ablations and baselines on every built-in map and on the
settings' own. Imported by the LangGraph server only. No checkpointer: the server brings its own.

A graph goes by its variant's name on the settings' map, and by `NAME@MAP` on another.
"""

from cultural_palette.cultural_map import builtin_maps, load_map
from cultural_palette.graph.variants import BASELINES, VARIANTS, build_variant
from cultural_palette.settings import current_settings

_OWN = load_map(current_settings().map)
_GRAPHS = {name: build_variant(name, _OWN) for name in (*VARIANTS, *BASELINES)} | {
    f"{name}@{other}": build_variant(name, other)
    for other in builtin_maps()
    if other != _OWN.key
    for name in VARIANTS
}
GRAPH_IDS = tuple(_GRAPHS)
globals().update(_GRAPHS)  # the server looks a graph up by its name in this module
