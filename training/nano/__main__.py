"""`python -m training.nano STAGE --out FOLDER`: make the nano palette, or a part of it, again."""

from __future__ import annotations

from pathlib import Path

import click

from training.nano import build


@click.group()
def main() -> None:
    """Make the nano palette: dialogues, base, adapters, moerges, ship, report; or `all`."""


out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/nano"), show_default=True
)


@main.command()
@out_option
@click.option("--count", default=build.DIALOGUES, show_default=True, help="Dialogues for the base.")
@click.option("--groups", default=build.GROUPS, show_default=True, help="Preference groups a community.")
def dialogues(out: Path, count: int, groups: int) -> None:
    """Write the training text from the atlas."""
    build.dialogues(out, count, groups)


@main.command()
@out_option
def base(out: Path) -> None:
    """Train tokenizer and base; resumes a stopped run."""
    build.base(out)


@main.command()
@out_option
@click.option("--only", help="One community.")
def adapters(out: Path, only: str | None) -> None:
    """Align the five adapters by ORPO; finished ones are kept."""
    build.adapters(out, only)


@main.command()
@out_option
def moerges(out: Path) -> None:
    """Merge the adapters into the MoErges by MergeKit."""
    build.moerges(out)


@main.command()
@out_option
@click.option(
    "--to", type=click.Path(path_type=Path), default=build.BUILT_IN["nano"], help="Default: the package."
)
def ship(out: Path, to: Path) -> None:
    """Copy the palette into the package."""
    build.ship(out, to)


@main.command()
@click.option("--to", type=click.Path(path_type=Path), default=Path("docs/nano.md"), show_default=True)
@click.option("--count", default=400, show_default=True, help="Held-out dialogues of each kind.")
def report(to: Path, count: int) -> None:
    """Measure the shipped palette on held-out dialogues and write the page."""
    from training.nano.report import write_report

    write_report(to, count)


@main.command(name="all")
@out_option
@click.pass_context
def everything(context: click.Context, out: Path) -> None:
    """Every stage in turn."""
    for stage in (dialogues, base, adapters, moerges, ship):
        context.invoke(stage, out=out)
    context.invoke(report)


if __name__ == "__main__":
    main()
