"""What a LangGraph server of ours has besides LangGraph's own API (`http.app`): the guard before all of it,
our MCP tools at /mcp, and threads that a killed server forgot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import Any

from langgraph_sdk import get_client
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from cultural_palette.graph.server.checkpoints import checkpointer_at, threads_kept
from cultural_palette.graph.server.guard import Guard
from cultural_palette.settings import current_settings

MCP_PATH = "/mcp"


def make_app(routes: Sequence[BaseRoute] = ()) -> Starlette:
    """The app, with `routes` of one's own in it."""
    settings = current_settings()
    mcp, mcp_routes = _mcp()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if mcp is not None:
                await stack.enter_async_context(mcp.session_manager.run())
            await remember_threads()
            yield

    origins = [*settings.allowed_origins, *_origins_of_the_server()]
    guard = Middleware(Guard, allowed_origins=origins, most_bytes=settings.most_request_bytes)
    return Starlette(routes=[*mcp_routes, *routes], middleware=[guard], lifespan=lifespan)


async def remember_threads() -> None:
    """Tell the server of every thread whose checkpoints are kept. The server's own list of threads is written
    every ten seconds; one that began after that is forgotten when the server is killed, though its turns are
    there.
    """
    where = current_settings().checkpoints
    if where is None:
        return
    async with checkpointer_at(where.get_secret_value()) as checkpointer:
        threads = await threads_kept(checkpointer)
    client = get_client(url=None)  # this very server, without a socket
    for thread, graph in threads:
        metadata = {"graph_id": graph} if graph else {}
        await client.threads.create(thread_id=thread, metadata=metadata, if_exists="do_nothing")


def _origins_of_the_server() -> Sequence[str]:
    """Pages that the server's own configuration lets in (`http.cors.allow_origins` in langgraph.json)."""
    from langgraph_api.config import CORS_CONFIG

    return [origin for origin in (CORS_CONFIG or {}).get("allow_origins") or () if origin != "*"]


def _mcp() -> tuple[Any, Sequence[BaseRoute]]:
    """Our MCP server and its route, where the package for it is installed."""
    if find_spec("mcp") is None:
        return None, ()
    from mcp.server.transport_security import TransportSecuritySettings

    from cultural_palette.graph.server.tools import mcp_server

    server = mcp_server()
    inner = server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        json_response=True,
        stateless_http=True,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=False
        ),  # the guard's work
    )
    return server, inner.routes


app = make_app()
