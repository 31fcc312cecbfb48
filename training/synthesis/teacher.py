"""The teacher of a run: every call kept and counted, none made after the run is told to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from cultural_palette.calls import Call, CountedCalls
from cultural_palette.errors import ModelError, PaletteError, UsageError
from cultural_palette.messages import role_dicts
from cultural_palette.models import ModelRef, Reply, Sampling, call_of, guarded, open_model, usage_of
from cultural_palette.models.thoughts import without_thoughts
from cultural_palette.nodes.synthesis.state import TeacherRefused
from cultural_palette.settings import OPENAI_URL, Settings
from cultural_palette.training.synthesis.pace import Pace
from cultural_palette.training.synthesis.prices import Price
from cultural_palette.training.synthesis.teacher_servers import TeacherLost, TeacherServers

KIND = "synthesis"  # of the calls in the store
REFUSALS_IN_A_ROW = 10
LEAST_FAILURES_IN_A_ROW = 20
Json = dict[str, Any]


class RunStopped(PaletteError):
    """The run was told to stop: by a person, by its budget, by a fault. What came is kept."""


class NotYet(ModelError):
    """The reply will come with a batch."""


@dataclass(frozen=True)
class Request:
    """One request to the teacher. Its address is not part of what it is kept under."""

    model: ModelRef
    sampling: Sampling
    messages: Sequence[BaseMessage]
    timeout_s: float

    @property
    def call(self) -> Call:
        """What the reply is kept under."""
        return call_of(KIND, self.model, self.messages, self.sampling)

    @property
    def body(self) -> Json:
        """As an OpenAI-compatible server takes it."""
        body: Json = {
            "model": self.model.name,
            "messages": role_dicts(self.messages),
            "temperature": self.sampling.temperature,
            "max_completion_tokens": self.sampling.max_tokens,
            "seed": self.sampling.seed,
        }
        return {key: value for key, value in body.items() if value is not None}


Answering = Callable[[Request, Callable[[], str]], Awaitable[Json]]
"""Where replies come from: a request, and what tells its key -> {"text", "finish", "usage", "seconds"}."""


def parse_teacher(texts: Sequence[str], settings: Settings) -> tuple[ModelRef, tuple[str, ...]]:
    """The model without address, and its base URLs: of one `openai:NAME@URL,URL`, or of several texts."""
    models: list[ModelRef] = []
    urls: list[str] = []
    for text in texts:
        name, at, rest = text.partition("@http")
        models.append(ModelRef.parse(name))
        for url in (at[1:] + rest).split(",") if at else ():
            urls.append(ModelRef.parse(f"{name}@{url.strip()}").base_url or "")
    if not models:
        raise UsageError("No teacher: give --teacher, such as 'openai:gpt-4o-mini' or 'embedded:nano'.")
    if len(set(models)) > 1:
        raise UsageError(
            f"The teachers {', '.join(map(str, dict.fromkeys(models)))} are several models. One answers a "
            "run; repeat --teacher for several addresses of it."
        )
    if not models[0].in_process and not urls:
        urls = [settings.base_url or OPENAI_URL]
    return models[0], tuple(dict.fromkeys(urls))


@dataclass
class Ledger:
    """What a run has used, earlier sittings included. `uncounted`: replies without their tokens;
    `calls_made`: calls that reached the teacher in this sitting."""

    price: Price | None = None
    budget: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    replies: int = 0
    uncounted: int = 0
    calls_made: int = 0

    @property
    def cost(self) -> float | None:
        """Dollars; None without a price."""
        return self.price.of(self.input_tokens, self.output_tokens) if self.price else None

    def add(self, usage: dict[str, int] | None) -> None:
        """One reply's tokens."""
        self.replies += 1
        if usage is None:
            self.uncounted += 1
            return
        self.input_tokens += usage["input_tokens"]
        self.output_tokens += usage["output_tokens"]

    def spent_with(self, under_way: int) -> bool:
        """Whether the budget is used up, counting calls under way at the mean of those that came."""
        if self.budget is None or self.cost is None:
            return False
        mean = self.cost / self.replies if self.replies else 0.0
        return self.cost + under_way * mean >= self.budget


@dataclass
class Teacher:
    """`ask` has the arguments of `palette.models.ask`. A call once begun goes on to its end and is kept, even
    when the one who asked is gone; `drain` waits for those.
    """

    store: CountedCalls
    answering: Answering
    ledger: Ledger = field(default_factory=Ledger)
    pace: Pace | None = None
    most_failures: int = LEAST_FAILURES_IN_A_ROW
    stopped: str | None = None
    under_way: int = 0
    _failures: int = 0
    _refusals: int = 0
    _flights: set[asyncio.Task[Json]] = field(default_factory=set)
    _places: asyncio.Semaphore | None = None

    def __post_init__(self) -> None:
        if self.pace is not None:
            self._places = asyncio.Semaphore(self.pace.most)

    def stop(self, why: str) -> None:
        """No new call from now on. The first reason stays."""
        self.stopped = self.stopped or why
        if self.pace is not None:
            self.pace.shut(RunStopped(self.stopped))

    async def drain(self) -> None:
        """Wait for the calls under way."""
        while self._flights:
            await asyncio.wait(self._flights)

    def cancel(self) -> None:
        """Give up the calls under way."""
        for flight in self._flights:
            flight.cancel()

    async def ask(
        self,
        ref: ModelRef,
        sampling: Sampling,
        messages: Sequence[BaseMessage],
        *,
        timeout_s: float,
        tags: Sequence[str] = (),
    ) -> Reply:
        """One reply, out of the store or asked. Raises ModelError; RunStopped when no call may be made."""
        request = Request(ref, sampling, messages, timeout_s)
        flight = asyncio.create_task(self._stored_or_made(request))
        self._flights.add(flight)
        flight.add_done_callback(self._landed)
        row = await asyncio.shield(flight)
        text = without_thoughts(row["text"])
        message = AIMessage(text, response_metadata={"finish_reason": row["finish"]})
        return Reply(text, row["seconds"], message, row["usage"], row["finish"])

    async def _stored_or_made(self, request: Request) -> Json:
        call = request.call
        # a call has its place until its reply is stored: a kill repeats at most `concurrency` calls
        async with self._places or nullcontext():
            row = await self.store.once(call, lambda: self._make(request, lambda: self.store.key(call)))
        self.ledger.add(row["usage"])
        return row

    async def _make(self, request: Request, key: Callable[[], str]) -> Json:
        if self.stopped:
            raise RunStopped(self.stopped)
        if self.ledger.spent_with(self.under_way):
            self.stop(f"The budget of {self.ledger.budget:,.2f} USD is used up.")
            raise RunStopped(self.stopped or "")
        self.under_way += 1
        try:
            row = await self.answering(request, key)
        except NotYet:
            raise
        except ModelError as error:
            self._failed(error)
            raise
        finally:
            self.under_way -= 1
        self._failures = self._refusals = 0
        self.ledger.calls_made += 1
        if row["usage"] is None and self.ledger.budget is not None:
            raise TeacherLost(
                f"{request.model} does not tell how many tokens it used: no budget can be kept. "
                "Leave out --budget."
            )
        return row

    def _failed(self, error: ModelError) -> None:
        """Raise TeacherLost when going on makes no sense."""
        refused = isinstance(error, TeacherRefused)
        self._failures, self._refusals = self._failures + 1, self._refusals + refused
        if self._refusals >= REFUSALS_IN_A_ROW or (not refused and self._failures >= self.most_failures):
            raise TeacherLost(f"{self._failures} calls failed in a row; the last: {error}") from error

    def _landed(self, flight: asyncio.Task[Json]) -> None:
        self._flights.discard(flight)
        if not flight.cancelled():
            flight.exception()  # looked at: the one who asked may be gone


def from_servers(servers: TeacherServers) -> Answering:
    """Replies of OpenAI-compatible servers."""

    async def answer(request: Request, key: Callable[[], str]) -> Json:
        start = time.perf_counter()
        done = await servers.complete(request.body, request.timeout_s)
        seconds = round(time.perf_counter() - start, 3)
        return {"text": done.text, "finish": done.finish, "usage": done.usage, "seconds": seconds}

    return answer


def from_models(pace: Pace) -> Answering:
    """Replies of chat models in this process, such as the embedded palette's."""

    async def answer(request: Request, key: Callable[[], str]) -> Json:
        async with pace:
            start = time.perf_counter()
            async with guarded(request.model, request.timeout_s):
                model = await open_model(request.model)
                message = await model.reply(request.messages, request.sampling)
        return {
            "text": message.text.strip(),
            "finish": message.response_metadata.get("finish_reason"),
            "usage": usage_of(message),
            "seconds": round(time.perf_counter() - start, 3),
        }

    return answer
