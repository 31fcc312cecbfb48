"""Means of router weights over the prompts of requests, gathered step by step beside a vLLM model runner.

Every step leaves the router's weights of its tokens in the model. For requests that are watched, by their
name, they are summed here, so a prompt that is read in pieces, or together with others, is one mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

WATCHED = "palette-blend-"
"""Beginning of a watched request's name; 32 hex digits follow, and whatever vLLM appends."""
NAME_LENGTH = len(WATCHED) + 32
MOST_KEPT = 1024
"""Requests whose weights nobody took; the oldest are forgotten."""


class Blends:
    """Sums of router weights by request. Takes part in each step of a vLLM model runner, of either make."""

    def __init__(self, runner: Any, recorded: Tensor) -> None:
        self.runner, self.recorded = runner, recorded
        self.sums: dict[str, tuple[Tensor, int]] = {}
        self.step = runner.execute_model
        runner.execute_model = self.execute_model

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """The runner's own step, and then its tokens' weights."""
        result = self.step(scheduler_output, *args, **kwargs)
        scheduled: dict[str, int] = scheduler_output.num_scheduled_tokens
        if any(request.startswith(WATCHED) for request in scheduled):
            new = {request.req_id for request in scheduler_output.scheduled_new_reqs}
            resumed = set(scheduler_output.scheduled_cached_reqs.resumed_req_ids)
            for request, rows in self._rows(scheduled):
                if request.startswith(WATCHED):
                    # One that was put off and begins anew is counted anew.
                    self._add(request[:NAME_LENGTH], rows, anew=request in new | resumed)
        return result

    def take(self, name: str) -> list[list[float]] | None:
        """(layers, communities), and forget them."""
        if name not in self.sums:
            return None
        total, count = self.sums.pop(name)
        mean: list[list[float]] = (total / count).tolist()
        return mean

    def _rows(self, scheduled: dict[str, int]) -> Iterator[tuple[str, slice]]:
        """Each request of the step, and where its tokens lie in the batch."""
        state = getattr(self.runner, "execute_model_state", None)
        batch = getattr(state, "input_batch", None) or self.runner.input_batch
        start = 0
        for request in batch.req_ids:
            if count := scheduled.get(request, 0):
                yield request, slice(start, start + count)
                start += count

    def _add(self, name: str, rows: slice, *, anew: bool) -> None:
        weights = self.recorded[:, rows]
        total, count = weights.sum(1), weights.shape[1]
        if not anew and name in self.sums:
            total, count = total + self.sums[name][0], count + self.sums[name][1]
        self.sums.pop(name, None)
        while len(self.sums) >= MOST_KEPT:
            self.sums.pop(next(iter(self.sums)))
        self.sums[name] = (total, count)
