"""Final decision: the most fitting option with its distribution, or a free answer (method, section 5.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.runtime import Runtime

from cultural_palette.blend import NOT_AVAILABLE, served_blend
from cultural_palette.calls import kept
from cultural_palette.countries import find_country
from cultural_palette.determinism import promise
from cultural_palette.errors import ModelError
from cultural_palette.graph.context import Knobs, PaletteContext, knobs_of
from cultural_palette.graph.state import PaletteState, model_of, question_of
from cultural_palette.models import META, ModelRef, ask, guarded, open_model
from cultural_palette.orders import Averaged, in_order, orders_of
from cultural_palette.prompts import render
from cultural_palette.questions import Question
from cultural_palette.readout import Reading, read_options
from cultural_palette.served import ServedChatModel

LEAST_MASS = 0.01
"""Below this probability on the options, all of them together, the reply was about something else."""
SERVED = "openai"
NO_ANSWER = "(no answer that could be read)"


async def decide(
    state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = META
) -> dict[str, Any]:
    """Decide with the account in mind: the regulated one, or the drafts as they are when self-regulation
    is left out.
    """
    knobs, question, ref = knobs_of(runtime), question_of(state), model_of(state, part)
    account = state.get("regulated") or state.get("memory") or ""
    fields = {
        "account": account,
        "country": find_country(state["country"]).in_text,
        "question": question.text,
    }
    streamed: str | None = None
    if question.options:

        def prompt(asked: Question) -> list[BaseMessage]:
            template = knobs.prompts["decide_option"]
            return render("decide_option", template=template, options=asked.lettered(), **fields)

        messages = prompt(question)
        update, usage = await choose(ref, prompt, question, knobs)
    else:
        messages = render("decide", template=knobs.prompts["decide"], **fields)
        reply = await ask(
            ref, knobs.meta_sampling, messages, timeout_s=knobs.request_timeout_s, tags=["decide"]
        )
        update, usage = {"answer": reply.text}, reply.usage or {}
        streamed = reply.message.id
    async with guarded(ref, knobs.request_timeout_s):
        model = await open_model(ref, knobs.meta_sampling)
        notes = await _scope_notes(model, question, state["country"])
        blend = await _blend(model, messages)
    if blend is None and part == META and ref.provider == SERVED:
        blend, why = await _served_blend(state, messages, knobs, isinstance(model, ServedChatModel))
        notes += why
    if usage:
        update["usage"] = {"by_part": {part: usage}}
    said: list[BaseMessage] = [
        # the id of the reply that was streamed, so that a chat does not show it twice
        AIMessage(NO_ANSWER if update["answer"] is None else update["answer"], id=streamed)
    ]
    asked = state.get("asked")
    if not (asked and asked["in_chat"]):
        said.insert(0, HumanMessage(question.text))
    # query and options are forgotten at a checkpoint: a run resumed here still returns them
    return {
        **update,
        "query": question.text,
        "options": list(question.options),
        "blend": blend["communities"] if blend else None,
        "blend_layers": blend["layers"] if blend else None,
        "notes": notes,
        "determinism": promise(map(ModelRef.parse, state["parts"].values()), knobs.seed),
        "messages": said,
    }


async def choose(
    ref: ModelRef, shown: Callable[[Question], Sequence[BaseMessage]], question: Question, knobs: Knobs
) -> tuple[dict[str, Any], Mapping[str, int]]:
    """Answer, distribution and how it was read, as an update of the state; and the tokens it took.

    `shown`: the prompt for the question with its options in the order in which they are shown. With
    `permutations` the distribution is the mean over so many orders.
    """
    if knobs.permutations == 1:
        reading = await _read(ref, shown(question), question, knobs)
        return _update(ref, question, reading), reading.usage
    orders = orders_of(len(question.options), knobs.permutations, knobs.seed)
    asked = [in_order(question, order) for order in orders]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_read(ref, shown(each), each, knobs)) for each in asked]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    averaged = Averaged.over([task.result() for task in tasks], orders, question.labels, LEAST_MASS)
    update = _update(ref, question, averaged.as_reading())
    update["readout"]["permutations"] = averaged.as_dict(question.options)
    if averaged.unreadable and update["answer"] is not None:
        lost = f"{averaged.unreadable} of {averaged.orders} orders of the options could not be read by {ref}"
        update.setdefault("degraded", []).append(f"{lost}; the mean is over the others.")
    return update, averaged.usage


async def _read(ref: ModelRef, messages: Sequence[BaseMessage], question: Question, knobs: Knobs) -> Reading:
    async def asked() -> dict[str, Any]:
        async with guarded(ref, knobs.request_timeout_s):
            model = await open_model(ref, knobs.meta_sampling)
            reading = await read_options(
                model,
                messages,
                question,
                method=knobs.readout,
                samples=knobs.readout_samples,
                seed=knobs.seed,
            )
        return reading.as_row()

    shape = {
        **asdict(knobs.meta_sampling),
        "labels": question.labels,
        "method": knobs.readout,
        "samples": knobs.readout_samples,
    }
    if ref.provider == "embedded" and knobs.readout in ("auto", "exact"):
        shape["seed"] = None  # an exact reading needs none: runs of other seeds share it
    return Reading.from_row(await kept("readout", ref, messages, shape, asked))


def _update(ref: ModelRef, question: Question, reading: Reading) -> dict[str, Any]:
    """What a reading says about the answer; None with the reason where it says nothing."""
    read, mass = reading.distribution, reading.option_mass
    update: dict[str, Any] = {
        "answer": None,
        "distribution": None,
        "option_mass": mass,
        "readout": reading.as_dict(),
    }
    if read is None or (mass is not None and mass < LEAST_MASS):
        share = f": only {mass:.2%} of the reply's probability is on the options" if mass is not None else ""
        said = f"; it said {reading.replies[0]!r}" if reading.replies else ""
        update["degraded"] = [f"The decision of {ref} could not be read ({reading.method}){share}{said}."]
        return update
    update["answer"] = question.options[read.mode_index]
    update["distribution"] = dict(zip(question.options, read.probabilities, strict=True))
    if reading.method == "sampling" and reading.unreadable:
        update["degraded"] = [
            f"{reading.unreadable} of {reading.samples} sampled replies of {ref} named no option "
            "and were left out."
        ]
    if reading.censored:
        below = f" (each below {reading.censored_below:.2g})" if reading.censored_below is not None else ""
        update["degraded"] = [
            f"{ref} gave no log-probability for {', '.join(reading.censored)}{below}: "
            "counted as 0 in the distribution."
        ]
    return update


async def _blend(model: BaseChatModel, messages: Sequence[BaseMessage]) -> dict[str, Any] | None:
    """How much each community weighed in the decision; None for a model without a router."""
    ablend: Any = getattr(model, "ablend", None)
    return await ablend(list(messages)) if ablend else None


async def _served_blend(
    state: PaletteState, messages: Sequence[BaseMessage], knobs: Knobs, ours: bool
) -> tuple[dict[str, Any] | None, list[str]]:
    """The blend of a served MoErges, or why there is none. A model that also drafts is no MoErges; one that
    is not on a server of `ours` hardly is.
    """
    parts = state["parts"]
    if parts[META] in [parts[key] for key in state["communities"]]:
        return None, []
    if knobs.blend_checkpoint is None:
        return None, [NOT_AVAILABLE] if ours else []
    try:
        return await served_blend(knobs.blend_checkpoint, messages, list(state["communities"])), []
    except ModelError as error:
        return None, [f"No blend: {error}"]


async def _scope_notes(model: BaseChatModel, question: Question, country: str) -> list[str]:
    scope_notes: Any = getattr(model, "scope_notes", None)
    return list(await scope_notes(question.text, country, question.options)) if scope_notes else []
