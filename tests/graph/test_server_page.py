"""The examples of docs/server.md, run."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.conftest import ROOT
from tests.test_docs import blocks


async def test_the_fastapi_example_streams_and_fails_in_words() -> None:
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    (example,) = [block for block in blocks(page, "python") if "FastAPI" in block]
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "docs/server.md", "exec", dont_inherit=True), scope)
    transport = httpx.ASGITransport(app=scope["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
        asked = await client.get("/ask", params={"country": "Kenya", "question": "What do people eat?"})
        events = [json.loads(line) for line in asked.text.splitlines()]
        wrong = (await client.get("/ask", params={"country": "Kenia", "question": "Tea?"})).text
    kinds = [event["type"] for event in events]
    assert kinds[0] == "turn_started" and kinds.count("draft_done") == 5 and kinds[-1] == "answer"
    assert events[-1]["text"] and "Did you mean KEN (Kenya)" in json.loads(wrong)["text"]
