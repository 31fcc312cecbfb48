"""The synthesis run against what its calls would take alone, and its memory.

    python -m benchmarks.synthesis --json          # 64 in flight, a local server that takes 50 ms a reply
    python -m benchmarks.synthesis --rows 50000    # memory from 1,000 rows on; replies at once, in process

The bound is concurrency / latency: 64 / 0.05 s = 1,280 calls/s. Beside the whole run (chains, calls kept,
rows) stand its client alone, and `palette.models.ask` with langchain-openai's client, on the same server.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click

VERDICT = '{"passed": true, "findings": []}'
ANSWER = "People here greet one another with care, and take time for it. " * 6


@click.command()
@click.option("--calls", default=60_000, show_default=True, help="Of a whole run; its start counts.")
@click.option("--concurrency", default=64, show_default=True, help="Calls in flight.")
@click.option("--processes", default=2, show_default=True, help="Of the second run.")
@click.option("--latency-ms", default=50.0, show_default=True, help="Of the server.")
@click.option("--rows", type=int, help="Measure memory over so many rows instead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    calls: int, concurrency: int, processes: int, latency_ms: float, rows: int | None, as_json: bool
) -> None:
    """Measure, and print rates, shares of the bound, processor time a call."""
    result = memory(rows, concurrency) if rows else speed(calls, concurrency, latency_ms / 1000, processes)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    for key, value in result.items():
        click.echo(f"{key}: {json.dumps(value)}")


def speed(calls: int, concurrency: int, latency_s: float, processes: int) -> dict[str, Any]:
    """Calls a second of the run, of its client alone and of langchain's, with their share of the bound."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve_chat, args=(theirs, latency_s), daemon=True
    )
    server.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}/v1"
        bound = concurrency / latency_s
        variants = {
            "run": lambda: _whole_run(calls // 20, concurrency, url, 1),
            f"run, {processes} processes": lambda: _whole_run(calls // 20, concurrency, url, processes),
            "client alone": lambda: asyncio.run(_client_alone(calls // 2, concurrency, url)),
            "langchain-openai": lambda: asyncio.run(_langchain(calls // 10, concurrency, url)),
        }
        measured = {name: variant() for name, variant in variants.items()}
    finally:
        server.terminate()
        server.join()
    for row in measured.values():
        row["share_of_bound"] = round(row["calls_a_second"] / bound, 3)
    return {"bound_calls_a_second": bound, **measured, "with": versions()}


def memory(rows: int, concurrency: int) -> dict[str, Any]:
    """MiB in use as rows go by, over replies that come at once."""
    from cultural_palette.training.synthesis.session import Sitting
    from cultural_palette.training.synthesis.sitting import sit

    marks = [mark for mark in (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000) if mark <= rows]
    seen: dict[int, float] = {}

    def show(tally: Any, ledger: Any) -> None:
        if len(seen) < len(marks) and tally.written >= marks[len(seen)]:
            seen[marks[len(seen)]] = round(resident_mib(), 1)

    async def answer(request: Any, key: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        return _row(_text(request.messages[0].text))

    spec = made_up_spec(-(-rows // 5))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        sitting = Sitting(answering=answer, concurrency=concurrency)
        outcome = sit(spec, Path(folder) / "run", sitting, show, lambda text: None)
        size = sum(file.stat().st_size for file in (Path(folder) / "run").iterdir())
    return {
        "rows": outcome.tally.written,
        "mib_at_rows": seen,
        "mib_on_disk": round(size / 2**20, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "with": versions(),
    }


def made_up_spec(queries: int) -> Any:
    """A run of so many made-up queries."""
    from cultural_palette.cultural_map import load_map
    from cultural_palette.models import ModelRef
    from cultural_palette.nodes.synthesis.state import SynthesisContext
    from cultural_palette.training.queries import Queries, Query, Source
    from cultural_palette.training.synthesis.run import SynthesisSpec

    items = tuple(
        Query(f"q{number}", f"What is a good day, for the {number}th time of asking?", Source("made up"))
        for number in range(queries)
    )
    made_up = Queries(items, {"dataset": "made up"}, {"kept": queries, "unreadable": 0})
    return SynthesisSpec(made_up, load_map("continents"), ModelRef("openai", "teacher"), SynthesisContext())


def _whole_run(queries: int, concurrency: int, url: str, processes: int) -> dict[str, float]:
    from cultural_palette.training.synthesis.session import Sitting
    from cultural_palette.training.synthesis.sitting import sit

    sit_quietly: Callable[[Path, int], Any] = lambda out, number: sit(  # noqa: E731
        made_up_spec(number),
        out,
        Sitting(urls=(url,), concurrency=concurrency, processes=processes),
        lambda tally, ledger: None,
        lambda text: None,
    )
    with tempfile.TemporaryDirectory() as folder:
        sit_quietly(Path(folder) / "warm", 2)
        measured = _timed(20 * queries, lambda: sit_quietly(Path(folder) / "run", queries))
        assert (Path(folder) / "run" / "manifest.json").exists()
    return measured


async def _client_alone(calls: int, concurrency: int, url: str) -> dict[str, float]:
    from cultural_palette.training.synthesis.pace import Pace
    from cultural_palette.training.synthesis.teacher_servers import TeacherServers

    body = {"model": "teacher", "messages": [{"role": "user", "content": "x" * 1500}]}
    async with TeacherServers([url], None, Pace(concurrency)) as servers:
        return await _many(calls, concurrency, lambda: servers.complete(body, 60))


async def _langchain(calls: int, concurrency: int, url: str) -> dict[str, float]:
    from langchain_core.messages import HumanMessage

    from cultural_palette.models import ModelRef, Sampling, ask

    ref, messages = ModelRef("openai", "teacher", url), [HumanMessage("x" * 1500)]
    return await _many(calls, concurrency, lambda: ask(ref, Sampling(0.7), messages, timeout_s=60))


async def _many(calls: int, concurrency: int, one: Callable[[], Awaitable[Any]]) -> dict[str, float]:
    turns = iter(range(calls + concurrency))

    async def work() -> None:
        for _ in turns:
            await one()

    await asyncio.gather(*(one() for _ in range(concurrency)))
    started, used = time.perf_counter(), _cpu_s()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return _rate(calls + concurrency, time.perf_counter() - started, _cpu_s() - used)


def _timed(calls: int, work: Callable[[], Any]) -> dict[str, float]:
    started, used = time.perf_counter(), _cpu_s()
    work()
    return _rate(calls, time.perf_counter() - started, _cpu_s() - used)


def _rate(calls: int, seconds: float, cpu_s: float) -> dict[str, float]:
    return {
        "calls": calls,
        "calls_a_second": round(calls / seconds, 1),
        "cpu_ms_a_call": round(1000 * cpu_s / calls, 3),
    }


def _text(prompt: str) -> str:
    return VERDICT if "passed" in prompt else ANSWER


def _row(text: str) -> dict[str, Any]:
    return {
        "text": text,
        "finish": "stop",
        "usage": {"input_tokens": 300, "output_tokens": 90},
        "seconds": 0.0,
    }


def _cpu_s() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def resident_mib() -> float:
    """MiB that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    from importlib.metadata import version

    names = ("langgraph", "aiohttp", "langchain-openai")
    return {name: version(name) for name in names} | {
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


# -- the server, in a process of its own: as little of it as HTTP/1.1 lets ---------------------------------


def _response(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "teacher",
        "choices": [choice],
        "usage": {"prompt_tokens": 300, "completion_tokens": 90, "total_tokens": 390},
    }
    data = json.dumps(body).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    )


class _Chat(asyncio.Protocol):
    def __init__(self, latency_s: float) -> None:
        self.latency_s, self.sent = latency_s, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.sent += data
        while (end := self.sent.find(b"\r\n\r\n")) >= 0:
            head = self.sent[:end].lower()
            length = 0
            if b"content-length:" in head:
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            if len(self.sent) < end + 4 + length:
                return
            body, self.sent = self.sent[end + 4 : end + 4 + length], self.sent[end + 4 + length :]
            reply = REPLIES[b"passed" in body]
            asyncio.get_running_loop().call_later(self.latency_s, self.transport.write, reply)


REPLIES = (_response(ANSWER), _response(VERDICT))


def serve_chat(ready: Connection, latency_s: float) -> None:
    """Serve until terminated; sends its port through `ready`."""

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Chat(latency_s), "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


if __name__ == "__main__":
    main()
