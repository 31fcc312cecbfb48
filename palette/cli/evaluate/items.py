"""`palette evaluate items`: a pinned list of a survey's items, for others to evaluate on the same."""

from __future__ import annotations

from pathlib import Path

import click

from cultural_palette.cli.evaluate.floors import load_selected, survey_options
from cultural_palette.cli.lookup import map_option
from cultural_palette.cli.text import echo


@click.command()
@survey_options
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Instead of standard output.")
@map_option
def items(
    source: str, countries: str, max_options: int | None, options_kept: str, questions: int | None,
    draw: str, sample_seed: int, language: str, items_file: Path | None,
    out: Path | None, map_name: str | None,
) -> None:  # fmt: skip
    """Write the ids of a selection's items, hashes of the survey's own text, to evaluate on later.

    \b
    palette evaluate items --survey global_opinions.csv --questions 20 --out items.txt
    palette evaluate surveys --survey global_opinions.csv --items items.txt --out runs/x
    """
    survey = load_selected(
        source, countries, max_options, options_kept, questions, draw, sample_seed, language, items_file,
        map_name,
    )  # fmt: skip
    from cultural_palette.artifacts import write_whole
    from cultural_palette.evaluation.pinned import items_text

    text = items_text(survey)
    if out is None:
        echo(text, nl=False)
    else:
        write_whole(out, text)
        echo(f"{len(survey.items):,} items: {out}")
