"""Every method of Table 1, the ablations and our controls, in one table; or a method of one's own by path.

A method is a graph (a choice of nodes, `graph/variants.py`) or an async function `item -> Prediction`. How
each is defined and where it departs from its source: docs/methods.md.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import SettingsError, UsageError
from cultural_palette.evaluation.predictions import Prediction
from cultural_palette.evaluation.surveys import Survey, SurveyItem
from cultural_palette.evaluation.value_library import ValueLibrary
from cultural_palette.graph.build import build_palette
from cultural_palette.graph.variants import SINGLE, build_variant, variant_named
from cultural_palette.models import BASE, ModelRef, resolve_parts
from cultural_palette.nodes.knobs import PaletteContext
from cultural_palette.provenance import file_sha256
from cultural_palette.settings import current_settings
from cultural_palette.suggestions import did_you_mean

Predict = Callable[[SurveyItem], Awaitable[Prediction]]
BEST_SINGLE = "best-single-draft"
RETRIEVAL = "values-retrieval"
ALL, PAPER = "all", "paper"
REPRODUCED = "paper"
"""The router of the paper's own methods, whatever a palette's default."""


@dataclass(frozen=True)
class Method:
    """`variant`: its graph, by name. `models`: part -> a model beside the palette's own that plays it, by the
    name that `--model-of NAME=REF` gives it. `path`: a method of one's own, "module:attribute". `router`: by
    which a palette's MoErges blends, unless `--blend` says otherwise; other models blend as they do.
    `needs_blend`: without such a MoErges it is not run.
    """

    name: str
    source: str
    variant: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None
    router: str | None = None
    needs_blend: bool = False


_FENG = "Feng et al. 2024 (Modular Pluralism)"
METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        # baselines of Table 1
        Method("vanilla", "Table 1, 'Vanilla'", "vanilla"),
        Method("prompting", "Table 1, 'Prompting'", "prompting"),
        Method("joint", "Table 1, 'Joint'; Xu et al. 2024", "prompting", models={BASE: "joint"}),
        Method("moe", "Table 1, 'MoE'", "moe"),
        Method("modular-overton", f"{_FENG}, Overton mode", "modular-overton"),
        Method("modular-steerable", f"{_FENG}, steerable mode", "modular-steerable"),
        Method("modular-distributional", f"{_FENG}, distributional mode", "modular-distributional"),
        # the paper's own
        Method("cultural-palette", "section 5; Table 1, 'Ours'", "palette", router=REPRODUCED),
        Method(
            "fitted-router", "ours: the same, blended by fitted router rows", "blend-fitted", needs_blend=True
        ),
        Method("without-moerges", "Table 1, 'w/o CM'", "without-moerges"),
        Method("without-draft", "Table 1, 'w/o CD'", "without-draft", router=REPRODUCED),
        Method("without-self-regulation", "Table 1, 'w/o SR'", "without-self-regulation", router=REPRODUCED),
        # controls of ours
        Method("own-draft", "control: one culture, the country's own", "own-draft"),
        Method(BEST_SINGLE, "control: one culture, the best one by the other half of the questions"),
        Method(
            "self-blend",
            "control: five samples of one model, not five cultures",
            "self-blend",
            router=REPRODUCED,
        ),
        Method(
            "blend-uniform",
            "control: all communities alike in the MoErges",
            "blend-uniform",
            needs_blend=True,
        ),
        Method(
            "blend-own", "control: the country's own community alone in it", "blend-own", needs_blend=True
        ),
        # rivals
        Method("debate", "rival: two agents and a judge; after Ki et al. 2025", "debate"),
        Method("personas", "rival: five persons of the country and a judge", "personas"),
        Method(RETRIEVAL, "rival: the idea of ValuesRAG, Seo et al. 2025", RETRIEVAL),
    )
}
CONTROLS = ("own-draft", BEST_SINGLE, "self-blend", "blend-uniform", "blend-own")
RIVALS = ("debate", "personas", RETRIEVAL)


def methods_named(
    names: Sequence[str], cultural_map: CulturalMap, models_of: Mapping[str, str], *, blends: bool = False
) -> tuple[tuple[Method, ...], dict[str, str]]:
    """The methods by their names, and those left out with the reason.

    "all" and "paper" (without controls and rivals) leave out what lacks a model; a method asked for by name
    that lacks one is a SettingsError. `blends`: whether the meta agent is a MoErges that takes a blend by
    name. `best-single-draft` brings `single-draft:COMMUNITY` for every community.
    """
    known = {need for method in METHODS.values() for need in method.models.values()}
    for need in models_of:
        if need not in known:
            raise SettingsError(f"No method needs a model {need!r}. There are {', '.join(sorted(known))}.")
        ModelRef.parse(models_of[need])
    chosen: dict[str, Method] = {}
    left_out: dict[str, str] = {}
    for name in names:
        group = name in (ALL, PAPER)
        wanted = [*METHODS] if group else [name]
        if name == PAPER:
            wanted = [key for key in wanted if key not in (*CONTROLS, *RIVALS)]
        for key in wanted:
            method = _method(key, cultural_map)
            lacking = [need for need in method.models.values() if need not in models_of]
            if lacking and not group:
                raise SettingsError(f"Method {key!r} {_way_out(lacking)}")
            if lacking:
                left_out[key] = _way_out(lacking)
                continue
            if method.needs_blend and not blends:
                if not group:
                    raise SettingsError(f"Method {key!r} {NO_BLEND}")
                left_out[key] = NO_BLEND
                continue
            if method.name == BEST_SINGLE:
                for community in cultural_map.communities:
                    single = _method(f"{SINGLE}{community.key}", cultural_map)
                    chosen.setdefault(single.name, single)
            chosen.setdefault(method.name, method)
    if not chosen:
        raise UsageError("No method to run: name some, 'paper' or 'all'.")
    return tuple(chosen.values()), left_out


NO_BLEND = (
    "needs a palette's MoErges as the meta agent, in process: --model embedded:nano, or a palette folder. A "
    "served one blends as it was started, or in all methods by --blend."
)


def _way_out(lacking: Sequence[str]) -> str:
    flags = " ".join(f"--model-of {need}=REF" for need in lacking)
    return f"needs a model of its own: {flags}, such as openai:joint@http://127.0.0.1:8000/v1."


def _method(name: str, cultural_map: CulturalMap) -> Method:
    if name in METHODS:
        return METHODS[name]
    if name.startswith(SINGLE):
        key = cultural_map.community(name.removeprefix(SINGLE)).key
        return Method(name, f"control: one culture, {key}", name)
    if ":" in name:
        return Method(name, "a method of one's own", path=name)
    raise UsageError(
        f"Unknown method {name!r}.{did_you_mean(name, METHODS)} There are {', '.join(METHODS)}, "
        f"{SINGLE}COMMUNITY, 'paper' and 'all', or one of your own as module:attribute."
    )


class Graph(Protocol):
    """What a method needs of a compiled graph."""

    async def ainvoke(self, input: Any, /, *, context: Any) -> dict[str, Any]:
        """Run it."""


def predictor(
    method: Method, cultural_map: CulturalMap, models_of: Mapping[str, str], survey: Survey | None = None
) -> Predict:
    """How a method predicts an item, under the settings in force when it is called. Graphs are built once.
    `survey`: what `values-retrieval` looks other answers up in.

    Raises UsageError for a path that leads to no method.
    """
    made: Any = (
        _imported(method.path) if method.path else variant_graph(method.variant or "", cultural_map, survey)
    )
    if _is_predict(made):
        return made
    if not hasattr(made, "ainvoke"):
        made = made()
    if not hasattr(made, "ainvoke"):
        raise UsageError(f"Method {method.path!r} returned a {type(made).__name__}, no compiled graph.")
    graph: Graph = made
    others = {part: models_of[need] for part, need in method.models.items()}

    async def predict(item: SurveyItem) -> Prediction:
        context = PaletteContext.from_settings(current_settings())
        models = {**context.models, **others}
        orders = orders_shown(context.permutations or 1, item.question.ordered)
        context = context.model_copy(update={"models": models, "permutations": orders})
        if method.router and not context.blend:
            here = await asyncio.to_thread(blends_here, cultural_map, context.models, context.model)
            context = context.model_copy(update={"blend": method.router if here else None})
        text, options = item.text_and_options
        question = {"country": item.country, "query": text, "options": list(options)}
        return Prediction.of_graph(await graph.ainvoke(question, context=context), item)

    return predict


def blends_here(cultural_map: CulturalMap, models: Mapping[str, str], model: str | None) -> bool:
    """Whether the meta agent is the MoErges of an embedded palette; a served one blends as it was started,
    unless `--blend` says otherwise.
    """
    meta = resolve_parts(cultural_map, models, model).meta
    return meta.in_process and meta.takes_blend


def variant_graph(variant: str, cultural_map: CulturalMap, survey: Survey | None) -> Any:
    """The graph of a variant. `survey`: what `values-retrieval` looks other answers up in; without it that
    fails on every question, with this as its reason.
    """
    if variant != RETRIEVAL or survey is None:
        return build_variant(variant, cultural_map)
    nodes = dict(variant_named(RETRIEVAL).nodes)
    nodes["regulate"] = partial(nodes["regulate"], library=ValueLibrary(survey))
    return build_palette(cultural_map, name=RETRIEVAL, **nodes)


def orders_shown(orders: int, ordered: bool | None) -> int:
    """How many orders of an item's options are read: a scale is only ever shown as it is and reversed."""
    return min(orders, 2) if ordered else orders


def _is_predict(made: Any) -> TypeGuard[Predict]:
    return inspect.iscoroutinefunction(made)


def source_sha256(path: str) -> str | None:
    """The SHA-256 of the file that "module:attribute" stands in; None where there is no such file."""
    try:
        spec = importlib.util.find_spec(path.partition(":")[0])
    except (ImportError, ValueError):
        return None
    file = Path(spec.origin) if spec and spec.origin else None
    return file_sha256(file) if file and file.is_file() else None


def _imported(path: str) -> Any:
    """What stands at "module:attribute": a graph, a callable that makes one, or an async function."""
    module, _, attribute = path.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"Method {path!r} can not be loaded: {error}.") from None
    if not (hasattr(made, "ainvoke") or callable(made)):
        raise UsageError(
            f"Method {path!r} is a {type(made).__name__}: expected an async function `item -> Prediction`, "
            "or a callable that returns a compiled graph."
        )
    return made
