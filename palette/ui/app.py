"""The page as an app of the LangGraph server's (`http.app` in langgraph.json): files, and what there is to
choose from. Answers come from the server's own API.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cultural_palette.ui.catalogue import catalogue
from cultural_palette.ui.survey import Beside

STATIC = Path(__file__).parent / "static"
HOME = "/palette/"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked again each time, by its ETag
}


class PageHeaders:
    """Puts the page's headers on all that lies under HOME."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and add the headers as the response starts."""
        if scope["type"] != "http" or not scope["path"].startswith(HOME):
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers)


class LoopbackOnly:
    """Refuses what another site sends through a person's browser: requests for a host that is not this
    machine (DNS rebinding), and requests from pages of another origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes from this machine's own page, or from no page at all."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if urlsplit(f"//{host}").hostname not in LOOPBACK:
                await _refuse(f"This server answers to {', '.join(LOOPBACK)}, not to {host!r}.")(
                    scope, receive, send
                )
                return
            if origin is not None and urlsplit(origin).netloc != host:
                await _refuse(f"Pages of {origin!r} may not use this server.")(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _refuse(why: str) -> Response:
    return PlainTextResponse(why, status_code=403)


async def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html")


async def _catalogue(request: Request) -> Response:
    offered = await asyncio.to_thread(catalogue)
    return JSONResponse({**offered, "survey": request.app.state.beside.described()})


async def _survey(request: Request) -> Response:
    given = request.query_params
    beside: Beside = request.app.state.beside
    country, question = given.get("country", ""), given.get("question", "")
    return JSONResponse(beside.shares(country, question, given.getlist("option")))


async def _home(request: Request) -> Response:
    return RedirectResponse(HOME.strip("/") + "/")


def page_routes() -> list[BaseRoute]:
    """All that the page is made of, for an app that has PageHeaders and `state.beside`."""
    return [
        Route(HOME.rstrip("/"), _home, include_in_schema=False),
        Route(HOME, _index, include_in_schema=False),
        Route(f"{HOME}catalogue.json", _catalogue, include_in_schema=False),
        Route(f"{HOME}survey.json", _survey, include_in_schema=False),
        Mount(f"{HOME}static", StaticFiles(directory=STATIC)),
    ]


def create_app(loopback_only: bool = False) -> Starlette:
    """The app. `loopback_only`: for a server on a person's own machine; its root then leads to the page. What
    its `state.beside` holds is shown beside answers.
    """
    routes = page_routes()
    middleware = [Middleware(PageHeaders)]
    if loopback_only:
        routes.append(Route("/", _home, include_in_schema=False))
        middleware.insert(0, Middleware(LoopbackOnly))
    app = Starlette(routes=routes, middleware=middleware)
    app.state.beside = Beside()
    return app


app = create_app()
loopback_app = create_app(loopback_only=True)
