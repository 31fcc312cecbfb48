"""What commands that can run on a cluster have in common: `--on`, and places on a storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cultural_palette.errors import UsageError


def on_option(command: Any) -> Any:
    """Add --on to a command."""
    help_text = (
        "Where: 'ray' (RAY_ADDRESS, or a cluster of this machine) or 'ray://HOST:10001'.  [default: here]"
    )
    return click.option("--on", "where", metavar="CLUSTER", help=help_text)(command)


def shard_option(what: str, default: int) -> Any:
    """Add --shard-size, in `what`, to a command."""
    return click.option(
        "--shard-size",
        type=click.IntRange(1),
        metavar="N",
        help=f"{what} in a shard, with --on.  [default: {default}]",
    )


class Place(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click
    """A folder here (a Path), or on a storage (its URL, a str)."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """The path or the URL."""
        return value if isinstance(value, Path) or "://" in value else Path(value)


def local_path(flag: str, place: Path | str) -> Path:
    """A place that one machine writes to; UsageError for a storage."""
    if isinstance(place, Path):
        return place
    raise UsageError(f"{flag} {place!r} is on a storage, which goes with --on; on one machine give a folder.")


def on_storage(place: Path | str) -> str:
    """A place as every node is told it: a path becomes absolute."""
    return str(place.absolute()) if isinstance(place, Path) else place


def check_where(where: str | None, **only_with: Any) -> None:
    """Refuse flags that need --on, and --on without what it needs, before anything is read."""
    if where is None:
        for flag, value in only_with.items():
            if value is not None:
                raise UsageError(f"--{flag.replace('_', '-')} goes with --on.")
        return
    from cultural_palette.cluster import require_ray

    require_ray()
