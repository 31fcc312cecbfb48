"""`palette evaluate contamination`: has a base model read the survey?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cultural_palette.cli.evaluate.floors import load_selected, survey_options
from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json

if TYPE_CHECKING:
    from cultural_palette.evaluation.contamination import Signs
    from cultural_palette.evaluation.statistics import Interval


@click.command()
@survey_options
@click.option(
    "--model", required=True, metavar="NAME", help="A causal language model: a folder, or its hub name."
)
@click.option("--control", metavar="PATH", help="A survey that was never published, to compare with.")
@click.option(
    "--paraphrases", type=click.Path(path_type=Path), metavar="FILE",
    help='Your own, instead of the rules: JSONL of {"id", "paraphrases"}.',
)  # fmt: skip
@map_option
@json_option
def contamination(
    source: str, countries: str, max_options: int | None, options_kept: str, questions: int | None,
    draw: str, sample_seed: int, language: str, items_file: Path | None,
    model: str, control: str | None, paraphrases: Path | None, map_name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare how likely a base model finds a survey's printed questions with other words of the same
    meaning.

    A gain for the printed order of unordered options, or for the printed wording beyond a control's, says
    that the model may have read the survey. Needs the train extra (torch, transformers).

    \b palette evaluate contamination --survey global_opinions.csv --questions 20 --model gpt2 --control
    mine.jsonl
    """
    survey = load_selected(
        source, countries, max_options, options_kept, questions, draw, sample_seed, language, items_file,
        map_name,
    )  # fmt: skip
    from cultural_palette.evaluation.contamination import model_likelihood, signs_of
    from cultural_palette.evaluation.surveys import load_survey

    own = _of_file(paraphrases) if paraphrases else None
    likelihood = model_likelihood(model)
    results = {survey.name: signs_of(survey.questions, likelihood, own)}
    if control:
        other = load_survey(control)
        results[f"{other.name} (control)"] = signs_of(other.questions, likelihood)
    if as_json:
        from dataclasses import asdict

        echo_json({name: asdict(signs) for name, signs in results.items()})
        return
    echo("Log-probability per token that the printed form gains; 95 % over batteries\n")
    for name, signs in results.items():
        _print(name, signs)


def _print(name: str, signs: Signs) -> None:
    echo(f"{name}: wording {_cell(signs.wording)}, {signs.without_paraphrase} questions without a paraphrase")
    echo(f"{name}: order of options {_cell(signs.order)}, {signs.without_order} questions without another")


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "none"
    ends = "no interval" if interval.low is None else f"{interval.low:+.4f} to {interval.high:+.4f}"
    return f"{interval.mean:+.4f} ({ends}; {interval.n} questions, {interval.clusters} batteries)"


def _of_file(file: Path) -> dict[str, Any]:
    from cultural_palette.errors import UsageError
    from cultural_palette.jsonl import read_rows

    def fault(place: str, why: str) -> None:
        raise UsageError(f"{place} {why}.")

    by_id: dict[str, Any] = {}
    for row, place in read_rows(file, fault):
        texts = row.get("paraphrases")
        if (
            not isinstance(row.get("id"), str)
            or not isinstance(texts, list)
            or not all(isinstance(text, str) for text in texts)
        ):
            raise UsageError(f'{place}: expected {{"id": "...", "paraphrases": ["...", ...]}}.')
        by_id[row["id"]] = texts
    return by_id
