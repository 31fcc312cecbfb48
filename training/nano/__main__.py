"""`python -m training.nano STAGE --out FOLDER`: make the nano palette, or a part of it, again."""

from __future__ import annotations

from pathlib import Path

import click

from cultural_palette.embedded.manifest import BUILT_IN


@click.group()
def main() -> None:
    """Make the nano palette: dialogues, base, agents, merges, router, ship, report; or `all`."""


out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/nano"), show_default=True
)


@main.command()
@out_option
@click.option("--share", default=1.0, show_default=True, help="Of the full recipe's size, for a quick try.")
def dialogues(out: Path, share: float) -> None:
    """Write the training text from the atlas."""
    from cultural_palette.training.nano import build

    build.dialogues(out, share)


@main.command()
@out_option
def base(out: Path) -> None:
    """Train tokenizer and base; resumes a stopped run."""
    from cultural_palette.training.nano import build

    build.base(out)


@main.command()
@out_option
@click.option("--only", multiple=True, metavar="AGENT", help="A community, or joint; repeat.")
def agents(out: Path, only: tuple[str, ...]) -> None:
    """Align the five adapters and the joint one by ORPO; finished ones are kept."""
    from cultural_palette.training.nano import build

    build.agents(out, only)


@main.command()
@out_option
def merges(out: Path) -> None:
    """Merge the adapters: MoErges, and TIES and Model Stock to compare."""
    from cultural_palette.training.nano import build

    build.merges(out)


@main.command()
@out_option
def router(out: Path) -> None:
    """Fit router rows, beside the paper's."""
    from cultural_palette.training.nano import build

    build.router(out)


@main.command()
@out_option
@click.option("--to", type=click.Path(path_type=Path), default=BUILT_IN["nano"], help="Default: the package.")
def ship(out: Path, to: Path) -> None:
    """Copy the palette into the package."""
    from cultural_palette.training.nano import build

    build.ship(out, to)


@main.command()
@out_option
@click.option("--to", type=click.Path(path_type=Path), default=Path("docs/nano.md"), show_default=True)
@click.option("--count", default=60, show_default=True, help="Held-out dialogues of each kind.")
def report(out: Path, to: Path, count: int) -> None:
    """Measure the shipped palette, and the merges under OUT where they are, and write the page."""
    from cultural_palette.training.nano.report import write_report

    write_report(to, count, out)


@main.command(name="all")
@out_option
@click.pass_context
def everything(context: click.Context, out: Path) -> None:
    """Every stage in turn."""
    for stage in (dialogues, base, agents, merges, router, ship):
        context.invoke(stage, out=out)
    context.invoke(report, out=out)


if __name__ == "__main__":
    main()
