"""What the page is made of, to be served by any Starlette app beside LangGraph's own API."""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cultural_palette.ui.catalogue import catalogue
from cultural_palette.ui.survey import shown_survey

STATIC = Path(__file__).parent / "static"
HOME = "/palette/"
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
    """Puts the page's headers on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and add the headers as the response starts."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers)


async def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html")


async def _catalogue(request: Request) -> Response:
    offered = await asyncio.to_thread(catalogue)
    return JSONResponse({**offered, "survey": shown_survey().described()})


async def _survey(request: Request) -> Response:
    given = request.query_params
    country, question = given.get("country", ""), given.get("question", "")
    return JSONResponse(shown_survey().shares(country, question, given.getlist("option")))


def page_routes() -> list[BaseRoute]:
    """All of the page, under HOME."""
    inside: list[BaseRoute] = [
        Route("/", _index, include_in_schema=False),
        Route("/catalogue.json", _catalogue, include_in_schema=False),
        Route("/survey.json", _survey, include_in_schema=False),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return [Mount(HOME.rstrip("/"), routes=inside, middleware=[Middleware(PageHeaders)])]
