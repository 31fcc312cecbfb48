"""Choosing among options: the distribution off a model's reply, in one order of the options or in several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from cultural_palette.models import Blend, ModelRef, read
from cultural_palette.models.readout import Reading
from cultural_palette.nodes.knobs import Knobs
from cultural_palette.nodes.turn import as_shares
from cultural_palette.option_orders import in_order, orders_of
from cultural_palette.orders import Averaged
from cultural_palette.questions import Question

LEAST_MASS = 0.01
"""Below this probability on the options, all of them together, the reply was about something else."""


class Choice(NamedTuple):
    """What was chosen, as an update of the state; the tokens it took; and the blend of the pass that chose,
    where the model tells it.
    """

    update: dict[str, Any]
    usage: Mapping[str, int]
    blend: Blend | None


async def choose(
    ref: ModelRef, prompt_for: Callable[[Question], Sequence[BaseMessage]], question: Question, knobs: Knobs
) -> Choice:
    """Answer, distribution and how it was read, as an update of the state.

    `prompt_for`: the prompt for the question with its options in the order in which they are shown. With
    `permutations` the distribution is the mean over so many orders.
    """
    if knobs.permutations == 1:
        reading = await _read(ref, prompt_for(question), question, knobs)
        return Choice(_update(ref, question, reading), reading.usage, reading.blend)
    orders = orders_of(len(question.options), knobs.permutations, knobs.seed)
    shown = [in_order(question, order) for order in orders]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_read(ref, prompt_for(one), one, knobs)) for one in shown]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    averaged = Averaged.over([task.result() for task in tasks], orders, question.labels, LEAST_MASS)
    update = _update(ref, question, averaged.as_reading())
    update["readout"]["permutations"] = averaged.as_dict(question.options)
    if averaged.unreadable and update["answer"] is not None:
        lost = f"{averaged.unreadable} of {averaged.orders} orders of the options could not be read by {ref}"
        update.setdefault("degraded", []).append(f"{lost}; the mean is over the others.")
    return Choice(update, averaged.usage, averaged.readings[0].blend)


async def _read(ref: ModelRef, messages: Sequence[BaseMessage], question: Question, knobs: Knobs) -> Reading:
    return await read(
        ref,
        knobs.meta_sampling,
        messages,
        question,
        timeout_s=knobs.request_timeout_s,
        method=knobs.readout,
        samples=knobs.readout_samples,
        seed=knobs.seed,
    )


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
        words = f"; it said {reading.replies[0]!r}" if reading.replies else ""
        update["degraded"] = [f"The decision of {ref} could not be read ({reading.method}){share}{words}."]
        return update
    update["answer"] = question.options[read.mode_index]
    update["distribution"] = as_shares(question.options, read)
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
