"""One model behind one or several OpenAI-compatible servers, asked by the hundred thousand.

The requests are those of `palette.client`; here is what a long run needs beside: a place for each call,
patience with servers that are too busy, and the difference between a call to repeat and a run to end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from cultural_palette.errors import ModelError, PaletteError
from cultural_palette.models.asking import BROKEN
from cultural_palette.models.http import BrokenOff, Pool, Refused, Server, Unreadable
from cultural_palette.models.tokens import counts_in
from cultural_palette.nodes.synthesis.state import TeacherRefused
from cultural_palette.training.synthesis.pace import Pace

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 60.0
TOO_BUSY = (429, 503, 529)
REFUSALS = (400, 413, 415, 422)


class TeacherLost(PaletteError):
    """Nothing will come of asking on: a wrong key or model, or a server that has gone."""


@dataclass(frozen=True)
class Completion:
    """What a server said. `text` may be empty; `finish`: why it ended; `usage` None when it did not tell."""

    text: str
    finish: str | None
    usage: dict[str, int] | None


@dataclass(frozen=True)
class Trouble:
    """An attempt that failed, and may be made again. `pause_s`: what the server asked for."""

    why: str
    too_busy: bool = False
    pause_s: float | None = None


@dataclass
class Address:
    """One server, how many calls are under way to it, and until when it is left alone (loop time)."""

    server: Server
    active: int = 0
    rests_until: float = 0.0


class TeacherServers:
    """A call goes where the fewest are under way.

    `retries`: attempts after the first, with growing pauses. A server that says 429 or 503, or is gone, rests
    while others are there; when all rest, `pace` slows down. Use as an async context, in one event loop.
    """

    def __init__(
        self,
        urls: Sequence[str],
        key: str | None,
        pace: Pace,
        *,
        retries: int = 6,
        seed: int = 0,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.urls = tuple(url.rstrip("/") for url in urls)
        self.key = key
        self.pace = pace
        self.retries = retries
        self.first_pause_s = first_pause_s
        self._random = random.Random(seed)
        self._pool: Pool | None = None
        self._addresses: list[Address] = []

    async def __aenter__(self) -> Self:
        self._pool = Pool.open()
        key = SecretStr(self.key) if self.key else None
        self._addresses = [Address(self._pool.server(url, key, 0)) for url in self.urls]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await self._pool.close()

    async def complete(self, body: Mapping[str, Any], timeout_s: float) -> Completion:
        """One reply, `timeout_s` for each attempt. Raises ModelError when it did not come, TeacherRefused
        when it never will, TeacherLost when no other would.
        """
        trouble = Trouble("")
        for attempt in range(self.retries + 1):
            async with self.pace:
                address = self._least_busy()
                address.active += 1
                try:
                    outcome = await self._attempt(address.server, dict(body), timeout_s)
                finally:
                    address.active -= 1
            if isinstance(outcome, Completion):
                self.pace.good()
                return outcome
            trouble = outcome
            if attempt < self.retries:
                await self._rest(address, trouble, attempt)
        times = f"{self.retries + 1} times" if self.retries else "once"
        raise ModelError(f"{body['model']} did not answer (asked {times}): {trouble.why}.")

    def _least_busy(self) -> Address:
        now = asyncio.get_running_loop().time()
        awake = [address for address in self._addresses if address.rests_until <= now]
        return min(awake or self._addresses, key=lambda address: address.active)

    async def _rest(self, address: Address, trouble: Trouble, attempt: int) -> None:
        now = asyncio.get_running_loop().time()
        pause_s = min(LAST_PAUSE_S, self.first_pause_s * 2**attempt)
        if trouble.pause_s is not None:
            pause_s = min(LAST_PAUSE_S, trouble.pause_s)
        pause_s *= self._random.uniform(1.0, 1.5)
        address.rests_until = max(address.rests_until, now + pause_s)
        if any(other.rests_until <= now for other in self._addresses):
            return  # another server is awake: ask it at once
        if trouble.too_busy:
            self.pace.busy(pause_s)
        await self.pace.pause(pause_s)

    async def _attempt(self, server: Server, body: dict[str, Any], timeout_s: float) -> Completion | Trouble:
        import aiohttp

        try:
            async with asyncio.timeout(timeout_s):
                sent = await server.post("/chat/completions", body)
        except Refused as refused:
            return self._refused(server.url, str(body["model"]), refused)
        except TimeoutError:
            return Trouble(f"no reply from {server.url} within {timeout_s:g} s")
        except BrokenOff:
            return Trouble(f"the reply of {server.url} broke off")
        except Unreadable as error:
            return Trouble(f"{server.url} sent {error}; is it an OpenAI-compatible API?")
        except (aiohttp.ClientError, OSError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Trouble(f"can not reach {server.url} ({why}); is it up?")
        return read_completion(sent, server.url)

    def _refused(self, url: str, model: str, refused: Refused) -> Trouble:
        status, reason = refused.status_code, self._reason(refused)
        if status in (401, 403):
            hint = (
                "Is the key in PALETTE_API_KEY (or OPENAI_API_KEY) right?"
                if self.key
                else "No key was sent: set PALETTE_API_KEY (or OPENAI_API_KEY)."
            )
            raise TeacherLost(f"{url} refused the key (HTTP {status}). {hint}")
        if status in REFUSALS:
            raise TeacherRefused(f"{model} refused the request (HTTP {status}: {reason}).")
        if not refused.may_pass or "insufficient_quota" in str(refused.body):
            raise TeacherLost(f"{url} will not answer for the model {model!r} (HTTP {status}: {reason}).")
        return Trouble(f"{url} answered HTTP {status}: {reason}", status in TOO_BUSY, refused.retry_after_s)

    def _reason(self, refused: Refused) -> str:
        text = " ".join(str(refused).split())
        if self.key:
            text = text.replace(self.key, "***")  # servers echo it in an error
        return text[:200].rstrip(" .")


def read_completion(body: Any, where: str) -> Completion | Trouble:
    """A chat completion as servers and batch files give it."""
    try:
        choice = body["choices"][0]
        text = choice["message"].get("content")
        tokens = counts_in(body.get("usage"))
        finish = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return Trouble(f"{where} sent what can not be read as a chat completion ({type(error).__name__})")
    if finish is not None and not isinstance(finish, str):
        return Trouble(f"{where} sent an end that is no text ({type(finish).__name__})")
    if text is not None and not isinstance(text, str):
        return Trouble(f"{where} sent a reply that is no text ({type(text).__name__})")
    if finish is None or finish in BROKEN:
        return Trouble(f"the reply of {where} broke off after {len(text or '')} characters")
    return Completion((text or "").strip(), finish, tokens)
