"""What the graph costs: CPU time of a run, against plain asyncio code that makes the same calls.

    python -m benchmarks.graph --json

Models answer at once with a fixed text of 60 tokens, so that all that is measured is ours and LangGraph's:
five drafts, an account, a decision among three options. Rivals make the same seven calls with the same
prompts. Each round times every way once, in turn; medians over rounds, with 95 % intervals of a bootstrap.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.checkpoint.memory import InMemorySaver

import cultural_palette as cp
from cultural_palette.graph.server.checkpoints import checkpointer_at
from cultural_palette.models import (
    PROVIDERS,
    Blend,
    ModelRef,
    OptionLogprobs,
    Provider,
    Sampling,
    TopTokens,
    ask,
    read,
)
from cultural_palette.nodes.knobs import PaletteContext
from cultural_palette.prompts import render
from cultural_palette.questions import Question

PROVIDER = "constant"
TOKENS = 60
TEXT = " ".join(["word"] * TOKENS)
QUESTION = Question.read("Which matters more to people?", ["Freedom", "Equality", "Don't know"])
COUNTRY, IN_TEXT = "KEN", "Kenya"
INPUTS: Any = {"country": COUNTRY, "query": QUESTION.text, "options": list(QUESTION.options)}
COMMUNITIES = cp.load_map("continents").communities
TIMEOUT_S = 60.0
Run = Callable[[int], Awaitable[Any]]


class ConstantChatModel(BaseChatModel):
    """Says TEXT, whole or a token at a time, as soon as it is asked."""

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for number in range(TOKENS):
            message = AIMessageChunk(content="word " if number < TOKENS - 1 else "word")
            message.chunk_position = "last" if number == TOKENS - 1 else None
            message.response_metadata = {"finish_reason": "stop"} if number == TOKENS - 1 else {}
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                await run_manager.on_llm_new_token(message.text, chunk=chunk)
            yield chunk

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        message = AIMessage(TEXT, response_metadata={"finish_reason": "stop"})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        raise NotImplementedError("asked asynchronously only")


class ConstantModel:
    """A part behind the seam that costs next to nothing."""

    def __init__(self) -> None:
        self.chat = ConstantChatModel()

    async def reply(
        self,
        messages: Sequence[BaseMessage],
        sampling: Sampling,
        *,
        tags: Sequence[str] = (),
        alone: bool = False,
    ) -> AIMessage:
        """TEXT."""
        return await self.chat.ainvoke(list(messages), {"tags": list(tags)} if tags else None)

    async def option_logprobs(
        self, messages: Sequence[BaseMessage], labels: Sequence[str]
    ) -> OptionLogprobs | None:
        """The first option a little likelier than the others."""
        return OptionLogprobs((-0.9, *[-1.3] * (len(labels) - 1)))

    async def top_tokens(self, messages: Sequence[BaseMessage], count: int) -> TopTokens | None:
        """None: the options are read exactly."""
        return None

    async def blend(self, messages: Sequence[BaseMessage], communities: Sequence[str]) -> Blend | None:
        """None: no router."""
        return None

    async def scope_notes(self, question: str, country: str, options: Sequence[str]) -> list[str]:
        """None to give."""
        return []


def prompts_of(community: str | None, drafts: Mapping[str, str], account: str) -> list[BaseMessage]:
    """The prompt of a draft, of the account (no account yet) or of the decision, as the nodes render it."""
    fields = {"country": IN_TEXT, "question": QUESTION.text}
    if community:
        return render("draft", community=community, options=QUESTION.lettered(), **fields)
    if not account:
        memory = "\n\n".join(f"{name}: {text}" for name, text in drafts.items())
        return render("regulate", memory=memory, **fields)
    return render("decide_option", account=account, options=QUESTION.lettered(), **fields)


async def by_hand(number: int) -> Any:
    """The same calls in plain asyncio, straight to the models."""
    model, sampling = ConstantModel(), Sampling()
    names = [community.name for community in COMMUNITIES]
    replies = await asyncio.gather(
        *(model.reply(prompts_of(name, {}, ""), sampling, tags=["draft"]) for name in names)
    )
    drafts = {name: reply.text for name, reply in zip(names, replies, strict=True)}
    account = (await model.reply(prompts_of(None, drafts, ""), sampling, tags=["regulate"])).text
    return await model.option_logprobs(prompts_of(None, drafts, account), QUESTION.labels)


async def through_the_seam(number: int) -> Any:
    """The same in plain asyncio through `ask` and `read`: time budgets, reasons, checks of what came."""
    refs = {community.name: ModelRef.parse(f"{PROVIDER}:{community.key}") for community in COMMUNITIES}
    meta, sampling = ModelRef.parse(f"{PROVIDER}:meta"), Sampling()
    replies = await asyncio.gather(
        *(
            ask(ref, sampling, prompts_of(name, {}, ""), timeout_s=TIMEOUT_S, tags=["draft"])
            for name, ref in refs.items()
        )
    )
    drafts = {name: reply.text for name, reply in zip(refs, replies, strict=True)}
    account = await ask(meta, sampling, prompts_of(None, drafts, ""), timeout_s=TIMEOUT_S, tags=["regulate"])
    return await read(meta, sampling, prompts_of(None, drafts, account.text), QUESTION, timeout_s=TIMEOUT_S)


def of_graph(checkpointer: Any = None, streams: str | None = None) -> Run:
    """A run of the graph, on a thread of its own where there is a checkpointer; `streams`: a stream mode."""
    graph = cp.build(checkpointer=checkpointer)
    models = {key: f"{PROVIDER}:{key}" for key in (*(c.key for c in COMMUNITIES), "meta", "base")}
    context = PaletteContext(models=models)

    async def run(number: int) -> Any:
        config: Any = (
            {"configurable": {"thread_id": f"{time.monotonic_ns()}-{number}"}} if checkpointer else None
        )
        if streams is None:
            return await graph.ainvoke(INPUTS, config, context=context)
        return [chunk async for chunk in graph.astream(INPUTS, config, context=context, stream_mode=streams)]

    return run


async def cpu_ms(run: Run, runs: int) -> float:
    """CPU ms of one run, all threads of this process: mean over `runs`, one after the other."""
    start = time.process_time()
    for number in range(runs):
        await run(number)
    return 1000 * (time.process_time() - start) / runs


async def measure(rounds: int, runs: int, postgres: str | None, seed: int) -> dict[str, Any]:
    """CPU ms a run, by way: median and 95 % bootstrap interval over rounds."""
    PROVIDERS[PROVIDER] = Provider(PROVIDER, open=_open, chat=lambda ref, sampling: ConstantChatModel())
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sqlite = await stack.enter_async_context(checkpointer_at(f"sqlite:{folder / 'threads.sqlite'}"))
        variants: dict[str, Run] = {
            "plain asyncio": by_hand,
            "plain asyncio, through ask and read": through_the_seam,
            "graph": of_graph(),
            "graph, threads in memory": of_graph(InMemorySaver()),
            "graph, threads in SQLite": of_graph(sqlite),
            "graph, stream of updates": of_graph(streams="updates"),
            "graph, stream of events with tokens": of_graph(streams="custom"),
            "graph, stream of messages": of_graph(streams="messages"),
        }
        if postgres:
            variants["graph, threads in Postgres"] = of_graph(
                await stack.enter_async_context(checkpointer_at(postgres))
            )
        for run in variants.values():
            await cpu_ms(run, 3)
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, run in variants.items():
                times[name].append(await cpu_ms(run, runs))
    draw = random.Random(seed)
    return {
        "rounds": rounds,
        "runs": runs,
        "cpu_ms": {name: _interval(values, draw) for name, values in times.items()},
    }


async def _open(ref: ModelRef) -> ConstantModel:
    return ConstantModel()


def _interval(values: Sequence[float], draw: random.Random) -> dict[str, float]:
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return {"median": statistics.median(values), "low": medians[50], "high": medians[1949]}


@click.command()
@click.option("--rounds", default=15, show_default=True, help="Rounds; each times every way once.")
@click.option("--runs", default=20, show_default=True, help="Runs of each way in a round.")
@click.option("--postgres", metavar="URL", help="A database to keep threads in; its tables are left there.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(rounds: int, runs: int, postgres: str | None, seed: int, as_json: bool) -> None:
    """Measure, and print CPU milliseconds a run."""
    result = asyncio.run(measure(rounds, runs, postgres, seed))
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(f"CPU ms a run, median of {rounds} rounds of {runs} runs, 95 % interval")
    for name, took in result["cpu_ms"].items():
        click.echo(f"  {name:<38} {took['median']:6.1f}  [{took['low']:.1f}, {took['high']:.1f}]")


if __name__ == "__main__":
    main()
