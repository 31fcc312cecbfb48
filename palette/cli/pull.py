"""`palette pull`, `palette examples`: make a palette ready once, and what it can be asked."""

from __future__ import annotations

import time

import click

from cultural_palette.cli.lookup import json_option
from cultural_palette.cli.text import echo, echo_json


@click.command()
@click.argument("palette", default="small")
def pull(palette: str) -> None:
    """Make a palette ready on this machine, once, and say how big it is.

    PALETTE: small, nano, or a folder with a manifest.json. What is prepared lies in the cache folder
    (PALETTE_CACHE_DIR); remove it there to begin again.
    """
    from cultural_palette.embedded.manifest import read_manifest
    from cultural_palette.embedded.prepare import is_ready, places, prepare
    from cultural_palette.serving.manifest import check_folders, read_palette

    manifest = read_manifest(palette)
    took = ""
    if not is_ready(manifest):
        started = time.perf_counter()
        prepare(manifest, lambda line: echo(f"{line} ..", err=True))
        took = f" after {time.perf_counter() - started:.0f} s"
    check_folders(read_palette(palette))
    echo(f"{palette} is ready{took}:")
    listed = list(places(manifest))
    for place in listed:
        echo(f"  {place.what:<18} {place.size / 1e6:8.1f} MB  {place.path}")
    echo(f"  {'in all':<18} {sum(place.size for place in listed) / 1e6:8.1f} MB")
    echo(f'Ask it: palette ask --model embedded:{palette} --country IND "What happens at a wedding?"')


@click.command()
@click.argument("palette", required=False)
@json_option
def examples(palette: str | None, as_json: bool) -> None:
    """List questions that a palette answers well, as commands to copy.

    PALETTE: small or nano; both without it.
    """
    import shlex

    from cultural_palette.embedded.examples import examples_of, with_examples

    listed = {name: examples_of(name) for name in ([palette] if palette else with_examples())}
    if as_json:
        echo_json(listed)
        return
    for name, rows in listed.items():
        for row in rows:
            options = "".join(f" --option {shlex.quote(option)}" for option in row.get("options", ()))
            question = shlex.quote(row["question"])
            echo(f"palette ask --model embedded:{name} --country {row['country']}{options} {question}")
