"""The paper's method and its ablations, each a choice of nodes given to one builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from langgraph.types import Checkpointer

from graph.build import PaletteGraph, build_palette
from nodes.decide import decide
from nodes.regulate import regulate
from palette.cultural_map import CulturalMap
from palette.errors import UsageError
from palette.models import BASE


@dataclass(frozen=True)
class Variant:
    """`source`: where the paper describes it. `nodes`: what it gives to `build_palette`."""

    source: str
    nodes: Mapping[str, Any] = field(default_factory=dict)


VARIANTS: Mapping[str, Variant] = {
    "palette": Variant("the full method: section 5; Table 1, 'Ours'"),
    "without-draft": Variant("ablation 'w/o CD': no cultural drafts", {"draft": None}),
    "without-self-regulation": Variant(
        "ablation 'w/o SR': drafts straight to the decision", {"regulate": None}
    ),
    "without-moerges": Variant(
        "ablation 'w/o MoErges': the base model distils and decides",
        {"regulate": partial(regulate, part=BASE), "decide": partial(decide, part=BASE)},
    ),
}


def build_variant(
    name: str = "palette", cultural_map: str | CulturalMap = "continents", checkpointer: Checkpointer = None
) -> PaletteGraph:
    """The graph of a variant by its name."""
    if name not in VARIANTS:
        raise UsageError(f"Unknown variant {name!r}. There are {', '.join(VARIANTS)}.")
    return build_palette(cultural_map, checkpointer=checkpointer, name=name, **VARIANTS[name].nodes)
