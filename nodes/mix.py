"""Modular pluralism, distributional mode: the mean of the decisions given each comment (Feng et al. 2024)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.runtime import Runtime

from cultural_palette.countries import find_country
from cultural_palette.distributions import Distribution
from cultural_palette.errors import QuestionError
from cultural_palette.models import BASE
from cultural_palette.nodes.choose import Choice, choose
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import PaletteState, model_of, question_of
from cultural_palette.nodes.turn import Decision, as_shares, draft_texts, end_of_turn, mean_mass, summed
from cultural_palette.prompts import render


async def mix(state: PaletteState, runtime: Runtime[PaletteContext], *, part: str = BASE) -> dict[str, Any]:
    """`part` decides once for each comment, with that comment as its account, shown as memory shows a single
    one; the distributions' plain mean is the answer. A decision that can not be read is left out and said, as
    a lost draft is; fewer than `min_drafts` make no answer. Raises QuestionError without options.
    """
    knobs, question, ref = knobs_of(runtime), question_of(state), model_of(state, part)
    if not question.options:
        raise QuestionError("The distributional mode mixes distributions: it needs options.")
    texts, template = draft_texts(state), await knobs.template("decide_option", ref)
    country, names = find_country(state["country"]).in_text, state["communities"]

    async def given(comment: str) -> Choice:
        return await choose(
            ref,
            lambda shown: render(
                "decide_option",
                template=template,
                account=comment,
                country=country,
                question=shown.text,
                options=shown.lettered(),
            ),
            question,
            knobs,
        )

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {
                key: group.create_task(given(f"{names.get(key, key)}: {text}")) for key, text in texts.items()
            }
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    decisions = {key: task.result() for key, task in tasks.items()}
    read = {key: choice.update for key, choice in decisions.items()}
    shares = {key: update["distribution"] for key, update in read.items() if update["distribution"]}
    enough = len(shares) >= min(knobs.min_drafts, len(state["drafts"]))
    whole: dict[str, float] | None = None
    if enough:
        mean = Distribution.mix([Distribution(tuple(share.values())) for share in shares.values()])
        whole = as_shares(question.options, mean)
    text = max(whole, key=lambda option: whole[option]) if whole else None
    update: dict[str, Any] = {
        "answer": text,
        "distribution": whole,
        "option_mass": mean_mass([reading["option_mass"] for reading in read.values()]),
        "readout": {
            "method": next(iter(read.values()))["readout"]["method"],
            **_orders(question.options, [reading["readout"] for reading in read.values()]),
            "unreadable": len(read) - len(shares),
            "by_community": {key: reading["distribution"] for key, reading in read.items()},
        },
        "degraded": [
            f"{names.get(key, key)}: {why}"
            for key, reading in read.items()
            for why in reading.get("degraded", [])
        ],
    }
    usage = summed([choice.usage for choice in decisions.values()])
    return end_of_turn(state, runtime, Decision(update, {part: usage}))


def _orders(options: Sequence[str], readouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Orders of the options that each decision is the mean over, and an option's spread over them, mean
    over the decisions; nothing where one order was read.
    """
    averaged = [readout["permutations"] for readout in readouts if readout.get("permutations")]
    if not averaged:
        return {}
    spreads = [made["spread"] for made in averaged if made.get("spread")]
    spread = {o: sum(one[o] for one in spreads) / len(spreads) for o in options} if spreads else None
    return {"permutations": {"orders": averaged[0]["orders"], "spread": spread}}
