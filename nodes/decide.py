"""Final decision: the most fitting option with its distribution, or a free answer (method, section 5.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.runtime import Runtime

from graph.context import Knobs, PaletteContext, knobs_of
from graph.state import PaletteState, model_of, question_of
from palette.calls import kept
from palette.countries import find_country
from palette.models import META, ModelRef, ask, guarded, open_model
from palette.prompts import render
from palette.questions import Question
from palette.readout import Reading, read_options

LEAST_MASS = 0.01
"""Below this probability on the options, all of them together, the reply was about something else."""
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
        template = knobs.prompts["decide_option"]
        messages = render("decide_option", template=template, options=question.lettered(), **fields)
        update, usage = await _choose(ref, messages, question, knobs)
    else:
        messages = render("decide", template=knobs.prompts["decide"], **fields)
        reply = await ask(
            ref, knobs.meta_sampling, messages, timeout_s=knobs.request_timeout_s, tags=["decide"]
        )
        update, usage = {"answer": reply.text}, reply.usage or {}
        streamed = reply.message.id
    async with guarded(ref, knobs.request_timeout_s):
        model = await open_model(ref, knobs.meta_sampling)
        blend = await _blend(model, messages)
        notes = await _scope_notes(model, question, state["country"])
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
        "messages": said,
    }


async def _choose(
    ref: ModelRef, messages: Sequence[BaseMessage], question: Question, knobs: Knobs
) -> tuple[dict[str, Any], Mapping[str, int]]:
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
    reading = Reading.from_row(await kept("readout", ref, messages, shape, asked))
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
        return update, reading.usage
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
    return update, reading.usage


async def _blend(model: BaseChatModel, messages: Sequence[BaseMessage]) -> dict[str, Any] | None:
    """How much each community weighed in the decision; None for a model without a router."""
    ablend: Any = getattr(model, "ablend", None)
    return await ablend(list(messages)) if ablend else None


async def _scope_notes(model: BaseChatModel, question: Question, country: str) -> list[str]:
    scope_notes: Any = getattr(model, "scope_notes", None)
    return list(await scope_notes(question.text, country, question.options)) if scope_notes else []
