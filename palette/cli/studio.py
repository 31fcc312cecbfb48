"""`palette studio` and `palette mcp`: the graphs as a server on this machine, and as an assistant's tools."""

from __future__ import annotations

import click

from cultural_palette.cli.text import echo


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Another one needs PALETTE_SERVER_KEY.")
@click.option("--port", default=2024, show_default=True, type=click.IntRange(1, 65_535))
@click.option("--ablations", is_flag=True, help="Serve the ablations and baselines as well.")
@click.option("--open/--no-open", "open_browser", default=False, help="Open LangGraph Studio in a browser.")
def studio(host: str, port: int, ablations: bool, open_browser: bool) -> None:
    """Serve the graphs on this machine, for LangGraph Studio, the SDKs and agents.

    Threads are kept in .palette/threads.sqlite, or where PALETTE_CHECKPOINTS says. Nothing leaves the machine
    but what you ask model servers of yours.
    """
    from cultural_palette.graph.server.start import STUDIO, plan, serve
    from cultural_palette.settings import get_settings

    planned = plan(
        get_settings(), host=host, port=port, ablations=ablations, open_browser=open_browser, origins=[STUDIO]
    )
    echo(f"Serving {', '.join(planned.arguments['graphs'])} at http://{host}:{port}", err=True)
    echo(f"Studio: {STUDIO}/studio/?baseUrl=http://{host}:{port}   Ctrl-C stops.", err=True)
    serve(planned)


@click.command()
def mcp() -> None:
    """Serve ask_country and list_countries to an assistant, by MCP over standard input and output.

    For desktop clients: command "palette", arguments ["mcp"].
    """
    from importlib.util import find_spec

    from cultural_palette.errors import UsageError

    if find_spec("mcp") is None:
        raise UsageError("The MCP package is not installed: pip install 'cultural-palette[mcp]'.")
    from cultural_palette.graph.server.tools import mcp_server

    mcp_server().run("stdio")
