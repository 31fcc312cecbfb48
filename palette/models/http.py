"""HTTP to model servers: one pool an event loop, hundreds of requests in flight, retries on what may succeed.

A lean client for servers that one runs oneself. openai's own costs more CPU time a request than everything
else in the graph together, nearly all of it in checking the request's types (docs/serving.md has the
figures).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from cultural_palette.jsonl import JsonFault, parse_json

if TYPE_CHECKING:
    import aiohttp
    from pydantic import SecretStr

MOST_CONNECTIONS = 512
"""A loop's open connections; more requests wait their turn. Half of the 1,024 files that a process may open.
"""
CONNECT_S = 10.0
KEEP_ALIVE_S = 4.0
"""uvicorn, under vLLM, closes an idle connection after 5 s: ours are let go before."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0
LEAST_ATTEMPT_S = 0.05
NO_USE_IN_501 = 501
HTTP_ERRORS = frozenset(str(status) for status in range(400, 600))
TOO_BUSY = frozenset((408, 409, 425, 429))
LEAST_ROOM, ROOM_PER_TOKEN, ROOM_PER_BYTE_SENT = 4 * 2**20, 2048, 16
"""Bytes that an answer may have: whatever is asked, for each token it may write (a streamed one comes in an
event of its own), and for each byte of the request (a text's tokens come back as numbers).
"""
PACKED = "a body packed as {encoding}, which was not asked for"
TOO_LONG = "more than {kib:,.0f} KiB, far more than was asked for"
_JITTER = random.Random()

Json = dict[str, Any]


class Refused(Exception):
    """A server's answer with an HTTP status that is no success, or an error that came as one. `location`:
    where it points instead.
    """

    def __init__(
        self,
        status_code: int,
        body: Any,
        retry_after_s: float | None = None,
        location: str | None = None,
    ) -> None:
        reason = body.get("message") if isinstance(body, Mapping) else body
        super().__init__(str(reason) if reason else f"no reason given (HTTP {status_code})")
        self.status_code = status_code
        self.body = body
        self.retry_after_s = retry_after_s
        self.location = location

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later: too busy or broken, not wrong in itself."""
        return self.status_code in TOO_BUSY or (self.status_code >= 500 and self.status_code != NO_USE_IN_501)


class BrokenOff(Exception):
    """A reply that ended before its end."""


class Unreadable(Exception):
    """A success that is not what such a server sends."""


# -- budgets ------------------------------------------------------------------------------------


_DEADLINE: ContextVar[float | None] = ContextVar("palette_deadline", default=None)


@contextmanager
def budget(seconds: float) -> Iterator[None]:
    """All requests inside the block, retries and waits included, have these seconds together."""
    token = _DEADLINE.set(asyncio.get_running_loop().time() + seconds)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def time_left() -> float | None:
    """Seconds until the budget in force is used up; None without one."""
    deadline = _DEADLINE.get()
    return None if deadline is None else deadline - asyncio.get_running_loop().time()


def wait_before(attempt: int, retry_after_s: float | None) -> float:
    """Seconds to wait before attempt 1, 2, ...: what the server asked for, else doubled each time; with
    jitter, so that hundreds of requests refused at once do not come back at once.
    """
    if retry_after_s is not None:
        return retry_after_s + _JITTER.uniform(0, 0.25 * retry_after_s)
    longest: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
    return _JITTER.uniform(0.5, 1) * longest


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that a refusal asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return ms / 1000
    header = headers.get("Retry-After")
    if (seconds := _number(header)) is not None:
        return seconds
    parsed = email.utils.parsedate_tz(header) if header else None
    return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < float("inf") else None


# -- requests -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Server:
    """One server as one event loop sees it. `url` ends in /v1 as a rule; paths are below it.

    Never pickled, printed or traced with its key: `repr` leaves it out.
    """

    url: str
    session: aiohttp.ClientSession = field(repr=False)
    key: SecretStr | None = field(repr=False)
    retries: int
    learned: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What was found out about it once: token ids, what it can do. Whoever learns it names the key."""
    learning: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    @property
    def root(self) -> str:
        """The address without /v1: vLLM has /tokenize and /metrics there."""
        return self.url.removesuffix("/v1")

    @cached_property
    def proxy(self) -> str | None:
        """The proxy that the environment names for this server. Looked up once: aiohttp would, each time."""
        parts = urlsplit(self.url)
        if not parts.hostname or proxy_bypass(parts.hostname):
            return None
        return getproxies().get(parts.scheme)

    @cached_property
    def headers(self) -> dict[str, str]:
        """With the key, when these settings send one there."""
        plain = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        return plain | ({"Authorization": f"Bearer {self.key.get_secret_value()}"} if self.key else {})

    async def get(self, path: str) -> Any:
        """`GET path` below the address, read as JSON."""
        return await self._retrying("GET", self.url + path, None)

    async def post(self, path: str, body: Json, *, root: bool = False) -> Any:
        """`POST path`, read as JSON. `root`: below the address without /v1. Raises Refused, BrokenOff,
        Unreadable, or what aiohttp raises for a lost connection.
        """
        return await self._retrying("POST", (self.root if root else self.url) + path, body)

    async def stream(self, path: str, body: Json) -> AsyncIterator[Json]:
        """`POST path`, its events as they come. Tried again only while nothing has come: what was shown
        can not be taken back.
        """
        attempt = 0
        while True:
            begun = False
            try:
                async for event in self._events(self.url + path, body):
                    begun = True
                    yield event
                return
            except Exception as error:
                attempt += 1
                if begun or not await self._worth_another(attempt, error):
                    raise

    async def _retrying(self, method: str, url: str, body: Json | None) -> Any:
        attempt = 0
        while True:
            try:
                return await self._once(method, url, body)
            except Exception as error:
                attempt += 1
                if not await self._worth_another(attempt, error):
                    raise

    async def _worth_another(self, attempt: int, error: Exception) -> bool:
        """Wait, if another attempt may succeed and the budget has room for it; else say no at once."""
        if attempt > self.retries or not _may_pass(error):
            return False
        wait_s = wait_before(attempt, getattr(error, "retry_after_s", None))
        left_s = time_left()
        if left_s is not None and wait_s + LEAST_ATTEMPT_S > left_s:
            return False
        await asyncio.sleep(wait_s)
        return True

    async def _once(self, method: str, url: str, body: Json | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        async with self.session.request(
            method, url, data=data, headers=self.headers, proxy=self.proxy, allow_redirects=False
        ) as response:
            most = most_bytes(body, len(data or b""))
            raw = b"".join([chunk async for chunk in _bounded(response, most)])
            if response.status != 200:
                raise self._refused(response, raw)
        sent = _parsed(raw)
        if isinstance(sent, dict):
            if (fault := error_in(sent)) is not None:
                raise Refused(*fault)
            for choice in _choices(sent):
                if (finish := choice.get("finish_reason", "")) is None:
                    raise BrokenOff("it does not say why it ended")
                if not isinstance(finish, str):
                    raise Unreadable(f"an end that is no text ({type(finish).__name__})")
        return sent

    def _refused(self, response: aiohttp.ClientResponse, raw: bytes) -> Refused:
        """A refusal with what the server said, but for the key, which servers echo: OpenAI's {"error":
        {"message"}}, FastAPI's {"detail"}, or text.
        """
        if self.key is not None:
            raw = raw.replace(self.key.get_secret_value().encode(), b"***")
        try:
            body = parse_json(raw)
        except JsonFault:
            body = raw[:1000].decode("utf-8", "replace").strip()
        if isinstance(body, Mapping):
            body = body.get("error", body.get("detail", body))
        retry_after_s = retry_after_of(response.headers)
        return Refused(response.status, body, retry_after_s, response.headers.get("Location"))

    async def _events(self, url: str, body: Json) -> AsyncIterator[Json]:
        data = json.dumps(body).encode()
        async with self.session.post(
            url,
            data=data,
            headers=self.headers,
            proxy=self.proxy,
            allow_redirects=False,
        ) as response:
            chunks = _bounded(response, most_bytes(body, len(data)))
            if response.status != 200 or "event-stream" not in response.content_type:
                raw = b"".join([chunk async for chunk in chunks])
                if response.status != 200:
                    raise self._refused(response, raw)
                sent = _parsed(raw) if "json" in response.content_type else None
                if isinstance(sent, dict) and (fault := error_in(sent)) is not None:
                    raise Refused(*fault)
                raise Unreadable(f"{response.content_type} instead of a stream")
            async for line in _lines(chunks):
                if not line.startswith(b"data:"):
                    continue  # comments keep a connection alive
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                event = _parsed(data)
                if not isinstance(event, dict):
                    raise Unreadable(f"no event but {data[:60]!r}")
                if (fault := error_in(event)) is not None:
                    raise Refused(*fault)
                yield event
        raise BrokenOff("the stream ended before its end")


def most_bytes(body: Any, sent: int) -> int:
    """Bytes that the answer to this request may have, `sent` bytes of it."""
    wanted = body if isinstance(body, Mapping) else {}
    tokens = wanted.get("max_tokens") or wanted.get("max_completion_tokens") or 0
    least = LEAST_ROOM // 16 if wanted.get("stream") else LEAST_ROOM
    return least + ROOM_PER_TOKEN * int(tokens) + ROOM_PER_BYTE_SENT * sent


def error_in(sent: Mapping[str, Any]) -> tuple[int, Any] | None:
    """The status and the error of a body that is one, whatever status it came with; None for others. OpenAI's
    {"error"}, FastAPI's {"detail"}, and {"message"} as older vLLM and gateways have it.
    """
    fault = sent.get("error") or sent.get("detail") or (isinstance(sent.get("message"), str) and sent)
    if not fault or sent.get("choices"):
        return None
    if isinstance(fault, list):
        fault = fault[0]
    if isinstance(fault, Mapping) and "message" not in fault:
        fault = fault.get("msg", fault)
    code = str(fault.get("code")) if isinstance(fault, Mapping) else ""
    return int(code) if code in HTTP_ERRORS else 500, fault


def encoded_by(headers: Mapping[str, str]) -> str | None:
    """How a body was compressed, which nobody asked for: a small one may unpack to any size."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    return encoding if encoding not in ("", "identity") else None


async def _bounded(response: aiohttp.ClientResponse, most: int) -> AsyncIterator[bytes]:
    """The body as it comes, up to `most` bytes."""
    if encoding := encoded_by(response.headers):
        raise Unreadable(PACKED.format(encoding=encoding))
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > most:
            raise Unreadable(TOO_LONG.format(kib=most / 1024))
        if (left_s := time_left()) is not None and left_s <= 0:
            raise BrokenOff("its time was up")  # a flood leaves the loop no turn to say so
        yield chunk


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of any length; aiohttp's own stop at 64 KiB."""
    rest: list[bytes] = []
    async for chunk in chunks:
        first, *more = chunk.split(b"\n")
        rest.append(first)
        for line in more:
            yield b"".join(rest)
            rest = [line]
    if any(rest):
        yield b"".join(rest)


def _choices(sent: Json) -> list[Json]:
    """The choices of a completion; none where there are none to be had."""
    choices = sent.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Unreadable("choices that are no objects")
    return choices


def _may_pass(error: Exception) -> bool:
    import aiohttp

    if isinstance(error, Refused):
        return error.may_pass
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError):
        return False
    return isinstance(
        error, BrokenOff | aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | TimeoutError | OSError
    )


def _parsed(raw: bytes) -> Any:
    try:
        return parse_json(raw, half_pairs=True)
    except JsonFault as error:
        raise Unreadable(f"what is {error}: {raw[:60]!r}") from None


# -- the pool -----------------------------------------------------------------------------------


@dataclass
class Pool:
    """A loop's connections, and the servers they go to."""

    session: aiohttp.ClientSession
    servers: dict[tuple[str, SecretStr | None, int], Server] = field(default_factory=dict)

    @classmethod
    def open(cls) -> Pool:
        """A pool for the running loop."""
        import aiohttp

        connector = aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)  # the budget ends the rest
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return cls(session)

    def server(self, url: str, key: SecretStr | None, retries: int) -> Server:
        """The server of an address, the same each time."""
        wanted = url, key, retries
        if wanted not in self.servers:
            self.servers[wanted] = Server(url, self.session, key, retries)
        return self.servers[wanted]

    async def close(self) -> None:
        """Close every connection."""
        await self.session.close()
