"""The front door: ask a country from Python, at once or as it comes, one question or many.

    answer = ask("KEN", "What is a good life?", options=["Family", "Freedom"], seed=0)

All of it is in `cultural_palette` itself: `import cultural_palette as cp`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast, overload

from typing_extensions import Unpack

from cultural_palette.answers import Answer, CountryQuestion, Decided
from cultural_palette.background import BACKGROUND
from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import PaletteError, UsageError
from cultural_palette.graph.build import PaletteGraph, build_palette
from cultural_palette.graph.variants import build_variant
from cultural_palette.models import close_clients
from cultural_palette.nodes.events import DecisionMade, Event, event_from
from cultural_palette.nodes.knobs import ContextArguments, PaletteContext
from cultural_palette.questions import Question
from cultural_palette.settings import Settings, current_settings, use_settings

build = build_palette


def ask(
    country: str,
    question: str,
    *,
    options: Sequence[str] = (),
    map: str | CulturalMap | None = None,
    variant: str = "palette",
    settings: Settings | None = None,
    **knobs: Unpack[ContextArguments],
) -> Answer:
    """A country's answer, waited for. Works in scripts, in notebooks, and from several threads at once.

    `country`: ISO code or name, in any survey's spelling. `options`: to choose from; none asks freely.
    `map`: a built-in map's name, a YAML file, or a CulturalMap; the settings' own when left out. `variant`:
    the paper's method, an ablation or a baseline (`palette graph --help`). `settings`: servers and keys, from
    `get_settings(base_url=..., api_key=...)`; left out, the environment's. `knobs`: as in PaletteContext:
    `model`, `models` by part, `seed`, `temperature`, ... Raises PaletteError with what to do about it.
    """
    BACKGROUND.at_close(close_clients)
    return BACKGROUND.run(
        aask(country, question, options=options, map=map, variant=variant, settings=settings, **knobs)
    )


async def aask(
    country: str,
    question: str,
    *,
    options: Sequence[str] = (),
    map: str | CulturalMap | None = None,
    variant: str = "palette",
    settings: Settings | None = None,
    **knobs: Unpack[ContextArguments],
) -> Answer:
    """A country's answer, as `ask` gives it, in the running event loop."""
    run = await asyncio.to_thread(_run, country, question, options, map, variant, settings, knobs)
    with run.settings():
        state = await run.graph.ainvoke(run.inputs, context=run.context)
    return Answer.from_state(cast(dict[str, Any], state))


async def stream(
    country: str,
    question: str,
    *,
    options: Sequence[str] = (),
    map: str | CulturalMap | None = None,
    variant: str = "palette",
    settings: Settings | None = None,
    **knobs: Unpack[ContextArguments],
) -> AsyncIterator[Event]:
    """What happens on the way to an answer, as it happens; `Decided` is the last. Arguments as `ask` has."""
    run = await asyncio.to_thread(_run, country, question, options, map, variant, settings, knobs)
    state: dict[str, Any] = {}
    with run.settings():
        parts = run.graph.astream(run.inputs, context=run.context, stream_mode=["custom", "values"])
        async for part in parts:
            mode, chunk = cast(tuple[str, Any], part)
            if mode == "values":
                state = chunk
            elif not isinstance(event := event_from(chunk), DecisionMade):  # `Decided` tells all of it
                yield cast(Event, event)
    yield Decided(Answer.from_state(state))


@overload
async def batch(
    questions: Iterable[CountryQuestion | tuple[str, str]],
    *,
    at_once: int = ...,
    errors: Literal["raise"] = ...,
    map: str | CulturalMap | None = ...,
    variant: str = ...,
    settings: Settings | None = ...,
    **knobs: Unpack[ContextArguments],
) -> list[Answer]: ...


@overload
async def batch(
    questions: Iterable[CountryQuestion | tuple[str, str]],
    *,
    errors: Literal["keep"],
    at_once: int = ...,
    map: str | CulturalMap | None = ...,
    variant: str = ...,
    settings: Settings | None = ...,
    **knobs: Unpack[ContextArguments],
) -> list[Answer | PaletteError]: ...


async def batch(
    questions: Iterable[CountryQuestion | tuple[str, str]],
    *,
    at_once: int = 8,
    errors: Literal["raise", "keep"] = "raise",
    map: str | CulturalMap | None = None,
    variant: str = "palette",
    settings: Settings | None = None,
    **knobs: Unpack[ContextArguments],
) -> list[Answer] | list[Answer | PaletteError]:
    """The answers to many questions, in their order, `at_once` of them under way at a time.

    A question is a CountryQuestion, or a pair (country, question). `errors="keep"`: a question that failed
    has its PaletteError in its place; "raise": the first failure ends the batch.
    """
    if at_once < 1:
        raise UsageError(f"at_once = {at_once}: at least 1 question has to be under way.")
    if errors not in ("raise", "keep"):
        raise UsageError(f"errors = {errors!r}: there are 'raise' and 'keep'.")
    places = asyncio.Semaphore(at_once)

    async def one(wanted: CountryQuestion) -> Answer | PaletteError:
        own = knobs if wanted.seed is None else cast(ContextArguments, {**knobs, "seed": wanted.seed})
        async with places:
            try:
                return await aask(
                    wanted.country,
                    wanted.question,
                    options=wanted.options,
                    map=map,
                    variant=variant,
                    settings=settings,
                    **own,
                )
            except PaletteError as error:
                if errors == "raise":
                    raise
                return error

    wanted = [q if isinstance(q, CountryQuestion) else CountryQuestion(*q) for q in questions]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(question)) for question in wanted]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


@dataclass(frozen=True)
class _Run:
    """A run ready to start."""

    graph: PaletteGraph
    inputs: Any
    context: PaletteContext
    chosen: Settings | None

    def settings(self) -> AbstractContextManager[Any]:
        """Their settings in force, where they brought some."""
        return use_settings(self.chosen) if self.chosen is not None else nullcontext()


def _run(
    country: str,
    question: str,
    options: Sequence[str],
    map: str | CulturalMap | None,
    variant: str,
    settings: Settings | None,
    knobs: ContextArguments,
) -> _Run:
    """Everything checked that can be before a model is asked. Reads files: in a thread."""
    checked = Question.read(question, options)
    graph = _graph(variant, map or (settings or current_settings()).map)
    inputs = {"country": find_country(country).iso3, "query": checked.text, "options": list(checked.options)}
    return _Run(graph, inputs, PaletteContext(**knobs), settings)


@functools.lru_cache(maxsize=64)
def _graph(variant: str, map: str | CulturalMap) -> PaletteGraph:
    return build_variant(variant, map)
