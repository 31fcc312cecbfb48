"""`palette report`: tables, figures and a page from a run folder. Reads files only, asks no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from cultural_palette.cli.lookup import map_option
from cultural_palette.cli.text import echo
from cultural_palette.errors import UsageError

if TYPE_CHECKING:
    from cultural_palette.cultural_map import CulturalMap

PEERS = ("modular-pluralism", "culturespa")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report.  [default: RUN/report]")
@click.option(
    "--metric", default="jsdist_e", show_default=True, metavar="METRIC",
    help="jsdist_e (comparable to the paper), jsd_e (eq. 5 as printed), jsd_2 or jsdist_2.",
)  # fmt: skip
@click.option(
    "--semantic",
    type=click.Path(path_type=Path),
    help="A run of `palette evaluate semantic` to show beside it.",
)
@click.option(
    "--paper", type=click.Choice(("auto", "always", "never")), default="auto", show_default=True,
    help="The paper's numbers: where the base model is the same, always (apart, if it is another), or never.",
)  # fmt: skip
@click.option("--base-model", metavar="NAME", help="What the models were made from, if their names hide it.")
@click.option(
    "--peer", "peers", type=click.Choice(PEERS), multiple=True,
    help="Add the score of that paper, to compare with its figures; repeat.",
)  # fmt: skip
@click.option(
    "--certificate", "conditions", type=click.Path(path_type=Path), multiple=True, metavar="RUN2",
    help="A run of the same items with another order, wording, language or seed; repeat.",
)  # fmt: skip
@click.option("--ours", metavar="METHOD", help="The method that counts.  [default: cultural-palette]")
@click.option(
    "--baseline", "baselines", multiple=True, metavar="METHOD", help="Instead of the paper's; repeat."
)
@map_option
@click.option("--partial", is_flag=True, help="Report an unfinished run; everything is marked PARTIAL.")
@click.option(
    "--cases", type=click.IntRange(0, 50), default=1, show_default=True, help="Cases by lot, besides."
)
@click.option(
    "--permutations", type=click.IntRange(100), default=10000, show_default=True, metavar="N",
    help="Sign patterns drawn for each interval and test.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="For intervals, tests and the lot.")
def report(
    run: Path, out: Path | None, metric: str, semantic: Path | None,
    paper: Literal["auto", "always", "never"], base_model: str | None,
    peers: tuple[Literal["modular-pluralism", "culturespa"], ...], conditions: tuple[Path, ...],
    ours: str | None,
    baselines: tuple[str, ...], map_name: str | None, partial: bool, cases: int, permutations: int, seed: int,
) -> None:  # fmt: skip
    """Write tables, figures and a page from the run folder RUN.

    RUN comes from `palette evaluate surveys` or `palette evaluate semantic`. Nothing is asked of any model.

    \b
    palette report runs/y
    palette report runs/y --metric jsd_e --semantic runs/z --out reports/y
    """
    if not run.is_dir():
        raise UsageError(f"No folder {run}: give the --out of a `palette evaluate` run.")

    from cultural_palette.evaluation.report.analysis import Settings
    from cultural_palette.evaluation.report.write import Request, write_report

    settings = Settings(permutations=permutations, seed=seed)
    request = Request(
        run=run, out=out or run / "report", metric=metric, semantic=semantic,
        paper=paper,
        base_model=base_model, ours=ours, baselines=baselines, partial=partial, drawn=cases,
        peers=tuple(dict.fromkeys(peers)), conditions=conditions,
        settings=settings,
    )  # fmt: skip
    written = write_report(request, _map(run, map_name))
    for line in written.verdict:
        echo(line)
    echo(f"{written.folder / 'report.html'} and {len(written.files) - 1} files more")


def _map(run: Path, map_name: str | None) -> CulturalMap:
    """The map that was asked for, else the run's own, else the settings'."""
    from cultural_palette.cultural_map import builtin_maps, load_map
    from cultural_palette.evaluation.report.write import recorded
    from cultural_palette.settings import get_settings

    own = recorded(run, "map")
    if map_name is None and own is not None:
        if own not in builtin_maps():
            raise UsageError(f"{run} was made with the map {own!r}: give its file, as --map {own}.yaml.")
        return load_map(own)
    return load_map(get_settings(map=map_name).map)
