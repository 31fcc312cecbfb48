"""Surveys as an Inspect task: the graph is the solver, the scorer compares distributions.

    inspect eval evaluation/inspect_task.py -T survey=PATH.csv -T countries=paper -T questions=20

PATH is as seen from where the command is given, or from the folder that holds `evaluation/`. No model is
named: the graph casts its own, as the settings say (PALETTE_* variables, palette.toml, or
`-T model=openai:NAME`). The headline is the paper's average: the mean over countries of each country's mean.
Standard errors are clustered by battery of questions, since one question asked in many countries, or in other
words, is not many questions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Metric, Score, Scorer, Target, grouped, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.errors import PaletteError
from cultural_palette.evaluation.methods import orders_shown, variant_graph
from cultural_palette.evaluation.metrics import ALIGNMENTS, alignments
from cultural_palette.evaluation.plan import ORDERS
from cultural_palette.evaluation.selection import Selection, resolve_countries
from cultural_palette.evaluation.surveys import SurveyItem, load_survey
from cultural_palette.graph.variants import build_variant
from cultural_palette.nodes.knobs import PaletteContext
from cultural_palette.settings import current_settings

READING = "palette"
STORED = (
    "answer", "distribution", "option_mass", "readout", "drafts", "regulated", "blend", "degraded", "usage",
)  # fmt: skip


@task
def surveys(
    survey: str,
    countries: str | list[str] = "paper",
    options: str = "all",
    max_options: int = 5,
    questions: int | None = None,
    seed: int = 0,
    draw: str = "stratified",
    orders: int = ORDERS,
    variant: str = "palette",
    model: str | None = None,
) -> Task:
    """The distribution of a graph's answer against that of a country's people, on a survey.

    `survey`: a file in any format that `palette evaluate surveys` reads, or a hub id. `questions`: so many
    for every country, drawn as `draw` says. `orders`: of the options that a decision is the mean over.
    `variant`: any name of `graph.variants`, single-draft:COMMUNITY too. Metrics: 100 * (1 - JS
    divergence or distance) in base e and 2; what could not be read is unscored and counted by Inspect.
    """
    named = countries if isinstance(countries, str) else ",".join(countries)  # Inspect splits at commas
    try:
        chosen = Selection(
            countries=resolve_countries(named, load_map(current_settings().map)),
            options=options,
            max_options=int(max_options),
            questions=questions,
            seed=seed,
            draw=draw,
        )
        data = load_survey(_located(survey), chosen)
        cultural_map = load_map(current_settings().map)
        graph = variant_graph(variant, cultural_map, data)
        solver = palette_graph(variant, model, seed, int(orders), _Built(graph))
    except PaletteError as error:  # what a person can mend, bare
        raise click.ClickException(str(error)) from None
    return Task(
        dataset=MemoryDataset([_sample(item) for item in data.items], name=data.name),
        solver=solver,
        scorer=distribution(),
        model="none",
        name=f"surveys-{variant}",
        metadata={"sha256": data.sha256, "selection": chosen.as_dict(), "counts": dict(data.counts)},
    )


def _located(survey: str) -> str:
    """A path as the person who gave it meant it: Inspect goes to this file's folder before it asks for it."""
    starts = (os.environ.get("PWD", ""), str(Path(__file__).resolve().parent.parent))
    paths = [Path(survey), *(Path(start) / survey for start in starts if start)]
    return next((str(path) for path in paths if path.exists()), survey)


def _sample(item: SurveyItem) -> Sample:
    question = item.question
    gold = list(item.gold.probabilities)
    return Sample(
        id=item.id,
        input=item.text_and_options[0],
        choices=list(item.text_and_options[1]),
        target=item.text_and_options[1][item.gold.mode_index],
        metadata={
            "country": item.country,
            "question": question.id,
            "battery": question.battery,
            "ordered": question.ordered,
            "gold": gold,
        },
    )


class _Built:
    """A compiled graph, in the words that Inspect's log has for it."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    def __repr__(self) -> str:
        return "built"


@solver
def palette_graph(
    variant: str = "palette",
    model: str | None = None,
    seed: int = 0,
    orders: int = ORDERS,
    built: _Built | None = None,
) -> Solver:
    """Run a variant of the graph; everything it returns stands in the sample's store. `built`: its graph,
    where it knows the survey (`values-retrieval` looks other answers up in it).
    """
    graph = built.graph if built else build_variant(variant, current_settings().map)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        question: Any = {
            "country": state.metadata["country"],
            "query": state.input_text,
            "options": [choice.value for choice in state.choices],
        }
        shown = orders_shown(orders, state.metadata["ordered"])
        try:
            result = await graph.ainvoke(
                question, context=PaletteContext(seed=seed, model=model, permutations=shown)
            )
        except PaletteError as error:
            state.store.set(READING, {"error": str(error)})
            return state
        state.store.set(READING, {name: result.get(name) for name in STORED})
        state.output = ModelOutput.from_content("palette", result.get("answer") or "")
        return state

    return solve


def _metrics() -> dict[str, list[Metric]]:
    by_country = grouped(mean(), "country", all="groups", all_label="mean_of_countries")
    return {name: [by_country, stderr(cluster="battery")] for name in ALIGNMENTS}


@scorer(metrics=_metrics())
def distribution() -> Scorer:
    """The four alignments between the graph's distribution and the survey's, 0..100."""

    async def score(state: TaskState, target: Target) -> Score:
        reading = state.store.get(READING) or {}
        shares = reading.get("distribution")
        if shares is None:
            why = reading.get("error") or " ".join(reading.get("degraded") or []) or "no distribution"
            return Score.unscored(explanation=why)
        predicted = Distribution(tuple(shares[choice.value] for choice in state.choices))
        gold = Distribution(tuple(state.metadata["gold"]))
        return Score(value=alignments(gold, predicted), answer=reading["answer"])

    return score
