"""`palette evaluate elicitation`: eight ways to read a distribution off one model, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cultural_palette.cli.evaluate.floors import load_selected, survey_options
from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json
from cultural_palette.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("labels", "prefilled", "text-sum", "text-mean", "text-pmi", "verbalised", "sampling", "embedding")
PROMPTS = ("baselines/prompting_option", "survey/shares")


@click.command()
@survey_options
@click.option(
    "--model", default="embedded:nano/base", show_default=True, metavar="REF", help="One part of a palette."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; a run in it goes on.")
@click.option(
    "--readouts", default=",".join(NAMES), metavar="LIST", help="Some of them, by commas.  [default: all]"
)
@click.option(
    "--prompt", type=click.Choice(PROMPTS), default=PROMPTS[0], show_default=True, help="How it is asked."
)
@click.option(
    "--orders", type=click.IntRange(1), default=2, show_default=True, help="Of the options, averaged."
)
@click.option(
    "--calibrate",
    type=click.FloatRange(0, 0.9),
    default=0.5,
    show_default=True,
    help="Share of the questions, by battery, to fit temperature and place prior on; 0 for none.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of split and sampling.")
@map_option
@json_option
def elicitation(
    source: str, countries: str, max_options: int | None, options_kept: str, questions: int | None, draw: str,
    sample_seed: int, language: str, items_file: Path | None,
    model: str, out: Path, readouts: str, prompt: str, orders: int, calibrate: float,
    seed: int, map_name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare readouts of one embedded model: the same questions, orders and prompt; scores and costs.

    \b
    palette evaluate elicitation --survey global_opinions.csv --questions 4 --out runs/e
    """

    from cultural_palette.evaluation.elicit_survey import ElicitPlan, best_readout, elicit_survey
    from cultural_palette.evaluation.splits import split

    names = [name.strip() for name in readouts.split(",") if name.strip()]
    if unknown := [name for name in names if name not in NAMES]:
        raise UsageError(f"--readouts: no {unknown[0]!r}; there are {', '.join(NAMES)}.")
    palette, slash, part = model.removeprefix("embedded:").rpartition("/")
    if not slash or ":" in palette:
        raise UsageError(f"--model {model}: one part of an embedded palette, such as embedded:nano/base.")
    survey = load_selected(
        source, countries, max_options, options_kept, questions, draw, sample_seed, language, items_file,
        map_name,
    )  # fmt: skip
    fitting, test = split(survey, calibrate, seed) if calibrate else (None, survey)
    plan = ElicitPlan(
        palette, part, prompt, test.items, fitting.items if fitting else (), names, orders, seed
    )
    table = elicit_survey(plan, out, lambda line: echo(line, err=True))
    if as_json:
        echo_json(table, indent=1)
        return
    echo(f"{model}: 1 - JS distance (base e), 0 to 100, {len(test.items)} items, {orders} orders\n")
    echo(f"{'readout':<12}{'read':>9}{'as it is':>22}{'calibrated':>22}{'tokens':>9}{'seconds':>9}")
    for row in table:
        read = f"{row['read']}/{row['items']}"
        echo(
            f"{row['readout']:<12}{read:>9}{_words(row['plain']):>22}{_words(row['calibrated']):>22}"
            f"{row['tokens']:>9.0f}{row['seconds']:>9.2f}"
        )
    for key, label in (("plain", "as it is"), ("calibrated", "calibrated")):
        if best := best_readout(table, key):
            echo(f"best {label} among those that read every item: {best}")


def _words(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    ends = f" {score['low']:.1f}..{score['high']:.1f}" if score["low"] is not None else ""
    return f"{score['mean']:.2f}{ends}"
