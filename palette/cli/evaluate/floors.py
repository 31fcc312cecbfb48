"""`palette evaluate floors`: what answers score on a survey that need no model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json

if TYPE_CHECKING:
    from cultural_palette.evaluation.floors import FloorTable
    from cultural_palette.evaluation.surveys import Survey

OPTIONS_KEPT = ("all", "substantive")
DRAWS = ("stratified", "each", "shared")
METRIC_ORDER = ("jsd_e", "jsd_2", "jsdist_2", "jsdist_e")
SHOWN_ASIDE = 5


def survey_options(command: Any) -> Any:
    """The flags that choose a survey and a part of it; shared by the commands that evaluate on one."""
    for option in reversed(
        (
            click.option(
                "--survey",
                "source",
                required=True,
                metavar="PATH",
                help="A file or folder in a format of docs/surveys.md; or 'global-opinions' (the hub's).",
            ),
            click.option(
                "--countries",
                default="paper",
                show_default=True,
                metavar="LIST",
                help="Countries or communities, by commas; 'paper': its 18; 'all'.",
            ),
            click.option(
                "--max-options", type=click.IntRange(2), metavar="N", help="Leave out questions with more."
            ),
            click.option(
                "--options",
                "options_kept",
                type=click.Choice(OPTIONS_KEPT),
                default="all",
                show_default=True,
                help="substantive: drop don't know, no answer, refused, missing; renormalise the rest.",
            ),
            click.option(
                "--questions", type=click.IntRange(1), metavar="N", help="Draw N questions for each country."
            ),
            click.option(
                "--draw",
                type=click.Choice(DRAWS),
                default="stratified",
                show_default=True,
                help="--questions: a fair sample of sources and numbers of options, shared by "
                "countries where it can be; each country's own; or shared as far as possible (no sample).",
            ),
            click.option(
                "--sample-seed", type=int, default=0, show_default=True, help="Seed of --questions."
            ),
            click.option(
                "--language",
                type=click.Choice(("survey", "local")),
                default="survey",
                show_default=True,
                help="local: asked in the population's own language, where the survey has it.",
            ),
            click.option(
                "--items",
                "items_file",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="These items alone: a pinned list, from 'palette evaluate items'.",
            ),
        )
    ):
        command = option(command)
    return command


def load_selected(
    source: str, countries: str, max_options: int | None, options_kept: str, questions: int | None,
    draw: str, sample_seed: int, language: str, items_file: Path | None, map_name: str | None,
) -> Survey:  # fmt: skip
    """The survey that `survey_options` name."""
    from cultural_palette.cultural_map import load_map
    from cultural_palette.evaluation.pinned import read_items
    from cultural_palette.evaluation.selection import Selection, resolve_countries
    from cultural_palette.evaluation.surveys import load_survey
    from cultural_palette.settings import get_settings

    cultural_map = load_map(get_settings(map=map_name).map)
    chosen = resolve_countries(countries, cultural_map)
    pinned = read_items(items_file) if items_file else ()
    selection = Selection(
        chosen, options_kept, max_options, questions, sample_seed, draw, language=language, items=pinned
    )
    return load_survey(source, selection)


@click.command()
@survey_options
@map_option
@json_option
def floors(
    source: str, countries: str, max_options: int | None, options_kept: str, questions: int | None,
    draw: str, sample_seed: int, language: str, items_file: Path | None, map_name: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Score what needs no model: floors to stand above, and references that know the survey's answers.

    Floors: uniform; the mean for that number of options. References: the mean of the file's other countries
    on the same question; the country's own most frequent option. Whether the country matters to a method is
    another question: 'palette report' answers it.

    \b
    palette evaluate floors --survey global_opinions.csv --countries paper --max-options 5
    """
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
    from cultural_palette.errors import UsageError
    from cultural_palette.evaluation.floors import score_floors
    from cultural_palette.evaluation.surveys import nothing_left

    if not survey.items:
        raise UsageError(nothing_left(survey))
    table = score_floors(survey)
    if as_json:
        echo_json(_as_json(survey, table))
    else:
        _print(survey, table)


def percent_words(survey: Survey) -> str:
    """What was done to rows that give percent; empty where there are none."""
    rows = survey.counts.get("country rows in percent, divided by 100", 0)
    return f"{rows:,} rows give percent; their shares were divided by 100." if rows else ""


def _as_json(survey: Survey, table: FloorTable) -> dict[str, Any]:
    return {
        "survey": survey.as_manifest(),
        "countries": {
            code: {"n": row.n, "floors": {name: dict(scores) for name, scores in row.floors.items()}}
            for code, row in table.countries.items()
        },
        "means": {name: dict(scores) for name, scores in table.means.items()},
        "missing": dict(table.missing),
        "whole": {name: dict(scores) for name, scores in table.whole.items()} if table.whole else None,
    }


def _cell(scores: Mapping[str, float] | None, key: str, width: int) -> str:
    return f"{'-':>{width}}" if scores is None else f"{scores[key]:{width}.2f}"


def _print(survey: Survey, table: FloorTable) -> None:
    """A table for people: the means of all four, then each country's, comparable to the paper."""
    from cultural_palette.evaluation.floors import TITLES
    from cultural_palette.evaluation.metrics import TITLES as METRICS

    selection = survey.selection
    echo(
        f"{survey.source}: {len(survey.items):,} items, {len(survey.questions):,} questions, "
        f"{len(table.countries)} countries; options {selection.options}"
        + (f", {selection.max_options} at most" if selection.max_options else "")
        + f"; selection {selection.digest}\n"
    )
    width = max(len(title) for floor, title in TITLES.items() if floor in table.per_item)
    echo(f"Mean over {len(table.countries)} countries, 0 to 100")
    echo(" " * width + "".join(f"{key:>10}" for key in METRIC_ORDER))
    there = {floor: title for floor, title in TITLES.items() if floor in table.per_item}
    for floor, title in there.items():
        echo(f"{title:<{width}}" + "".join(_cell(table.means.get(floor), key, 10) for key in METRIC_ORDER))
        if table.whole:
            whole = "".join(_cell(table.whole.get(floor), key, 10) for key in METRIC_ORDER)
            echo(f"{'  on the whole selection':<{width}}{whole}")
    for key in METRIC_ORDER:
        echo(f"  {key}: {METRICS[key]}")
    echo(f"\njsdist_e by country\n{'':5}{'n':>6}" + "".join(f"{floor:>16}" for floor in there))
    for code, country in table.countries.items():
        cells = "".join(_cell(country.floors.get(floor), "jsdist_e", 16) for floor in there)
        echo(f"{code:<5}{country.n:6}{cells}")
    for floor, count in table.missing.items():
        if count:
            echo(f"\n{TITLES[floor]}: {count} items have none, for nobody else answered such a question.")
    if flagged := survey.counts.get("items under half answered"):
        echo(f"\n{flagged} items had an opinion from less than half of those who were asked.")
    if percent := percent_words(survey):
        echo(percent, err=True)
    if survey.without_data:
        echo(f"No items: {', '.join(survey.without_data)}", err=True)
    for line in survey.set_aside[:SHOWN_ASIDE]:
        echo(f"Set aside: {line}", err=True)
    if len(survey.set_aside) > SHOWN_ASIDE:
        echo(f"... and {len(survey.set_aside) - SHOWN_ASIDE} more (--json lists all)", err=True)
