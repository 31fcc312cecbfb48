"""The full graph on served models: items a second against the servers' bound, and the client's CPU time.

    python -m benchmarks.serving --client --json   # the client alone, on a server that answers at once
    palette serve nano                             # in another terminal; then, in its folder:
    python -m benchmarks.serving --json

Rivals, on the same servers and prompts, at temperature 0. *Bound*: the graph's own requests, recorded and
fired with bare aiohttp as if none had to wait for another. *One at a time*: the same graph, an item after
the other. *transformers generate*: the nano palette's checkpoints in this process, a prompt after the
other, as Modular Pluralism's scripts do it. A first round fills the servers' prefix caches and is not
counted; then every round runs graph and bound in turn. CPU time is the client process' own, so it holds on
a busy machine, where items a second do not.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

COUNTRIES = ("KEN", "NZL", "JPN", "BRA", "DEU", "NGA", "IND", "CAN")
QUESTIONS = (
    ("Which matters more to people: freedom or equality?", ("Freedom", "Equality", "Don't know")),
    ("How do people share a meal?", ("From one dish", "Each from their own")),
    ("Is work more important than leisure?", ("Yes", "No", "Don't know")),
    ("How important is religion in daily life?", ("Very", "Rather", "Not very", "Not at all")),
)
REPLY = " ".join(["word"] * 60)
LETTERS = {" ": 1, "A": 2, " A": 3, "B": 4, " B": 5, "C": 6, " C": 7, "D": 8, " D": 9}


@click.command()
@click.option("--items", default=128, show_default=True, help="Items a round.")
@click.option("--at-once", default=64, show_default=True, help="Items in flight.")
@click.option("--rounds", default=3, show_default=True, help="Counted rounds, after one to warm up.")
@click.option("--slow-items", default=8, show_default=True, help="Items of the rivals that go one by one.")
@click.option("--max-tokens", default=80, show_default=True, help="Longest reply.")
@click.option("--client", is_flag=True, help="The client alone, against a server that answers at once.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    items: int, at_once: int, rounds: int, slow_items: int, max_tokens: int, client: bool, as_json: bool
) -> None:
    """Measure, and print medians and ratios."""
    load = Load(items, at_once, rounds, slow_items, max_tokens)
    result = asyncio.run(measure_client(load) if client else measure(load))
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(f"{result['what']}: {items} items a round, {at_once} in flight, {rounds} rounds, medians")
    for name, row in result["ways"].items():
        cpu = f"   {row['cpu_ms_an_item']:6.1f} ms CPU an item" if row.get("cpu_ms_an_item") else ""
        click.echo(f"  {name:<32} {row['items_a_second']:8.2f} items/s{cpu}")
    for name, ratio in result["ratios"].items():
        click.echo(f"  {name:<32} {ratio:8.2f}")


@dataclass(frozen=True)
class Load:
    """How much is asked, and how hard."""

    items: int
    at_once: int
    rounds: int
    slow_items: int
    max_tokens: int

    def inputs(self) -> list[dict[str, Any]]:
        """Questions by countries, over and over; a number makes each one different."""
        rows = []
        for number in range(self.items):
            text, options = QUESTIONS[number // len(COUNTRIES) % len(QUESTIONS)]
            country = COUNTRIES[number % len(COUNTRIES)]
            rows.append({"country": country, "query": f"{text} ({number})", "options": list(options)})
        return rows


@dataclass(frozen=True)
class Taken:
    """What one round took."""

    seconds: float
    cpu_s: float
    items: int

    def row(self) -> dict[str, float]:
        """Figures for one item."""
        return {
            "items_a_second": self.items / self.seconds,
            "cpu_ms_an_item": 1000 * self.cpu_s / self.items,
        }


async def taken(items: int, work: Callable[[], Awaitable[Any]]) -> Taken:
    """Wall and CPU time of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu, items)


async def run_graph(inputs: list[dict[str, Any]], at_once: int) -> list[dict[str, Any]]:
    """The whole palette over all inputs; every run must be whole."""
    from cultural_palette.graph.build import build_palette

    palette = build_palette("continents")
    gate = asyncio.Semaphore(at_once)

    async def one(item: dict[str, Any]) -> dict[str, Any]:
        async with gate:
            result: dict[str, Any] = await palette.ainvoke(item)  # type: ignore[arg-type]
        if lost := [why for why in result["degraded"] if why.startswith("No draft")]:
            raise RuntimeError(f"a run lost a draft: {lost}")
        return result

    return list(await asyncio.gather(*map(one, inputs)))


@contextmanager
def recorded() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Every chat request that our client sends meanwhile: (address, body)."""
    from cultural_palette.models.http import Server

    sent: list[tuple[str, dict[str, Any]]] = []
    post = Server.post

    async def noted(self: Server, path: str, body: dict[str, Any], *, root: bool = False) -> Any:
        if path == "/chat/completions":
            sent.append((self.url + path, body))
        return await post(self, path, body, root=root)

    Server.post = noted  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        Server.post = post  # type: ignore[method-assign]


async def fire(requests: list[tuple[str, dict[str, Any]]], in_flight: int) -> int:
    """All requests with nothing between them and the servers; tokens written."""
    import aiohttp

    written = 0
    gate = asyncio.Semaphore(in_flight)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(url: str, body: dict[str, Any]) -> None:
            nonlocal written
            async with gate, session.post(url, json=body) as response:
                reply = await response.json()
                if response.status != 200:
                    raise RuntimeError(f"HTTP {response.status}: {reply}")
                written += reply["usage"]["completion_tokens"]

        await asyncio.gather(*(one(url, body) for url, body in requests))
    return written


async def measure(load: Load) -> dict[str, Any]:
    """The servers that the settings name, against every rival."""
    from cultural_palette.models import close_clients
    from cultural_palette.settings import get_settings, use_settings

    inputs = load.inputs()
    flags = {"temperature": 0.0, "max_tokens": load.max_tokens, "retries": 10}
    settings = get_settings(**flags, draft_timeout_s=1800.0, request_timeout_s=1800.0)
    rows: dict[str, list[Taken]] = {"graph": [], "bound": [], "one at a time": []}
    with use_settings(settings):
        with recorded() as requests:
            results = await run_graph(inputs, load.at_once)
        for _ in range(load.rounds):
            rows["graph"].append(await taken(load.items, lambda: run_graph(inputs, load.at_once)))
            rows["bound"].append(await taken(load.items, lambda: fire(requests, 5 * load.at_once)))
        few = inputs[: load.slow_items]
        rows["one at a time"].append(await taken(len(few), lambda: run_graph(few, 1)))
        await close_clients()
    written = sum(result["usage"]["output_tokens"] for result in results)
    first = {"messages": [body["messages"] for _, body in requests]}
    slow, tokens = generate_one_by_one(
        [(body["model"], body["messages"], body["max_tokens"]) for _, body in requests],
        load.slow_items / load.items,
    )
    medians = {name: _median(takes) for name, takes in rows.items()}
    medians["transformers generate"] = {"items_a_second": slow}
    return {
        "what": "the full graph on served models",
        "with": _with(),
        "load": load.__dict__,
        "requests_an_item": len(first["messages"]) / load.items,
        "tokens_written_an_item": {"graph": written / load.items, "transformers generate": tokens},
        "ways": medians,
        "ratios": {
            "graph / bound": medians["graph"]["items_a_second"] / medians["bound"]["items_a_second"],
            "graph / one at a time": medians["graph"]["items_a_second"]
            / medians["one at a time"]["items_a_second"],
            "graph / transformers generate": medians["graph"]["items_a_second"] / slow,
        },
    }


def generate_one_by_one(
    requests: list[tuple[str, list[dict[str, str]], int]], share: float
) -> tuple[float, float]:
    """transformers' `generate` on the nano palette for an even sample of the requests: items a second, and
    tokens written an item.
    """
    import peft
    import torch
    import transformers

    from cultural_palette.embedded.engine import get_engine
    from cultural_palette.moerges.dense import router_without_biases, written_out

    engine = get_engine("nano")
    moerges = written_out(engine.colours, router_without_biases(engine.colours, engine.manifest.blend))
    base = transformers.AutoModelForCausalLM.from_pretrained(engine.manifest.base, dtype=torch.float32)
    first, *others = engine.manifest.communities
    agents = peft.PeftModel.from_pretrained(base, engine.manifest.adapters[first], adapter_name=first).eval()
    for key in others:
        agents.load_adapter(engine.manifest.adapters[key], adapter_name=key)
    sample = requests[:: max(1, round(1 / share))]
    written, began = 0, time.perf_counter()
    for name, messages, most in sample:
        ids = torch.tensor([engine.encode([(message["role"], message["content"]) for message in messages])])
        model = moerges if name == "moerges" else agents
        if name != "moerges":
            agents.set_adapter(name)
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most
            )
        written += output.shape[1] - ids.shape[1]
    items = len(sample) / 7  # five drafts, an account, a decision
    return items / (time.perf_counter() - began), written / items


# -- the client alone ---------------------------------------------------------------------------


async def measure_client(load: Load) -> dict[str, Any]:
    """CPU time of graph and client, with our client, with ChatOpenAI, and of bare aiohttp."""
    from cultural_palette.models import close_clients
    from cultural_palette.settings import get_settings, use_settings

    inputs = load.inputs()
    rows: dict[str, list[Taken]] = {"graph, our client": [], "graph, ChatOpenAI": [], "bare aiohttp": []}
    with answering(vllm=True) as ours, answering(vllm=False) as theirs:
        requests: list[tuple[str, dict[str, Any]]] = []
        for number in range(load.rounds + 1):
            for name, url in (("graph, our client", ours), ("graph, ChatOpenAI", theirs)):
                with use_settings(get_settings(base_url=url, model="openai:m")), recorded() as sent:
                    row = await taken(load.items, lambda: run_graph(inputs, load.at_once))
                    await close_clients()
                if number:
                    rows[name].append(row)
                requests = requests or sent
            bare = await taken(load.items, partial(fire, requests, 5 * load.at_once))
            if number:
                rows["bare aiohttp"].append(bare)
    medians = {name: _median(takes) for name, takes in rows.items()}
    return {
        "what": "the client alone",
        "with": _with(),
        "load": load.__dict__,
        "ways": medians,
        "ratios": {
            "ChatOpenAI / our client, CPU": medians["graph, ChatOpenAI"]["cpu_ms_an_item"]
            / medians["graph, our client"]["cpu_ms_an_item"],
        },
    }


@contextmanager
def answering(*, vllm: bool) -> Iterator[str]:
    """A server in a process of its own that answers at once: its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, vllm), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def _answer(pipe: Any, vllm: bool) -> None:
    from aiohttp import web

    usage = {"prompt_tokens": 90, "completion_tokens": 60, "total_tokens": 150}

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": REPLY},
            "finish_reason": "stop",
        }
        if body.get("logprobs"):
            top = [
                {
                    "token": f"token_id:{index}" if vllm else text,
                    "logprob": -2.0 - index if index > 1 else -20,
                    "bytes": None,
                }
                for text, index in LETTERS.items()
            ]
            choice["logprobs"] = {"content": [{**top[1], "top_logprobs": top}]}
        whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return web.json_response(whole | {"usage": usage})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "owned_by": "vllm" if vllm else "me"}]})

    async def tokenize(request: web.Request) -> web.Response:
        text = (await request.json())["prompt"]
        return web.json_response({"tokens": [LETTERS[text]] if text in LETTERS else [0, 0]})

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_get("/v1/models", models)
        app.router.add_post("/tokenize", tokenize)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(serve())


def _median(takes: list[Taken]) -> dict[str, Any]:
    rows = [take.row() for take in takes]
    speeds = [row["items_a_second"] for row in rows]
    return {
        **{key: statistics.median(row[key] for row in rows) for key in rows[0]},
        "spread": [min(speeds), max(speeds)],
    }


def _with() -> dict[str, str]:
    from cultural_palette.provenance import installed_versions

    names = ("aiohttp", "openai", "langchain-core", "langchain-openai", "langgraph")
    return {"machine": platform.machine()} | installed_versions(names)


if __name__ == "__main__":
    main()
