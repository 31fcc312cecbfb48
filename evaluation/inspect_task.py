"""Surveys as an Inspect task: the graph is the solver, the scorer compares distributions.

    inspect eval evaluation/inspect_task.py -T survey=PATH.csv -T countries=paper -T questions=20

No model is named: the graph casts its own, as the settings say (PALETTE_* variables, palette.toml, or
`-T model=openai:NAME`). The headline is the paper's average: the mean over countries of each country's mean.
Standard errors are clustered by battery of questions, since one question asked in many countries, or in other
words, is not many questions.
"""

from __future__ import annotations

from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Metric, Score, Scorer, Target, grouped, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.errors import PaletteError, UsageError
from cultural_palette.evaluation.metrics import ALIGNMENTS, alignments
from cultural_palette.evaluation.selection import Selection, resolve_countries
from cultural_palette.evaluation.surveys import SurveyItem, load_survey
from cultural_palette.graph.variants import VARIANTS, build_variant
from cultural_palette.nodes.knobs import PaletteContext
from cultural_palette.settings import current_settings

READING = "palette"


@task
def surveys(
    survey: str,
    countries: str | list[str] = "paper",
    options: str = "all",
    max_options: int = 5,
    questions: int | None = None,
    seed: int = 0,
    variant: str = "palette",
    model: str | None = None,
) -> Task:
    """The distribution of a graph's answer against that of a country's people, on a survey.

    `survey`: a file in any format that `palette evaluate surveys` reads, or a hub id. `questions`: so many
    of them, the same for every country. `variant`: a name of `graph.variants`. Metrics: 100 * (1 - JS
    divergence or distance) in base e and 2; what could not be read is unscored and counted by Inspect.
    """
    named = countries if isinstance(countries, str) else ",".join(countries)  # Inspect splits at commas
    chosen = Selection(
        countries=resolve_countries(named, load_map(current_settings().map)),
        options=options,
        max_options=int(max_options),
        questions=questions,
        seed=seed,
    )
    data = load_survey(survey, chosen)
    return Task(
        dataset=MemoryDataset([_sample(item) for item in data.items], name=data.name),
        solver=palette_graph(variant, model, seed),
        scorer=distribution(),
        model="none",
        name=f"surveys-{variant}",
        metadata={"sha256": data.sha256, "counts": dict(data.counts)},
    )


def _sample(item: SurveyItem) -> Sample:
    question = item.question
    gold = list(item.gold.probabilities)
    return Sample(
        id=item.id,
        input=question.text,
        choices=list(question.options),
        target=question.options[item.gold.mode_index],
        metadata={
            "country": item.country,
            "question": question.id,
            "battery": question.battery,
            "gold": gold,
        },
    )


@solver
def palette_graph(variant: str = "palette", model: str | None = None, seed: int = 0) -> Solver:
    """Run a variant of the graph; everything it returns stands in the sample's store."""
    if variant not in VARIANTS:
        raise UsageError(f"Unknown variant {variant!r}. There are {', '.join(VARIANTS)}.")
    graph = build_variant(variant, current_settings().map)
    context = PaletteContext(seed=seed, model=model)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        asked: Any = {
            "country": state.metadata["country"],
            "query": state.input_text,
            "options": [choice.value for choice in state.choices],
        }
        try:
            result = await graph.ainvoke(asked, context=context)
        except PaletteError as error:
            state.store.set(READING, {"error": str(error)})
            return state
        kept = ("answer", "distribution", "option_mass", "drafts", "regulated", "blend", "degraded", "usage")
        state.store.set(READING, {name: result.get(name) for name in kept})
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
