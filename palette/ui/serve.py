"""The LangGraph server on this machine with the page, started from an installed wheel as well as from a clone."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cultural_palette.errors import UsageError
from cultural_palette.ui.survey import Beside

if TYPE_CHECKING:
    from cultural_palette.evaluation.surveys import Survey

HOST = "127.0.0.1"
FIRST_PORT = 2024
RUNS_AT_ONCE = 10
START_S = 180.0
OFFLINE = {
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
}


def serve_page(
    port: int | None,
    environment: Mapping[str, str],
    ready: Callable[[str], None],
    survey: Survey | None = None,
) -> None:
    """Serve until interrupted. `port`: None for 2024, or any free one where that is taken. `environment`:
    variables for the server, over this process' own. `ready` gets the page's address when the server answers.
    `survey`: shown beside the answers to its questions.
    """
    if find_spec("langgraph_api") is None:
        raise UsageError("The page needs the LangGraph server: pip install 'cultural-palette[studio]'.")
    # The server and our settings read the environment once, when first imported or first asked for.
    os.environ.update(OFFLINE | dict(environment))
    os.environ.setdefault("LOG_LEVEL", "WARNING")
    from langgraph_api.cli import run_server

    from cultural_palette.graph.on_maps import GRAPH_IDS
    from cultural_palette.ui.app import loopback_app

    loopback_app.state.beside = Beside(survey)  # the server runs in this process, and uses this app

    logging.getLogger("langgraph_api.cli").setLevel(logging.WARNING)  # its greeting leads to another page
    port = free_port(port)
    threading.Thread(target=_announce, args=(port, ready), daemon=True).start()
    run_server(
        host=HOST,
        port=port,
        graphs={name: f"cultural_palette.graph.on_maps:{name}" for name in GRAPH_IDS},
        n_jobs_per_worker=RUNS_AT_ONCE,
        http={"app": "cultural_palette.ui.app:loopback_app", "cors": {"allow_origins": []}},
    )


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
