"""`palette review`: a page for reviewers, and their decisions back."""

from __future__ import annotations

from pathlib import Path

import click

from cultural_palette.cli.lookup import json_option
from cultural_palette.cli.text import echo, echo_json

FORMAT_NAMES = ("html", "csv")


@click.group()
def review() -> None:
    """People review synthesised answers before they pass."""


@review.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The page, or the table.")
@click.option("--format", "form", type=click.Choice(FORMAT_NAMES), help="[default: by --out's ending, html]")
@click.option("--reviewer", help="Whose review it is; the page asks when this is left out.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="This many queries, drawn by the seed.")
@click.option("--seed", default=0, show_default=True, help="Of the sample.")
@click.option("--only-findings", is_flag=True, help="Queries in which validation found something.")
@click.option("--unfinished", is_flag=True, help="Take what a run that is not finished has.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def export(
    run: Path, out: Path, form: str | None, reviewer: str | None, sample: int | None, seed: int,
    only_findings: bool, unfinished: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Write the answers of RUN for review: one HTML page that needs no network, or CSV for a spreadsheet.

    Every reviewer of the same --sample and --seed gets the same queries.
    """
    from cultural_palette.errors import UsageError
    from cultural_palette.training.pentachromatic.synthesis_run import SynthesisRun
    from cultural_palette.training.review.export import Selection, export_csv, export_html

    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already. Take another --out, or say --overwrite.")
    source = SynthesisRun(run, unfinished=unfinished)
    index = source.index()
    chosen = Selection(sample, seed, only_findings).of(index)
    write = export_csv if (form or out.suffix.lstrip(".").lower()) == "csv" else export_html
    count = write(source, chosen, out, reviewer)
    echo(f"{out}: {len(chosen.queries):,} of {len(index.queries):,} queries, {count:,} answers to decide on")


@review.command("import")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; gets review.json.")
@click.option(
    "--resolve", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Decisions that stand alone, whatever the reviewers said.",
)  # fmt: skip
@click.option("--unfinished", is_flag=True, help="The run is not finished.")
@click.option("--overwrite", is_flag=True, help="Replace a review.json that is there.")
@json_option
def import_(
    run: Path, files: tuple[Path, ...], out: Path, resolve: Path | None, unfinished: bool, overwrite: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Reconcile reviewers' FILES (JSON or CSV) on RUN into one review, with their agreement.

    Any reject rejects; else an edit replaces the answer (edits that differ stay unresolved and do not pass);
    else it is approved.
    """

    from cultural_palette.errors import UsageError
    from cultural_palette.training.pentachromatic.card import agreement_line
    from cultural_palette.training.pentachromatic.synthesis_run import SynthesisRun
    from cultural_palette.training.review.decisions import read_decisions
    from cultural_palette.training.review.reconcile import REVIEW, reconcile

    if (out / REVIEW).exists() and not overwrite:
        raise UsageError(f"{out / REVIEW} is there already. Take another --out, or say --overwrite.")
    source = SynthesisRun(run, unfinished=unfinished)
    read = [read_decisions(path) for path in files]
    review = reconcile(read, source.index(), source.name, read_decisions(resolve) if resolve else None)
    path = review.write(out)
    summary = review.summary()
    if as_json:
        echo_json(summary)
        return
    for file in read:
        blank = f", {file.undecided:,} left blank" if file.undecided else ""
        echo(f"{file.path}: {file.reviewer}, {len(file.decisions):,} decisions{blank}")
    counts = ", ".join(f"{n:,} {name}" for name, n in summary["counts"].items() if n)
    echo(f"{path}: {counts}")
    echo(f"  agreement: {agreement_line(summary['agreement'])}")
    if review.unhashed:
        echo(f"  {review.unhashed:,} decisions do not say which text they are about", err=True)
