"""`palette studio`: the LangGraph server on this machine, from a clone or from an installed wheel, with no
call that leaves the machine.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cultural_palette.errors import UsageError
from cultural_palette.graph.server.guard import is_loopback
from cultural_palette.settings import Settings

EXPORTS = "cultural_palette.graph.export"
SERVED = {
    "palette": "What people in a country would answer: five community models draft, a merged model distils "
    "and decides. Takes `country`, `query` and, to choose from, `options`.",
    "chat": "The same as a chat: write a question and name the country in it; options may stand in the text "
    "as A) ... B) ...",
    "synthesis": "One answer of each cultural community to a query, reviewed and rewritten until it passes: "
    "rows of the Pentachromatic dataset.",
}
"""What a person calls, as langgraph.json describes it; a test holds the two together."""
STUDIO = "https://smith.langchain.com"
THREADS = Path(".palette") / "threads.sqlite"
RUNS_AT_ONCE = 10
OFFLINE = {
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
}


@dataclass(frozen=True)
class ServerPlan:
    """What the server is started with. `environment`: over this process'; `arguments`: of `run_server`."""

    environment: Mapping[str, str]
    arguments: Mapping[str, Any]


def plan(
    settings: Settings, *, host: str, port: int, ablations: bool, open_browser: bool, origins: Sequence[str]
) -> ServerPlan:
    """Raises UsageError for a server that others could reach without a key."""
    key = settings.server_key is not None and bool(settings.server_key.get_secret_value())
    if not key and not is_loopback(host):
        raise UsageError(
            f"--host {host}: others could use this server. Set PALETTE_SERVER_KEY to a key that they must "
            "send, or leave --host out."
        )
    environment = dict(OFFLINE)
    if settings.checkpoints is None:
        environment["PALETTE_CHECKPOINTS"] = f"sqlite:{THREADS.absolute()}"
    arguments: dict[str, Any] = {
        "host": host,
        "port": port,
        "graphs": graphs(ablations),
        "n_jobs_per_worker": RUNS_AT_ONCE,
        "open_browser": open_browser,
        "http": {
            "app": "cultural_palette.graph.server.app:app",
            "disable_mcp": find_spec("mcp") is not None,  # ours is there
            "cors": {
                "allow_origins": [*origins, *settings.allowed_origins],
                "allow_methods": ["*"],
                "allow_headers": ["*"],
                "expose_headers": ["x-pagination-total", "x-pagination-next", "content-location"],
            },
        },
        "checkpointer": {
            "backend": "custom",
            "path": "cultural_palette.graph.server.checkpoints.open_checkpointer",
        },
    }
    if key:
        arguments["http"]["enable_custom_route_auth"] = True
        arguments["auth"] = {
            "path": "cultural_palette.graph.server.auth:auth",
            "disable_studio_auth": True,
        }
    return ServerPlan(environment, arguments)


def graphs(ablations: bool) -> dict[str, Any]:
    """The graphs by their ids, where an installed package has them."""
    served: dict[str, Any] = {
        name: {"path": f"{EXPORTS}:{name}", "description": text} for name, text in SERVED.items()
    }
    if ablations:
        from cultural_palette.graph.variants import BASELINES, VARIANTS

        for name, variant in {**VARIANTS, **BASELINES}.items():
            path = f"{EXPORTS}:{name.replace('-', '_')}"
            served.setdefault(name, {"path": path, "description": f"{variant.source}."})
    return served


def serve(plan: ServerPlan) -> None:
    """Run the server until it is interrupted."""
    if find_spec("langgraph_api") is None:
        raise UsageError(
            "LangGraph's server is not installed: pip install 'cultural-palette[studio]' "
            f"(this Python is {sys.executable})."
        )
    os.environ.update(plan.environment)  # the server reads it as it is imported
    from langgraph_api.cli import run_server

    logging.getLogger().setLevel(logging.WARNING)
    run_server(**plan.arguments)
