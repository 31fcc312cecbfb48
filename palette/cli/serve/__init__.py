"""`palette serve`: a palette's vLLM servers, started, watched and stopped."""

from __future__ import annotations

import click

from cultural_palette.cli.serve.up import up
from cultural_palette.cli.serve.watch import status, stop


@click.group()
def serve() -> None:
    """Serve a palette's models with vLLM.

    One server plays base, communities and MoErges from one copy of the base. A mixture that is written out
    (--dense) takes two: the base with an adapter for each community, and the MoErges.
    """


for command in (up, status, stop):
    serve.add_command(command)
