"""The folder in which a palette's servers keep their state and logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cultural_palette.serving.fleet import Fleet
    from cultural_palette.settings import Settings

HOME = Path("runs") / "serve"

folder_option = click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Holds state and logs.  [default: runs/serve/NAME]",
)  # fmt: skip


def open_fleet(folder: Path, settings: Settings, *, no_key: bool = False) -> Fleet:
    """The servers of a folder, asked with the settings' key."""
    from cultural_palette.serving.fleet import Fleet

    key = settings.api_key.get_secret_value() if settings.api_key and not no_key else None
    return Fleet(folder, key or None)


def folders(palette: str | None, out: Path | None) -> list[Path]:
    """The folders that a command looks at."""
    if out is not None:
        return [out]
    if palette is None:
        return sorted(path.parent for path in HOME.glob("*/state.json"))
    from cultural_palette.serving.manifest import read_palette

    named = HOME / palette  # the name alone is enough: the file it was read from may be gone
    return [named if named.is_dir() else HOME / read_palette(palette).name]
