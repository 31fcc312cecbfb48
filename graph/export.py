"""What `langgraph.json` serves: every variant, on the map of the settings. Imported by the LangGraph server
only.

No checkpointer: the server brings its own.
"""

from graph.variants import build_variant
from palette.settings import current_settings

_MAP = current_settings().map

palette = build_variant("palette", _MAP)
without_draft = build_variant("without-draft", _MAP)
without_self_regulation = build_variant("without-self-regulation", _MAP)
without_moerges = build_variant("without-moerges", _MAP)
