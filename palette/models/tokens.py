"""Tokens as readout and providers share them: spellings of a label, sums of probabilities, first tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage

from cultural_palette.models.protocol import TopTokens

HIDDEN = "nostream"
"""LangGraph's tag for replies that are not shown as they come: letters of a readout are no answer."""


def tokenisations(vocabulary: Mapping[str, int], label: str) -> list[tuple[int, ...]]:
    """Every sequence of tokens that spells the label, bare or after one space. `vocabulary`: text -> id."""

    def spell(rest: str) -> list[tuple[int, ...]]:
        if not rest:
            return [()]
        return [
            (vocabulary[rest[:cut]], *tail)
            for cut in range(1, len(rest) + 1)
            if rest[:cut] in vocabulary
            for tail in spell(rest[cut:])
        ]

    return [*spell(label), *spell(" " + label)]


def spelling_tokens(tokenizer: Any) -> dict[str, int]:
    """Text of each token that decodes to letters and spaces on its own -> id: what `tokenisations` takes."""
    special = set(tokenizer.all_special_ids)
    table = {}
    for index in range(len(tokenizer)):
        text = tokenizer.decode([index])
        if (index not in special and text and text.replace(" ", "").isalpha()) or text == " ":
            table[text] = index
    return table


def log_sum_exp(values: Sequence[float]) -> float:
    """log(sum(exp(values))), natural; minus infinity for no values or all of them minus infinity."""
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(value - top) for value in values))


def top_tokens_of(message: AIMessage) -> TopTokens | None:
    """The likeliest first tokens of a reply that was asked for them; None when it brought none."""
    content = (message.response_metadata.get("logprobs") or {}).get("content")
    if not content or not content[0].get("top_logprobs"):
        return None
    entries = content[0]["top_logprobs"]
    return TopTokens(tuple((entry["token"], entry["logprob"]) for entry in entries), message)


def usage_of(message: AIMessage) -> dict[str, int] | None:
    """Tokens in and out of a reply, `None` when the model did not say, or said what can not be."""
    usage = message.usage_metadata
    return usage and counted(usage["input_tokens"], usage["output_tokens"], usage["total_tokens"])


def counts_in(usage: Any) -> dict[str, int] | None:
    """The same out of the `usage` of a chat completion."""
    if not isinstance(usage, Mapping):
        return None
    return counted(usage.get("prompt_tokens"), usage.get("completion_tokens"))


def counted(read: Any, written: Any, total: Any = None) -> dict[str, int] | None:
    """Tokens in and out as a server told them; None unless both are counts. A total over none of either is a
    total alone, which says nothing of them.
    """
    for count in (read, written):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            return None
    if total and not read + written:
        return None
    return {"input_tokens": read, "output_tokens": written}
