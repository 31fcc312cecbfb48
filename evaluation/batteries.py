"""Which questions belong to one battery: so alike that to train on one is to have seen the others.

Two questions stand in one battery when, dropping don't-know options,
- they have the same options and begin with the same OPENING words ("How important is ... in your life?"), or
- they have the same options and share ALIKE_SAME of their words, or
- they share ALIKE_ANY of their words, whatever the options (another wave's wording).
Shares are of the words that either has (Jaccard); batteries are closed under "and so on".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cultural_palette.evaluation.labels import has_opinion

OPENING, ALIKE_SAME, ALIKE_ANY = 6, 0.6, 0.8


def find_batteries(questions: Mapping[str, tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Battery by question id, of texts and options by question id. A battery is named by its least id."""
    parent = {key: key for key in questions}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    def join(a: str, b: str) -> None:
        first, second = sorted((root(a), root(b)))
        parent[second] = first

    words = {key: re.findall(r"\w+", text.casefold()) for key, (text, _) in questions.items()}
    choices = {key: _choices(options) for key, (_, options) in questions.items()}
    openings: dict[tuple[object, ...], str] = {}
    for key in questions:
        if len(words[key]) > OPENING:
            join(openings.setdefault((choices[key], *words[key][:OPENING]), key), key)
    bits = _bits(words)
    by_size = sorted(questions, key=lambda key: (bits[key].bit_count(), key))
    for place, key in enumerate(by_size):
        size = bits[key].bit_count()
        for other in by_size[place + 1 :]:
            if size < ALIKE_SAME * bits[other].bit_count():
                break
            if parent[key] == parent[other] and parent[key] in (key, other):
                continue
            common = (bits[key] & bits[other]).bit_count()
            alike = common / max(1, (bits[key] | bits[other]).bit_count())
            if alike >= ALIKE_ANY or (alike >= ALIKE_SAME and choices[key] == choices[other]):
                join(key, other)
    return {key: root(key) for key in questions}


def _choices(options: Sequence[str]) -> tuple[str, ...]:
    return tuple(" ".join(option.casefold().split()) for option in options if has_opinion(option))


def _bits(words: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Each question's words as the set bits of a number."""
    places: dict[str, int] = {}
    return {
        key: sum({1 << places.setdefault(word, len(places)) for word in text}) for key, text in words.items()
    }
