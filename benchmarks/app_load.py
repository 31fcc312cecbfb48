"""The app under load: LangGraph servers in front of replicas of a model server.

    python -m benchmarks.app_load --apps 1,2 --in-flight 8,32        # one model server
    python -m benchmarks.app_load --apps 2 --ray-serve 2             # two replicas of it under Ray Serve
    python -m benchmarks.app_load --checkpoints postgresql://...     # threads in Postgres

Every question is a thread of its own: five drafts at once, an account, a decision, each a reply of
`--latency-ms` from a stand-in that speaks as vLLM does. App servers are `palette studio` processes, which run
LangGraph's server with its queue in memory (its image with Redis and Postgres wants a licence key), or of
examples/fastapi, of which any number share a Postgres.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

MODELS = ("africa", "america", "asia", "europe", "oceania", "meta", "base")
REPLY = " ".join(["A good day begins with those whom one knows and ends among them."] * 5)
QUESTION = {"country": "KEN", "query": "What makes a good day?"}
KEY = "of-the-measurement"
EXAMPLE = Path(__file__).parents[1] / "examples" / "fastapi"
START_S = 180.0
TICKS = os.sysconf("SC_CLK_TCK")


@click.group(invoke_without_command=True)
@click.option("--apps", default="1,2", show_default=True, help="Numbers of app servers, by commas.")
@click.option("--in-flight", default="8,32", show_default=True, help="Questions at once, by commas.")
@click.option("--questions", default=200, show_default=True, help="Of each measurement, after a warm-up.")
@click.option("--latency-ms", default=200.0, show_default=True, help="Of a reply.")
@click.option("--ray-serve", type=int, default=0, help="Put so many model replicas under Ray Serve.")
@click.option("--server", type=click.Choice(["studio", "fastapi"]), default="studio", show_default=True)
@click.option("--checkpoints", help="As PALETTE_CHECKPOINTS.  [default: SQLite, one for each app server]")
@click.pass_context
def main(
    context: click.Context, apps: str, in_flight: str, questions: int, latency_ms: float, ray_serve: int,
    server: str, checkpoints: str | None,
) -> None:  # fmt: skip
    """Questions a second, seconds a question, processor time; as one JSON object."""
    if context.invoked_subcommand:
        return
    rows = []
    models = ray_models(ray_serve, latency_ms) if ray_serve else one_model(latency_ms)
    with models as (url, model_pids), tempfile.TemporaryDirectory() as folder:
        for count in map(int, apps.split(",")):
            with app_servers(server, count, url, Path(folder) / str(count), checkpoints) as servers:
                urls, pids = [url for url, _ in servers], [pid for _, pid in servers]
                drive = drive_studio if server == "studio" else drive_fastapi
                asyncio.run(drive(urls, 4 * count, 4 * count))
                for at_once in map(int, in_flight.split(",")):
                    before = [cpu_s(group) for group in (pids, model_pids)]
                    seconds, took = asyncio.run(drive(urls, questions, at_once))
                    app_s, model_s = (
                        cpu_s(group) - was for group, was in zip((pids, model_pids), before, strict=True)
                    )
                    rows.append({
                        "apps": count, "in_flight": at_once, "questions": len(took),
                        "questions_a_second": round(len(took) / seconds, 2),
                        "p50_s": round(statistics.median(took), 2),
                        "p99_s": round(sorted(took)[int(0.99 * (len(took) - 1))], 2),
                        "least_s": round(3 * latency_ms / 1000, 2),
                        "app_cpu_ms_a_question": round(1000 * app_s / len(took), 1),
                        "models_cpu_ms_a_question": round(1000 * model_s / len(took), 1),
                    })  # fmt: skip
                    click.echo(json.dumps(rows[-1]), err=True)
    names = ("langgraph-api", "langgraph", "ray")
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    click.echo(json.dumps({"rows": rows, **machine, **{name: version(name) for name in names}}, indent=2))


async def drive_studio(urls: list[str], questions: int, at_once: int) -> tuple[float, list[float]]:
    """Ask, round LangGraph servers; see `_drive`."""
    from langgraph_sdk import get_client

    clients = [get_client(url=url) for url in urls]

    async def ask(number: int) -> None:
        client = clients[number % len(clients)]
        thread = await client.threads.create()
        state = await client.runs.wait(thread["thread_id"], "palette", input=QUESTION)
        if not isinstance(state, dict) or not state.get("answer"):
            raise click.ClickException(f"No answer: {str(state)[:500]}")

    return await _drive(ask, questions, at_once)


async def drive_fastapi(urls: list[str], questions: int, at_once: int) -> tuple[float, list[float]]:
    """Ask, round servers of examples/fastapi; see `_drive`."""
    import aiohttp

    async with aiohttp.ClientSession(headers={"x-api-key": KEY}) as session:

        async def ask(number: int) -> None:
            body = {"country": "KEN", "question": QUESTION["query"], "thread": str(uuid.uuid4())}
            async with session.post(f"{urls[number % len(urls)]}/ask", json=body) as response:
                events = [json.loads(line) async for line in response.content]
            if "decision" not in {event["type"] for event in events}:
                raise click.ClickException(f"No answer: {str(events[-1:])[:500]}")

        return await _drive(ask, questions, at_once)


async def _drive(
    ask: Callable[[int], Awaitable[None]], questions: int, at_once: int
) -> tuple[float, list[float]]:
    """Seconds of all, and of each. A question that fails ends the measurement."""
    turns, took = iter(range(questions)), []

    async def work() -> None:
        for number in turns:
            began = time.perf_counter()
            await ask(number)
            took.append(time.perf_counter() - began)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return time.perf_counter() - started, took


@contextlib.contextmanager
def app_servers(
    server: str, count: int, models_url: str, folder: Path, checkpoints: str | None
) -> Iterator[list[tuple[str, int]]]:
    """The processes, each with its address and process id."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PALETTE_", "OPENAI_", "LANG"))}
    parts = "".join(f'{part} = "openai:{part}@{models_url}/v1"\n' for part in MODELS)
    environment |= {"PALETTE_CHECKPOINTS": checkpoints} if checkpoints else {}
    environment |= {"PALETTE_SERVER_KEY": KEY} if server == "fastapi" else {}
    started: list[tuple[str, subprocess.Popen[bytes]]] = []
    try:
        for number in range(count):
            (folder / str(number)).mkdir(parents=True)
            (folder / str(number) / "palette.toml").write_text(f"[models]\n{parts}")
            port = free_port()
            studio = [sys.executable, "-m", "cultural_palette", "studio"]
            fastapi = [
                sys.executable,
                "-m",
                "uvicorn",
                "--app-dir",
                str(EXAMPLE),
                "app:app",
                "--no-access-log",
            ]
            command = [*(studio if server == "studio" else fastapi), "--port", str(port)]
            with (folder / f"{number}.log").open("wb") as log:
                process = subprocess.Popen(
                    command, cwd=folder / str(number), env=environment, stdout=log, stderr=log
                )
            started.append((f"http://127.0.0.1:{port}", process))
        for url, process in started:
            wait_for(f"{url}/ok", process)
        yield [(url, process.pid) for url, process in started]
    finally:
        for _, process in started:
            process.send_signal(signal.SIGINT)
        for _, process in started:
            process.wait(30)


@contextlib.contextmanager
def one_model(latency_ms: float) -> Iterator[tuple[str, list[int]]]:
    """One stand-in without anything before it."""
    port = free_port()
    command = [*stand_in(latency_ms), "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}", [process.pid]
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def ray_models(count: int, latency_ms: float) -> Iterator[tuple[str, list[int]]]:
    """So many replicas of the stand-in, as `palette serve up --print --format ray-serve` lays them out."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as Ray spells it
    import ray
    from ray import serve

    from cultural_palette.serving.ray_serve import ReplicaSettings, ServerReplica

    ray.init("local", num_cpus=count + 1, object_store_memory=80 * 2**20, include_dashboard=False,
             _node_ip_address="127.0.0.2", log_to_driver=False)  # fmt: skip
    try:
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        settings = ReplicaSettings(
            arguments=("serve", "--host", "", "--port", ""), models=MODELS, key_from=None,
            command=tuple(stand_in(latency_ms)),
        )  # fmt: skip
        wide: Any = {"max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 0.5}}
        server: Any = serve.deployment(ServerReplica, name="server", num_replicas=count, **wide)
        serve.run(server.bind(settings), name="models", route_prefix="/models")
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        yield f"http://127.0.0.1:{port}/models", [pid for pid in pids if is_part_of_serve(pid)]
    finally:
        serve.shutdown()
        ray.shutdown()


def stand_in(latency_ms: float) -> list[str]:
    """The command before `serve`."""
    return [sys.executable, str(Path(__file__)), "model", "--latency-ms", str(latency_ms)]


@main.command(name="model")
@click.option("--latency-ms", type=float, required=True)
@click.argument("word")
@click.option("--host", required=True)
@click.option("--port", type=int, required=True)
def model(latency_ms: float, word: str, host: str, port: int) -> None:
    """A stand-in for a model server, until terminated."""
    from aiohttp import web

    words = REPLY.split(" ")
    usage = {"prompt_tokens": 300, "completion_tokens": len(words), "total_tokens": 300 + len(words)}

    def chunk(kind: str, **more: Any) -> dict[str, Any]:
        return {"id": "x", "object": kind, "created": 1, "model": "x", **more}

    async def names(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name, "owned_by": "vllm"} for name in MODELS]})

    async def health(request: web.Request) -> web.Response:
        return web.Response()

    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        await asyncio.sleep(latency_ms / 1000)
        if not body.get("stream"):
            message = {"role": "assistant", "content": REPLY}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response(chunk("chat.completion", choices=[choice], usage=usage))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events = [
            chunk("chat.completion.chunk", choices=[{"index": 0, "delta": {"content": f"{text} "}}])
            for text in words
        ]
        events += [
            chunk("chat.completion.chunk", choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
            chunk("chat.completion.chunk", choices=[], usage=usage),
        ]
        await response.write(
            "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"
        )
        return response

    app = web.Application()
    app.router.add_get("/v1/models", names)
    app.router.add_get("/health", health)
    app.router.add_post("/v1/chat/completions", complete)
    web.run_app(app, host=host, port=port, print=None, access_log=None)


def is_part_of_serve(pid: int) -> bool:
    """Whether it is a process of Ray Serve's or a stand-in under it, begun by this one."""
    with contextlib.suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"app_load" in title and b"guard.py" not in title and pid != os.getpid():
            return True
        return (title.startswith(b"ray::") and b"Serve" in title) or title.startswith(
            (b"ray::Proxy", b"ray::Address")
        )
    return False


def cpu_s(pids: list[int]) -> float:
    """Processor seconds of these processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until it answers."""
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    raise click.ClickException(f"{url} does not answer.")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    main()
