"""A server of one's own: answers as they come, threads that outlive it, a key, closed to other sites' pages.

    pip install "cultural-palette[embedded,studio]" fastapi
    PALETTE_SERVER_KEY=secret uvicorn --app-dir examples/fastapi app:app

    curl -N -H "x-api-key: secret" -H "Content-Type: application/json" http://127.0.0.1:8000/ask \
        -d '{"country": "KEN", "question": "What do people eat at a wedding?", "thread": "1"}'

Threads are where PALETTE_CHECKPOINTS says; with Postgres, any number of these servers share them.
"""

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import cultural_palette as cp
from cultural_palette.graph.server.checkpoints import checkpointer_at
from cultural_palette.graph.server.guard import Guard
from cultural_palette.models import close_clients

settings = cp.get_settings()
kept = settings.checkpoints.get_secret_value() if settings.checkpoints else "sqlite:threads.sqlite"


@asynccontextmanager
async def threads(app: FastAPI) -> AsyncIterator[None]:
    """One graph for all requests, its threads kept; connections are closed at the end."""
    async with checkpointer_at(kept) as checkpointer:
        app.state.graph = cp.build(checkpointer=checkpointer)
        yield
    await close_clients()


async def keyed(x_api_key: Annotated[str, Header()] = "") -> None:
    """Only who sends PALETTE_SERVER_KEY comes in; without such a setting, nobody."""
    wanted = settings.server_key.get_secret_value() if settings.server_key else ""
    if not wanted or not hmac.compare_digest(x_api_key.encode(), wanted.encode()):
        raise HTTPException(401, "Send this server's key in the header 'x-api-key'.")


class Asked(BaseModel):
    """A request. The same `thread` again: the turns before are remembered."""

    country: str
    question: str
    options: list[str] = []
    thread: str
    seed: int = 0


app = FastAPI(lifespan=threads)
app.add_middleware(Guard, allowed_origins=settings.allowed_origins, most_bytes=settings.most_request_bytes)


@app.get("/ok")
async def ok() -> dict[str, bool]:
    """For a load balancer."""
    return {"ok": True}


@app.post("/ask", dependencies=[Depends(keyed)])
async def ask(asked: Asked, request: Request) -> StreamingResponse:
    """The run's events, a JSON object a line (docs/events.md); an error is one as well."""
    inputs: Any = {"country": asked.country, "query": asked.question, "options": asked.options}

    async def lines() -> AsyncIterator[str]:
        try:
            async for event in request.app.state.graph.astream(
                inputs,
                {"configurable": {"thread_id": asked.thread}},
                context=cp.PaletteContext(seed=asked.seed),
                stream_mode="custom",
            ):
                yield json.dumps(event) + "\n"
        except cp.PaletteError as error:
            yield json.dumps({"type": "error", "text": str(error)}) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")
