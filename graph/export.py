"""What `langgraph.json` serves: variants, baselines and the synthesis, on the map of the settings. Imported
by the LangGraph server only.

No checkpointer: the server brings its own.
"""

from cultural_palette.graph.synthesis import build_synthesis
from cultural_palette.graph.variants import build_variant
from cultural_palette.settings import current_settings

_MAP = current_settings().map

palette = build_variant("palette", _MAP)
without_draft = build_variant("without-draft", _MAP)
without_self_regulation = build_variant("without-self-regulation", _MAP)
without_moerges = build_variant("without-moerges", _MAP)
vanilla = build_variant("vanilla", _MAP)
prompting = build_variant("prompting", _MAP)
moe = build_variant("moe", _MAP)
modular_overton = build_variant("modular-overton", _MAP)
modular_steerable = build_variant("modular-steerable", _MAP)
modular_distributional = build_variant("modular-distributional", _MAP)
own_draft = build_variant("own-draft", _MAP)
self_blend = build_variant("self-blend", _MAP)
synthesis = build_synthesis(_MAP)
