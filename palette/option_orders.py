"""The orders that a question's options are shown in.

Models favour places ("A", the last one). The first order is always the question's own; two are that and its
reverse, which keep a scale a scale and give every option the same place in the mean. More are drawn as rows
of cyclic Latin squares, so that after every `size` orders each option has stood in each place equally often;
a preference for places alone then averages to uniform.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import replace

from cultural_palette.questions import Question

Order = tuple[int, ...]


def orders_of(size: int, count: int, seed: int = 0) -> list[Order]:
    """`count` different orders of `size` options; all size! of them when there are not more.

    An order names the option that stands in each place. Same seed, same orders; two are always own and
    reverse.
    """
    if size < 1 or count < 1:
        raise ValueError(f"expected at least 1 option and 1 order, got {size} and {count}")
    own = tuple(range(size))
    if count == 2 and size > 1:
        return [own, own[::-1]]
    if count >= math.factorial(size):
        return list(itertools.permutations(own))
    return list(itertools.islice(_rows(own, random.Random(seed)), count))


def _rows(own: Order, rng: random.Random) -> Iterator[Order]:
    """Rows of Latin squares, the first of them around the question's own order, without repeats."""
    seen: set[Order] = set()
    first = own
    while True:
        turns = list(range(1, len(own)))
        rng.shuffle(turns)
        square = [tuple(first[turn:] + first[:turn]) for turn in (0, *turns)]
        if square[0] not in seen:  # squares share all rows or none: a row tells its square
            seen.update(square)
            yield from square
        shuffled = list(own)
        rng.shuffle(shuffled)
        first = tuple(shuffled)


def in_order(question: Question, order: Order) -> Question:
    """The question with its options in another order."""
    return replace(question, options=tuple(question.options[index] for index in order))
