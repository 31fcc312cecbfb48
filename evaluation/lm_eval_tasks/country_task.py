"""What the YAML files of this folder call. The harness loads this file by its path.

The harness asks one model for the log-probability of each option's letter; the distribution over the letters
is held against the survey's. It runs models, not graphs, and with short prompts of its own, without the chat
template: "bare_letter" and "country_letter" are neither the "vanilla" nor the "prompting" of
`palette evaluate surveys`, and their figures do not belong in one table with those.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from cultural_palette.countries import find_country
from cultural_palette.distributions import Distribution
from cultural_palette.errors import UsageError
from cultural_palette.evaluation.metrics import alignments, modes_agree
from cultural_palette.evaluation.selection import Selection
from cultural_palette.evaluation.surveys import HUB, load_survey
from cultural_palette.nodes.choose import LEAST_MASS
from cultural_palette.questions import Question

PERSONA = (
    "You know {country} well. Consider its culture and its history, and choose the one option that most "
    "people in {country} would choose. Reply with its letter only.\n\n"
)


def load(
    country: str, survey: str | None = None, options: str = "all", max_options: int = 5, **_: Any
) -> dict[str, Dataset]:
    """One country's questions of a survey, as the split "test".

    `survey`: a file in any format that `palette evaluate surveys` reads, or a hub id; give it with
    `--metadata '{"survey": "PATH.csv"}'`. `options`, `max_options`: as in `palette evaluate surveys`.
    """
    chosen = Selection(countries=(country,), options=options, max_options=int(max_options))
    data = load_survey(survey or HUB, chosen)
    if not data.items:
        raise UsageError(f"{data.source} has no question for {country} in this selection.")
    rows = []
    for item in data.items:
        question = Question(*item.text_and_options)
        rows.append(
            {
                "id": item.id,
                "question": question.text,
                "lettered": question.lettered(),
                "letters": list(question.labels),
                "gold": list(item.gold.probabilities),
                "mode": item.gold.mode_index,
                "in_country": find_country(country).in_text,
            }
        )
    return {"test": Dataset.from_list(rows)}


def bare_letter(doc: dict[str, Any]) -> str:
    """The bare question."""
    return f"Question: {doc['question']}\n{doc['lettered']}\nAnswer:"


def country_letter(doc: dict[str, Any]) -> str:
    """The question after a request to think of the country's culture and history."""
    return PERSONA.format(country=doc["in_country"]) + bare_letter(doc)


def score(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """The four alignments, 0..100, and agreement of modes, 0 or 1; whether the reply is readable, 0 or 1.

    A reply with under 1 % of its probability on the letters is unreadable, as in `palette evaluate surveys`:
    it has no score. `results`: (log-probability, whether it is the greedy reply) of each letter.
    """
    predicted, mass = Distribution.from_logprobs([logprob for logprob, _ in results])
    if mass < LEAST_MASS:
        return {"readable": 0.0, "option_mass": mass}
    gold = Distribution(tuple(doc["gold"]))
    return {
        **alignments(gold, predicted),
        "modes_agree": float(modes_agree(gold, predicted)),
        "readable": 1.0,
        "option_mass": mass,
    }
