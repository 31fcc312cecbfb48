"""A cache of keys and values with room for tokens to come: a step writes its own and copies nothing.

transformers' `DynamicCache` copies all that it has in every step: of SmolLM2-135M, five rows of 200 tokens
are 46 MB, and a quarter of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 128
"""Tokens for which there is room when a layer moves."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's. `keys` and `values`, (rows, heads, tokens, width), are views of the beginning of larger
    tensors; where they are not (rows were dropped), the next update moves them.
    """

    _room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values with the new tokens behind them."""
        if self.keys is None or self.values is None:
            grown: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return grown
        past, length = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._room is None or not _has_room(self._room[0], self.keys, length):
            self._room = (_with_room(self.keys, length), _with_room(self.values, length))
        keys, values = self._room
        keys[:, :, past:length], values[:, :, past:length] = key_states, value_states
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]
        return self.keys, self.values


def _has_room(room: Tensor, states: Tensor, length: int) -> bool:
    """Whether the states stand in `room`, and `length` tokens fit."""
    there = room.data_ptr() == states.data_ptr() and len(room) == len(states)
    return there and length <= room.shape[2]


def _with_room(states: Tensor, length: int) -> Tensor:
    rows, heads, past, width = states.shape
    room = states.new_empty(rows, heads, length + ROOM, width)
    room[:, :, :past] = states
    return room


def growing_cache(config: Any) -> transformers.DynamicCache:
    """An empty cache for a model of this config. A layer with a sliding window keeps transformers' own."""
    cache = transformers.DynamicCache(config=config)
    make: Callable[[], Any] = GrowingLayer
    cache.layers = [make() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
