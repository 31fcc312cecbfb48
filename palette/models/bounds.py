"""What our own client refuses, refused in openai's HTTP client too: answers without end, bodies packed
unasked, and errors that come as a success.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any

import openai

from cultural_palette.jsonl import JsonFault, parse_json
from cultural_palette.models.http import (
    PACKED,
    TOO_LONG,
    BrokenOff,
    Refused,
    Unreadable,
    encoded_by,
    error_in,
    most_bytes,
    time_left,
)

httpx: Any = import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
"""httpx or httpx2, whichever openai is built on."""


def hooks() -> dict[str, list[Any]]:
    """httpx' event hooks: they see each request before it goes, each answer before its body is read."""
    return {"request": [_ask_plainly], "response": [_bound]}


def plain_hooks() -> dict[str, list[Any]]:
    """The same for a client without an event loop."""
    return {"request": [_unpacked], "response": [_bound_plainly]}


def _unpacked(request: Any) -> None:
    request.headers["Accept-Encoding"] = "identity"


async def _ask_plainly(request: Any) -> None:
    _unpacked(request)


async def _bound(response: Any) -> None:
    response.stream = Bounded(response.stream, _most(response), _events_of(response))
    if _is_whole(response):
        _judge(response, await response.aread())


def _bound_plainly(response: Any) -> None:
    response.stream = PlainlyBounded(response.stream, _most(response), _events_of(response))
    if _is_whole(response):
        _judge(response, response.read())


def _most(response: Any) -> int:
    """Bytes that this answer may have. Raises Unreadable for a packed one."""
    if encoding := encoded_by(response.headers):
        raise Unreadable(PACKED.format(encoding=encoding))
    sent = response.request.content
    return most_bytes(json.loads(sent or b"null"), len(sent))


def _is_whole(response: Any) -> bool:
    return response.status_code == 200 and not _is_stream(response)


def _is_stream(response: Any) -> bool:
    return "event-stream" in response.headers.get("Content-Type", "")


def _events_of(response: Any) -> ErrorEvents | None:
    return ErrorEvents() if _is_stream(response) else None


def _judge(response: Any, raw: bytes) -> None:
    """Give an error that came as a success the status that it tells."""
    try:
        body = parse_json(raw, half_pairs=True)
    except JsonFault as error:
        raise Unreadable(f"what is {error}: {raw[:60]!r}") from None
    fault = error_in(body) if isinstance(body, dict) else None
    if fault is not None:
        if "error" not in body:  # openai looks for its reason there only
            raise Refused(*fault)
        response.status_code = fault[0]  # as the status says it, openai reads the reason


MAY_BE_ERROR = re.compile(rb'"(?:error|detail|message)"')


class ErrorEvents:
    """Watches a stream go by, and raises Refused for an error among its events in any shape that is told: in
    the stream, too, openai looks in one place only.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []

    def __call__(self, chunk: bytes) -> None:
        """The next bytes."""
        first, *more = chunk.split(b"\n")
        self._line.append(first)
        for following in more:
            self.end()
            self._line = [following]

    def end(self) -> None:
        """The line is whole."""
        line = b"".join(self._line)
        if line.startswith(b"data:") and MAY_BE_ERROR.search(line):
            try:
                event = parse_json(line[5:].strip(), half_pairs=True)
            except JsonFault:
                return  # openai says so
            if isinstance(event, dict) and (fault := error_in(event)) is not None:
                raise Refused(*fault)


class Bounded(httpx.AsyncByteStream):  # type: ignore[misc]
    """A body that ends with an Unreadable after `most` bytes."""

    def __init__(self, stream: Any, most: int, events: ErrorEvents | None = None) -> None:
        self.stream = stream
        self.most = most
        self.events = events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self.stream:
            size += len(chunk)
            if size > self.most:
                raise Unreadable(TOO_LONG.format(kib=self.most / 1024))
            if (left_s := time_left()) is not None and left_s <= 0:
                raise BrokenOff("its time was up")  # a flood leaves the loop no turn to say so
            if self.events is not None:
                self.events(chunk)
            yield chunk
            await asyncio.sleep(0)  # reading what is there already suspends nobody: let a budget end it
        if self.events is not None:
            self.events.end()

    async def aclose(self) -> None:
        """Let the connection go."""
        await self.stream.aclose()


class PlainlyBounded(httpx.SyncByteStream):  # type: ignore[misc]
    """The same without an event loop, and without a budget."""

    def __init__(self, stream: Any, most: int, events: ErrorEvents | None = None) -> None:
        self.stream = stream
        self.most = most
        self.events = events

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self.stream:
            size += len(chunk)
            if size > self.most:
                raise Unreadable(TOO_LONG.format(kib=self.most / 1024))
            if self.events is not None:
                self.events(chunk)
            yield chunk
        if self.events is not None:
            self.events.end()

    def close(self) -> None:
        """Let the connection go."""
        self.stream.close()
