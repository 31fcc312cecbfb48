"""The paper's method, its ablations, its baselines and our controls, each a choice of nodes given to one
builder. What is ours and where we depart from a source: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from langgraph.types import Checkpointer

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import UsageError
from cultural_palette.graph.build import PaletteGraph, build_palette
from cultural_palette.models import BASE
from cultural_palette.nodes.answer import CHOSEN, answer
from cultural_palette.nodes.debate import debate
from cultural_palette.nodes.decide import decide
from cultural_palette.nodes.intake import OWN, intake
from cultural_palette.nodes.mix import mix
from cultural_palette.nodes.personas import personas
from cultural_palette.nodes.recall import recall
from cultural_palette.nodes.regulate import regulate
from cultural_palette.nodes.resample import resample
from cultural_palette.nodes.route import home, route, settled
from cultural_palette.nodes.select import select
from cultural_palette.nodes.summarise import summarise
from cultural_palette.suggestions import did_you_mean

SINGLE = "single-draft:"


@dataclass(frozen=True)
class Variant:
    """`source`: where it is described. `nodes`: what it gives to `build_palette`."""

    source: str
    nodes: Mapping[str, Any] = field(default_factory=dict)


def _alone(**nodes: Any) -> dict[str, Any]:
    """One model answers by itself: nobody drafts."""
    return {"draft": None, "memory": None, "regulate": None, **nodes}


def _one_draft(route: Any) -> dict[str, Any]:
    """One community drafts, and the base model decides: the MoErges would bring the other cultures back."""
    return {"route": route, "regulate": None, "decide": partial(decide, part=BASE)}


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

BASELINES: Mapping[str, Variant] = {
    "vanilla": Variant(
        "Table 1, 'Vanilla': the bare query to the base model",
        _alone(decide=partial(answer, part=BASE, prompt="vanilla")),
    ),
    "prompting": Variant(
        "Table 1, 'Prompting': asked to consider culture and history",
        _alone(decide=partial(answer, part=BASE, prompt="prompting")),
    ),
    "moe": Variant(
        "Table 1, 'MoE': routed to the best-suited community model, which answers",
        _alone(route=partial(route, part=BASE), decide=partial(answer, part=CHOSEN, prompt="prompting")),
    ),
    "modular-overton": Variant(
        "Feng et al. 2024, Overton: the main model sums up all comments",
        {"regulate": partial(summarise, part=BASE), "decide": partial(decide, part=BASE)},
    ),
    "modular-steerable": Variant(
        "Feng et al. 2024, steerable: the comment that fits the country best",
        {"regulate": partial(select, part=BASE), "decide": partial(decide, part=BASE)},
    ),
    "modular-distributional": Variant(
        "Feng et al. 2024, distributional: the mean of the distributions given each comment",
        {"regulate": None, "decide": partial(mix, part=BASE)},
    ),
    "own-draft": Variant(
        "control, ours: only the country's own community drafts, by the map", _one_draft(home)
    ),
    "self-blend": Variant(
        "control, ours: five drafts of the base model in the place of five cultures'",
        {"draft": None, "resample": partial(resample, part=BASE)},
    ),
}


BLENDS: Mapping[str, Variant] = {
    "blend-fitted": Variant(
        "the full method, ours: the MoErges of a palette blends by its fitted router rows",
        {"intake": partial(intake, blend="fitted")},
    ),
    "blend-uniform": Variant(
        "control, ours: the MoErges of an embedded palette weighs its communities alike",
        {"intake": partial(intake, blend="uniform")},
    ),
    "blend-own": Variant(
        "control, ours: all of the MoErges' weight on the country's own community",
        {"intake": partial(intake, blend=OWN)},
    ),
}


RIVALS: Mapping[str, Variant] = {
    "debate": Variant(
        "rival: two agents debate, a judge decides (after Ki et al. 2025)",
        {"draft": None, "resample": partial(debate, part=BASE), "regulate": None,
         "decide": partial(decide, part=BASE)},
    ),
    "personas": Variant(
        "rival: five persons of the country answer, a judge decides",
        {"draft": None, "resample": partial(personas, part=BASE), "regulate": None,
         "decide": partial(decide, part=BASE)},
    ),
    "values-retrieval": Variant(
        "rival: answers to other questions are looked up and summed up (the idea of ValuesRAG)",
        {"draft": None, "memory": None, "regulate": partial(recall, part=BASE),
         "decide": partial(decide, part=BASE)},
    ),
}  # fmt: skip
"""The base model, too, plays every part of theirs: what is compared is what is done with one model."""


def all_variants() -> Mapping[str, Variant]:
    """The method, its ablations, the baselines, the controls and the rivals, by name."""
    return {**VARIANTS, **BASELINES, **BLENDS, **RIVALS}


def variant_named(name: str) -> Variant:
    """A variant by its name: of the tables, or `single-draft:COMMUNITY`."""
    if name.startswith(SINGLE):
        community = name.removeprefix(SINGLE)
        return Variant(
            f"control, ours: only {community} drafts", _one_draft(partial(settled, community=community))
        )
    table = all_variants()
    if name not in table:
        hint = did_you_mean(name, table)
        raise UsageError(f"Unknown variant {name!r}.{hint} There are {', '.join(table)}, {SINGLE}COMMUNITY.")
    return table[name]


def build_variant(
    name: str = "palette", cultural_map: str | CulturalMap = "continents", checkpointer: Checkpointer = None
) -> PaletteGraph:
    """The graph of a variant by its name."""
    return build_palette(cultural_map, checkpointer=checkpointer, name=name, **variant_named(name).nodes)
