"""Merging community models: one flat model (TIES, Model Stock) or a mixture with an expert a community
(MoErges).

| file | its idea |
|---|---|
| `checkpoint.py` | read tensors, write shards, finished or not there |
| `members.py` | a community's weights: LoRA adapter or full model |
| `flat.py` | TIES and Model Stock, by MergeKit, tensor by tensor |
| `moerges.py` | the mixture, exact for Llama, Mistral, Qwen2.5, Qwen3 |
| `router.py` | router rows, and whether they tell communities apart |
| `checks.py`, `report.py` | what a result must pass, and what it says of itself |
"""

from cultural_palette.training.merge.checkpoint import Checkpoint, MergeError
from cultural_palette.training.merge.flat import METHODS, FlatSettings, merge_adapter, merge_flat
from cultural_palette.training.merge.moerges import ARCHITECTURES, merge_moerges, router_rows
from cultural_palette.training.merge.router import PLACES, PROMPT_SETS, map_prompts

__all__ = [
    "ARCHITECTURES", "METHODS", "PLACES", "PROMPT_SETS", "Checkpoint", "FlatSettings", "MergeError",
    "map_prompts", "merge_adapter", "merge_flat", "merge_moerges", "router_rows",
]  # fmt: skip
