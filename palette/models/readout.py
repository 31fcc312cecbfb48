"""The distribution a model puts on the options of a question, and how it was read.

Three ways, the most faithful first: *exact* (a model that gives the log-probability of any label: the
embedded ones, and those on a vLLM server), *top_logprobs* (a server's twenty likeliest first tokens) and
*sampling* (many replies, counted). What can not be read is counted and said; it never becomes a guess.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage

from cultural_palette.distributions import Distribution
from cultural_palette.errors import ModelError
from cultural_palette.knobs import ReadoutMethod
from cultural_palette.models.protocol import Blend, Model, Sampling
from cultural_palette.models.thoughts import without_thoughts
from cultural_palette.models.tokens import HIDDEN, log_sum_exp, usage_of
from cultural_palette.questions import Question

TOP = 20
AT_ONCE = 8
SAMPLE_TOKENS = 24
SAMPLE_TEMPERATURE = 1.0
WRAPPING = "*\"'` "


@dataclass(frozen=True)
class Reading:
    """What was read. `distribution` is over the options in their order, `None` when nothing could be read.

    `option_mass`: probability (0..1) that the reply is one of the options at all; with sampling the share of
    readable replies. `unreadable`: replies that named no option, and `replies` the first of them. `samples`:
    replies drawn, `None` without sampling. `censored`: labels outside the server's top tokens; they count as
    0, and each has at most `censored_below` of the probability. `blend`: of the pass that read them.
    """

    distribution: Distribution | None
    option_mass: float | None
    method: Literal["exact", "top_logprobs", "sampling"]
    unreadable: int = 0
    samples: int | None = None
    censored: tuple[str, ...] = ()
    censored_below: float | None = None
    replies: tuple[str, ...] = ()
    usage: Mapping[str, int] = field(default_factory=dict)
    blend: Blend | None = None

    def as_dict(self) -> dict[str, Any]:
        """How it was read, in plain values, for results."""
        return {
            "method": self.method,
            "unreadable": self.unreadable,
            "samples": self.samples,
            "censored": list(self.censored),
            "censored_below": self.censored_below,
            "replies": list(self.replies),
        }

    def as_row(self) -> dict[str, Any]:
        """Everything, in JSON values, as `from_row` reads it again to the bit."""
        shares = list(self.distribution.probabilities) if self.distribution else None
        return {
            **self.as_dict(),
            "distribution": shares,
            "option_mass": self.option_mass,
            "usage": dict(self.usage),
            "blend": self.blend.as_row() if self.blend else None,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Reading:
        """A reading as `as_row` wrote it."""
        shares = row["distribution"]
        return cls(
            **{
                **row,
                "distribution": Distribution(tuple(shares)) if shares else None,
                "censored": tuple(row["censored"]),
                "replies": tuple(row["replies"]),
                "blend": Blend.from_row(row["blend"]) if row.get("blend") else None,
            }
        )


async def read_options(
    model: Model,
    messages: Sequence[BaseMessage],
    question: Question,
    *,
    method: ReadoutMethod = "auto",
    samples: int = 20,
    seed: int = 0,
) -> Reading:
    """Read the distribution over the options of `question` off the reply to `messages`.

    "auto" takes the most faithful way the model offers. A method asked for by name that the model lacks is a
    ModelError.
    """
    one_letter = all(len(label) == 1 for label in question.labels)
    if method in ("auto", "exact"):
        reading = await _exact(model, messages, question)
        if reading is not None:
            return reading
    if method == "exact":
        raise ModelError(
            "This model gives no exact log-probabilities of options: use readout 'auto' or 'sampling'."
        )
    if method == "top_logprobs" and not one_letter:
        raise ModelError(
            f"{len(question.options)} options have labels of two letters, which top_logprobs can not read: "
            "use readout 'auto' or 'sampling'."
        )
    if method == "top_logprobs":
        reading = await _top_logprobs(model, messages, question)
        if reading is None:
            raise ModelError("The model sent no log-probabilities: use readout 'auto' or 'sampling'.")
        return reading
    if method == "auto" and one_letter:
        try:
            reading = await _top_logprobs(model, messages, question)
        except Exception as error:
            if getattr(error, "status_code", None) not in (400, 422):  # how servers say "no logprobs here"
                raise
            reading = None
        if reading is not None:
            return reading
    return await _sampling(model, messages, question, samples, seed)


async def _exact(model: Model, messages: Sequence[BaseMessage], question: Question) -> Reading | None:
    """None when the model, or the server behind it, can not tell."""
    logprobs = await model.option_logprobs(messages, question.labels)
    if logprobs is None:
        return None
    distribution, mass = _normalised(logprobs.values)
    unreadable = int(distribution is None)
    return Reading(
        distribution, mass, "exact", unreadable=unreadable, usage=logprobs.usage, blend=logprobs.blend
    )


async def _top_logprobs(model: Model, messages: Sequence[BaseMessage], question: Question) -> Reading | None:
    """One reply of one token; every token that is a label, with or without space around it, counts for it.

    None when the server sent no log-probabilities.
    """
    top = await model.top_tokens(messages, TOP)
    if top is None:
        return None
    logprobs = [
        log_sum_exp([logprob for token, logprob in top.tokens if token.strip() == label])
        for label in question.labels
    ]
    distribution, mass = _normalised(logprobs)
    censored = tuple(label for label, p in zip(question.labels, logprobs, strict=True) if p == -math.inf)
    return Reading(
        distribution,
        mass,
        "top_logprobs",
        unreadable=int(distribution is None),
        censored=censored,
        censored_below=math.exp(min(logprob for _, logprob in top.tokens)) if censored else None,
        replies=() if distribution else (top.message.text,),
        usage=_usage([top.message]),
    )


async def _sampling(
    model: Model, messages: Sequence[BaseMessage], question: Question, samples: int, seed: int
) -> Reading:
    """Many replies at temperature 1, each with a seed of its own; strictly parsed."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> AIMessage:
        async with gate:
            sampling = Sampling(SAMPLE_TEMPERATURE, SAMPLE_TOKENS, seed + number)
            return await model.reply(messages, sampling, tags=[HIDDEN])

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in range(samples)]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    replies = [task.result() for task in tasks]
    counts = [0] * len(question.options)
    unread = []
    for reply in replies:
        index = option_in(without_thoughts(reply.text), question)
        if index is None:
            unread.append(reply.text)
        else:
            counts[index] += 1
    readable = samples - len(unread)
    return Reading(
        Distribution.from_counts(counts) if readable else None,
        readable / samples,
        "sampling",
        unreadable=len(unread),
        samples=samples,
        replies=tuple(unread[:5]),
        usage=_usage(replies),
    )


def option_in(reply: str, question: Question) -> int | None:
    """The option a reply names: "B", "(B)", "B.", "B. Equality" or "Equality"; `None` for anything else."""
    text = " ".join(reply.split())
    options = [_plain(option) for option in question.options]
    match = re.match(r"[*\"'`(\[ ]*([A-Z]{1,2})(?![A-Za-z0-9'])[\])*.:\"'` -]*", text)
    if match and match[1] in question.labels:
        index = question.labels.index(match[1])
        if _plain(text[match.end() :]) in ("", options[index]):
            return index
    return options.index(_plain(text)) if _plain(text) in options else None


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(WRAPPING).rstrip(".").strip(WRAPPING).casefold()


def _normalised(logprobs: Sequence[float]) -> tuple[Distribution | None, float]:
    if all(value == -math.inf for value in logprobs):
        return None, 0.0
    return Distribution.from_logprobs(logprobs)


def _usage(messages: Sequence[AIMessage]) -> dict[str, int]:
    """Tokens of all replies; empty when one of them did not say."""
    counted = [usage for message in messages if (usage := usage_of(message))]
    if len(counted) < len(messages):
        return {}
    return {key: sum(usage[key] for usage in counted) for key in ("input_tokens", "output_tokens")}
