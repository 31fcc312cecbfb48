"""The beginnings that option readings share: orders of a question's options differ from the first option on.

A stem is always read in one pass of its own, kept or not, so a reading depends on its prompt alone.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

MOST_BYTES = 256 * 2**20

Key = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Stem:
    """What passes over a prompt's beginning left: the model's cache, and the router's weights summed over its
    tokens, by layer, (1, communities) each.
    """

    cache: Any
    sums: Mapping[int, Tensor]

    @property
    def bytes(self) -> int:
        """Memory of the cache."""
        return sum(
            t.numel() * t.element_size() for layer in self.cache.layers for t in (layer.keys, layer.values)
        )

    def copied(self) -> Stem:
        """One whose cache may grow."""
        return Stem(copy.deepcopy(self.cache), self.sums)


class Stems:
    """The stems used last, by part and tokens; at most `MOST_BYTES`, but always one."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, Stem] = OrderedDict()
        self._bytes = 0

    def get(self, part: str, ids: Sequence[int]) -> Stem | None:
        """The stem, if it is kept."""
        key = (part, tuple(ids))
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def keep(self, part: str, ids: Sequence[int], stem: Stem) -> None:
        """Keep a stem, and let go of those that were used longest ago."""
        self._kept[part, tuple(ids)] = stem
        self._bytes += stem.bytes
        while self._bytes > MOST_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].bytes


def stem_length(prompt: Sequence[int], first: Sequence[int], ends_line: Callable[[int], bool]) -> int:
    """Tokens before the last line that begins with one of `first`, the first option's label; all but the
    last token where there is none.
    """
    for place in range(len(prompt) - 1, 0, -1):
        if prompt[place] in first and ends_line(prompt[place - 1]):
            return place
    return len(prompt) - 1
