"""The LangGraph server on this machine with the page, from an installed wheel as well as from a clone."""

from __future__ import annotations

import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace

from cultural_palette.errors import UsageError
from cultural_palette.graph.on_maps import graphs_on_maps
from cultural_palette.graph.server.start import plan, serve
from cultural_palette.settings import Settings

HOST = "127.0.0.1"
FIRST_PORT = 2024
START_S = 180.0
APP = "cultural_palette.ui.app:app"


def serve_page(
    settings: Settings, port: int | None, environment: Mapping[str, str], ready: Callable[[str], None]
) -> None:
    """Serve until interrupted. `port`: None for 2024, or any free one where that is taken. `environment`:
    what the server's settings need over this process' variables, to be `settings`. `ready` gets the page's
    address when the server answers.
    """
    port = free_port(port)
    planned = plan(settings, host=HOST, port=port, ablations=True, open_browser=False, origins=[])
    arguments = dict(planned.arguments)
    arguments["graphs"] = {**arguments["graphs"], **graphs_on_maps(settings.map)}
    arguments["http"] = {**arguments["http"], "app": APP}
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    threading.Thread(target=_announce, args=(port, ready), daemon=True).start()
    serve(replace(planned, environment={**planned.environment, **environment}, arguments=arguments))


def free_port(port: int | None) -> int:
    """`port` itself, when it is free; a free one for None. Raises UsageError for a port that is taken."""
    for candidate in (FIRST_PORT, 0) if port is None else (port,):
        with closing(socket.socket()) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((HOST, candidate))
            except OSError:
                continue
            return int(trial.getsockname()[1])
    raise UsageError(f"Port {port} of {HOST} is taken: name another with --port, or leave it out.")


def _announce(port: int, ready: Callable[[str], None]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/ok", timeout=5):
                ready(f"http://{HOST}:{port}/palette/")
                return
        except OSError:
            time.sleep(0.2)
