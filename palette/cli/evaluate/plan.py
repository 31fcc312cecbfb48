"""`palette evaluate plan`: how many items a difference needs, before anything is run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cultural_palette.cli.evaluate.floors import load_selected, survey_options
from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json
from cultural_palette.errors import UsageError

if TYPE_CHECKING:
    from cultural_palette.evaluation.power import Assumptions, PowerPlan

SD, ICC = 6.0, 0.5


@click.command()
@survey_options
@click.option(
    "--difference", type=click.FloatRange(0, min_open=True), required=True, metavar="POINTS",
    help="The difference between two methods that matters to you.",
)  # fmt: skip
@click.option(
    "--comparisons", type=click.IntRange(1), default=13, show_default=True, metavar="N",
    help="Methods tested together.",
)  # fmt: skip
@click.option(
    "--sd", type=click.FloatRange(0, min_open=True), metavar="POINTS",
    help=f"Standard deviation of one item's difference.  [default: {SD:g}]",
)  # fmt: skip
@click.option(
    "--icc", type=click.FloatRange(0, 1), metavar="SHARE",
    help=f"Share of its variance common to a battery.  [default: {ICC:g}]",
)  # fmt: skip
@click.option(
    "--pilot", type=click.Path(path_type=Path), metavar="RUN",
    help="Take both from the folder of an earlier run.",
)  # fmt: skip
@click.option("--methods", metavar="A,B", help="The pilot's two methods.")
@map_option
@json_option
def plan(
    source: str, countries: str, max_options: int | None, options_kept: str, questions: int | None,
    draw: str, sample_seed: int, language: str, items_file: Path | None,
    difference: float, comparisons: int, sd: float | None, icc: float | None,
    pilot: Path | None, methods: str | None, map_name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Say how many questions a country a difference needs, and what fewer can tell.

    No model is asked. Items of one battery count as one where they vary together; with few batteries no
    difference can be shown, however large, and 'none' says so.

    \b
    palette evaluate plan --survey global_opinions.csv --max-options 5 --difference 1.5
    palette evaluate plan --survey global_opinions.csv --difference 1.5 --pilot runs/y --methods vanilla,moe
    """
    from cultural_palette.evaluation.power import Assumptions, plan_power
    from cultural_palette.evaluation.surveys import nothing_left

    if pilot is not None:
        if sd is not None or icc is not None:
            raise UsageError("--pilot gives the standard deviation and the share: leave --sd and --icc out.")
        assumptions = _of_pilot(pilot, methods, map_name)
    elif methods is not None:
        raise UsageError("--methods names two methods of a --pilot run: give that folder too.")
    else:
        assumptions = Assumptions(SD if sd is None else sd, ICC if icc is None else icc)
    survey = load_selected(
        source,
        countries,
        max_options,
        options_kept,
        questions,
        draw,
        sample_seed,
        language,
        items_file,
        map_name,
    )
    if not survey.whole:
        raise UsageError(nothing_left(survey))
    made = plan_power(survey, difference, assumptions, comparisons=comparisons)
    if as_json:
        echo_json(asdict(made))
    else:
        _print(made)


def _of_pilot(run: Path, methods: str | None, map_name: str | None) -> Assumptions:
    from cultural_palette.cultural_map import load_map
    from cultural_palette.evaluation.power import assumptions_of
    from cultural_palette.evaluation.report.analysis import item_means
    from cultural_palette.evaluation.report.load import load_evaluation
    from cultural_palette.settings import get_settings

    evaluation = load_evaluation(run, load_map(get_settings(map=map_name).map))
    names = [name.strip() for name in (methods or "").split(",") if name.strip()]
    if len(names) != 2 or not set(names) <= set(evaluation.methods):
        raise UsageError(
            f"--methods: name two of the pilot's, with a comma: {', '.join(evaluation.methods)}."
        )
    first, second = (item_means(evaluation, name, "jsdist_e") for name in names)
    try:
        return assumptions_of(first - second, [item.battery for item in evaluation.items])
    except ValueError as error:
        raise UsageError(f"{run} can not serve as a pilot: {error}.") from None


def _print(made: PowerPlan) -> None:
    from cultural_palette.evaluation.power import described

    heads = ("questions", "items", "batteries", "effective", "smallest p", "detectable")
    echo("".join(f"{head:>12}" for head in heads))
    for row in made.rows:
        detectable = "none" if row.detectable is None else f"{row.detectable:.2f}"
        echo(
            f"{row.questions:12,}{row.items:12,}{row.batteries:12,}{row.effective:12.1f}"
            f"{row.smallest_p:12.4f}{detectable:>12}"
        )
    echo()
    for line in described(made):
        echo(line)
