"""Asking a model: the one place where a call is made, timed, kept, and named when it fails.

With a call store in force (`cultural_palette.calls`) every call is kept under a key made here, by one rule:
everything that shapes a reply counts, and a seed counts only where something is drawn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from cultural_palette.calls import Call, call_store, once
from cultural_palette.errors import ModelError, PaletteError
from cultural_palette.jsonl import HALF_PAIR
from cultural_palette.knobs import ReadoutMethod
from cultural_palette.models.faults import reason
from cultural_palette.models.http import budget
from cultural_palette.models.protocol import BLEND, Blend, Model, Reply, Sampling
from cultural_palette.models.readout import Reading, read_options
from cultural_palette.models.references import ModelRef
from cultural_palette.models.streaming import streaming_to
from cultural_palette.models.thoughts import AnswerPieces, without_thoughts
from cultural_palette.models.tokens import usage_of
from cultural_palette.questions import Question

_TOGETHER: ContextVar[bool] = ContextVar("palette_replies_together", default=False)
BROKEN = ("abort", "error")
"""Ends that vLLM and routers before other servers give to a reply that did not come to one."""


def chat_model(ref: ModelRef, sampling: Sampling) -> BaseChatModel:
    """A new LangChain chat model of one's own. It may read files (certificates, weights)."""
    return ref.runs_on.chat_model(ref, sampling)


async def open_model(ref: ModelRef) -> Model:
    """The model for the running loop, made once, with this loop's connections."""
    return await ref.runs_on.open_model(ref)


def call_of(
    kind: str, ref: ModelRef, messages: Sequence[BaseMessage], sampling: Sampling, **more: Any
) -> Call:
    """What a call is kept under: its kind, its model and that one's weights, and all that shapes the reply.
    `sampling` without a seed where nothing is drawn, so that runs of other seeds share it.
    """
    request = {
        "messages": [[message.type, message.text] for message in messages],
        **sampling.as_request(),
        **more,
    }
    return Call(kind, str(ref), request, ref.runs_on.revision_of(ref))


@contextmanager
def replies_together(together: bool = True) -> Iterator[None]:
    """Let replies that are kept share an embedded palette's batches, inside the block and in every task
    started there: several times quicker, and no longer the same bits whatever else is asked. They are kept
    under keys of their own.
    """
    token = _TOGETHER.set(together)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


async def ask(
    ref: ModelRef,
    sampling: Sampling,
    messages: Sequence[BaseMessage],
    *,
    timeout_s: float,
    tags: Sequence[str] = (),
    on_token: Callable[[str], None] | None = None,
) -> Reply:
    """One reply within `timeout_s`, retries included; with a call store in force kept there, and made once.
    A ModelError says who failed, why, and the way out. `on_token` gets each piece of the reply as it is
    written; a kept reply comes whole, in the Reply.
    """
    if call_store() is None:
        with streaming_to(on_token and AnswerPieces(on_token)):
            return await _ask(ref, sampling, messages, timeout_s, tags)

    together = ref.in_process and _TOGETHER.get()

    async def produce() -> dict[str, Any]:
        # a reply that is kept must be the one that any other run would have got: it is decoded alone
        return (await _ask(ref, sampling, messages, timeout_s, tags, alone=not together)).as_row()

    # at temperature 0 nothing is drawn: runs of other seeds share the reply
    counted = replace(sampling, seed=None) if sampling.temperature == 0 else sampling
    # in a thread: the weights' revision is read off their files
    more = {"together": True} if together else {}
    call = await asyncio.to_thread(call_of, "reply", ref, messages, counted, **more)
    return Reply.from_row(await once(call, produce))


async def _ask(
    ref: ModelRef,
    sampling: Sampling,
    messages: Sequence[BaseMessage],
    timeout_s: float,
    tags: Sequence[str],
    alone: bool = False,
) -> Reply:
    start = time.perf_counter()
    async with guarded(ref, timeout_s):
        model = await open_model(ref)
        message = await model.reply(messages, sampling, tags=tags, alone=alone)
    whole = message.text.strip()
    finish = message.response_metadata.get("finish_reason")
    if (finish is None and not ref.in_process) or finish in BROKEN:
        raise ModelError(f"The reply of {ref.described} broke off after {len(whole)} characters. Ask again.")
    if finish == "content_filter":
        raise ModelError(f"A filter of its server stopped the reply of {ref.described}.")
    text = HALF_PAIR.sub("\ufffd", without_thoughts(whole))
    if not text:
        what = "thought and gave no answer" if whole else "gave an empty reply"
        action = "answered" if whole else "said anything"
        hint = f" It used up its tokens before it {action}: raise max_tokens." if finish == "length" else ""
        raise ModelError(f"{ref.described} {what}.{hint}")
    row = message.response_metadata.get(BLEND)
    blend = Blend.from_row(row) if row else None
    return Reply(text, time.perf_counter() - start, message, usage_of(message), finish, blend)


async def read(
    ref: ModelRef,
    sampling: Sampling,
    messages: Sequence[BaseMessage],
    question: Question,
    *,
    timeout_s: float,
    method: ReadoutMethod = "auto",
    samples: int = 20,
    seed: int = 0,
) -> Reading:
    """The distribution over the options of `question`, off the reply to `messages`; kept as `ask` keeps."""

    async def reading() -> Reading:
        async with guarded(ref, timeout_s):
            model = await open_model(ref)
            return await read_options(model, messages, question, method=method, samples=samples, seed=seed)

    if call_store() is None:
        return await reading()

    async def produce() -> dict[str, Any]:
        return (await reading()).as_row()

    drawn = not (ref.runs_on.exact and method in ("auto", "exact"))

    more = {"labels": question.labels, "method": method, "samples": samples}
    counted = replace(sampling, seed=seed if drawn else None)
    call = await asyncio.to_thread(call_of, "readout", ref, messages, counted, **more)
    return Reading.from_row(await once(call, produce))


async def blend_of(
    ref: ModelRef, messages: Sequence[BaseMessage], communities: Sequence[str], *, timeout_s: float
) -> Blend | None:
    """How the communities were mixed over this prompt; None for a model without a router. Raises ModelError
    when its weights can not be had.
    """
    async with guarded(ref, timeout_s):
        return await (await open_model(ref)).blend(messages, communities)


async def scope_notes_of(ref: ModelRef, question: Question, country: str, *, timeout_s: float) -> list[str]:
    """What a reader should know when question or country (ISO code) lie outside what this model knows."""
    async with guarded(ref, timeout_s):
        return await (await open_model(ref)).scope_notes(question.text, country, question.options)


@asynccontextmanager
async def guarded(ref: ModelRef, timeout_s: float) -> AsyncIterator[None]:
    """A time budget around a model, retries included, out of which only a ModelError comes: it says who
    failed, why, and the way out.
    """
    try:
        async with asyncio.timeout(timeout_s):
            try:
                with budget(timeout_s):
                    yield
            except PaletteError:
                raise
            except Exception as error:  # a chat model is foreign code: servers, SDKs and users' own classes
                raise ModelError(reason(ref, error)) from error
    except TimeoutError:
        raise ModelError(f"{ref.described} did not answer within {timeout_s:g} s.") from None
