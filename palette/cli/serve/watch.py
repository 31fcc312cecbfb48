"""`palette serve status` and `palette serve stop`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cultural_palette.cli.lookup import json_option
from cultural_palette.cli.serve.folder import folder_option, folders, open_fleet
from cultural_palette.cli.text import echo, echo_json
from cultural_palette.errors import UsageError

if TYPE_CHECKING:
    from cultural_palette.serving.fleet import Health


@click.command()
@click.argument("palette", required=False)
@folder_option
@json_option
def status(palette: str | None, out: Path | None, as_json: bool) -> None:
    """Show the servers: up, starting, silent (does not answer any more) or dead.

    Without PALETTE: of all palettes under runs/serve. Exit code 1 unless all are up.
    """
    import sys

    from cultural_palette.settings import get_settings

    settings = get_settings()
    rows = {folder: open_fleet(folder, settings).status() for folder in folders(palette, out)}
    healths_shown = [health for healths in rows.values() for health in healths]
    if as_json:
        from dataclasses import asdict

        listed = [
            asdict(health) | {"folder": str(folder)} for folder, healths in rows.items() for health in healths
        ]
        echo_json({"servers": listed})
    else:
        for folder, healths in rows.items():
            if healths:
                echo(f"{folder}")
            for health in healths:
                _show(health)
        if not healths_shown:
            echo("No server was started. 'palette serve up' starts them.")
    sys.exit(0 if healths_shown and all(health.state == "up" for health in healths_shown) else 1)


@click.command()
@click.argument("palette", required=False)
@folder_option
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Before they are killed.",
)
def stop(palette: str | None, out: Path | None, grace: float) -> None:
    """Stop the servers with all their processes.

    Without PALETTE: those under runs/serve, if they are of one palette.
    """
    from cultural_palette.settings import get_settings

    settings = get_settings()
    fleets = [open_fleet(folder, settings) for folder in folders(palette, out)]
    started = [fleet for fleet in fleets if fleet.records()]
    if not palette and not out and len(started) > 1:
        names = ", ".join(fleet.folder.name for fleet in started)
        raise UsageError(f"Several palettes are served: {names}. Say which.")
    stopped = [name for fleet in started for name in fleet.stop(grace)]
    echo(f"Stopped {' and '.join(stopped)}." if stopped else "No server was started.", err=not stopped)


def _show(health: Health) -> None:
    since = health.uptime_s
    age = "" if since is None else f"{since:.0f} s" if since < 120 else f"{since / 60:.0f} min"
    where = f"process {health.pid}  {health.url}  {', '.join(health.models)}"
    echo(f"  {health.name:<8} {health.state:<9}{age:<8} {where}")
    if health.state != "up":
        echo(f"  {'':<8} {health.detail + '; ' if health.detail else ''}see {health.log}")
