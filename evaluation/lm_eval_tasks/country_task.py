"""What the YAML files of this folder call. The harness loads this file by its path.

The harness asks one model for the log-probability of each option's letter; the distribution over the letters
is held against the survey's. It runs models, not graphs: it serves for the plain methods ("vanilla",
"prompting") of any model the harness can load, beside `palette evaluate surveys`.
"""

from __future__ import annotations

from typing import Any

PERSONA = (
    "You know {country} well. Consider its culture and its history, and choose the one option that most "
    "people in {country} would choose. Reply with its letter only.\n\n"
)


def load(
    country: str, survey: str | None = None, options: str = "all", max_options: int = 5, **_: Any
) -> dict[str, Any]:
    """One country's questions of a survey, as the split "test".

    `survey`: a file in any format that `palette evaluate surveys` reads, or a hub id; give it with
    `--metadata '{"survey": "PATH.csv"}'`. `options`, `max_options`: as in `palette evaluate surveys`.
    """
    from datasets import Dataset

    from cultural_palette.countries import find_country
    from cultural_palette.errors import UsageError
    from cultural_palette.evaluation.selection import Selection
    from cultural_palette.evaluation.surveys import HUB, load_survey
    from cultural_palette.questions import Question

    chosen = Selection(countries=(country,), options=options, max_options=int(max_options))
    data = load_survey(survey or HUB, chosen)
    if not data.items:
        raise UsageError(f"{data.source} has no question for {country} in this selection.")
    rows = [
        {
            "id": item.id,
            "question": item.question.text,
            "lettered": asked.lettered(),
            "letters": list(asked.labels),
            "gold": list(item.gold.probabilities),
            "mode": item.gold.mode_index,
            "in_country": find_country(country).in_text,
        }
        for item in data.items
        for asked in [Question(item.question.text, item.question.options)]
    ]
    return {"test": Dataset.from_list(rows)}


def vanilla(doc: dict[str, Any]) -> str:
    """The bare question."""
    return f"Question: {doc['question']}\n{doc['lettered']}\nAnswer:"


def prompting(doc: dict[str, Any]) -> str:
    """The question after a request to think of the country's culture and history."""
    return PERSONA.format(country=doc["in_country"]) + vanilla(doc)


def score(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """The four alignments, 0..100, and agreement of modes, 0 or 1.

    `results`: (log-probability, whether it is the greedy reply) of each letter.
    """
    from cultural_palette.distributions import Distribution
    from cultural_palette.evaluation.metrics import alignments, modes_agree

    predicted, mass = Distribution.from_logprobs([logprob for logprob, _ in results])
    gold = Distribution(tuple(doc["gold"]))
    return {
        **alignments(gold, predicted),
        "modes_agree": float(modes_agree(gold, predicted)),
        "option_mass": mass,
    }
