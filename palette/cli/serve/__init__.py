"""`palette serve`: a palette's two vLLM servers, started, watched and stopped together."""

from __future__ import annotations

import click

from cultural_palette.cli.serve.up import up
from cultural_palette.cli.serve.watch import status, stop


@click.group()
def serve() -> None:
    """Serve a palette's models with vLLM.

    One server has the base model and an adapter for each community, the other the MoErges.
    """


for command in (up, status, stop):
    serve.add_command(command)
