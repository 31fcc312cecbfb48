"""Means over prompts, as vLLM's two model runners read them: together, in pieces, put off and begun anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cultural_palette.serving.vllm_plugin.blends import MOST_KEPT, WATCHED, Blends  # noqa: E402

LAYERS, COMMUNITIES = 2, 3
ONE, TWO = (f"{WATCHED}{digit * 32}" for digit in "12")


class Runner:
    """A step of a model runner: leaves weights of its tokens, in the order of its batch, which is its own."""

    def __init__(self, recorded: Any, second_make: bool) -> None:
        self.recorded, self.second_make = recorded, second_make
        self.input_batch = SimpleNamespace(req_ids=["left over"])
        self.order: list[str] = []
        self.weights: Any = None

    def execute_model(self, scheduler_output: Any) -> str:
        self.recorded[:, : self.weights.shape[1]] = self.weights
        batch = SimpleNamespace(req_ids=self.order)
        if self.second_make:  # keeps the step's batch until its tokens are sampled
            self.execute_model_state = SimpleNamespace(input_batch=batch)
        else:
            self.input_batch = batch
        return "output"


class Server:
    def __init__(self, second_make: bool) -> None:
        self.recorded = torch.zeros(LAYERS, 64, COMMUNITIES)
        self.runner = Runner(self.recorded, second_make)
        self.blends = Blends(self.runner, self.recorded)

    def step(
        self, *requests: tuple[str, Any], new: tuple[str, ...] = (), resumed: tuple[str, ...] = ()
    ) -> None:
        """`requests`: name and its tokens' weights, (layers, tokens, communities), in the batch's order."""
        self.runner.order = [name for name, _ in requests]
        self.runner.weights = torch.cat([weights for _, weights in requests], 1)
        # The scheduler's order is another than the batch's.
        scheduled = {name: weights.shape[1] for name, weights in reversed(requests)}
        output = SimpleNamespace(
            num_scheduled_tokens=scheduled,
            scheduled_new_reqs=[SimpleNamespace(req_id=name) for name in new],
            scheduled_cached_reqs=SimpleNamespace(resumed_req_ids=set(resumed)),
        )
        assert self.runner.execute_model(output) == "output"


@pytest.fixture(params=[False, True], ids=["first make", "second make"])
def server(request: pytest.FixtureRequest) -> Server:
    torch.manual_seed(0)
    return Server(request.param)


def weights(tokens: int) -> Any:
    return torch.rand(LAYERS, tokens, COMMUNITIES).softmax(-1)


def test_each_prompt_is_told_from_the_others_of_its_step(server: Server) -> None:
    one, two, other = weights(5), weights(9), weights(20)
    server.step(("chat", other), (f"{TWO}-ab", two), (f"{ONE}-cd", one), new=(f"{ONE}-cd", f"{TWO}-ab"))
    torch.testing.assert_close(torch.tensor(server.blends.take(ONE)), one.mean(1))
    torch.testing.assert_close(torch.tensor(server.blends.take(TWO)), two.mean(1))
    assert server.blends.take(ONE) is None, "told once"
    assert server.blends.sums == {}, "nothing is kept of what nobody watches"


def test_a_prompt_in_pieces_is_one_mean(server: Server) -> None:
    whole = weights(30)
    server.step((ONE, whole[:, :16]), ("chat", weights(1)), new=(ONE,))
    server.step(("chat", weights(1)), (ONE, whole[:, 16:]))
    torch.testing.assert_close(torch.tensor(server.blends.take(ONE)), whole.mean(1))


def test_one_that_was_put_off_begins_anew(server: Server) -> None:
    server.step((ONE, weights(16)), new=(ONE,))
    server.step(("chat", weights(1)))
    again = weights(18)
    server.step((ONE, again), resumed=(ONE,))
    torch.testing.assert_close(torch.tensor(server.blends.take(ONE)), again.mean(1))


def test_what_nobody_takes_is_forgotten_after_a_while(server: Server) -> None:
    names = [f"{WATCHED}{number:032x}" for number in range(MOST_KEPT + 2)]
    for name in names:
        server.step((name, weights(2)), new=(name,))
    assert len(server.blends.sums) == MOST_KEPT
    assert server.blends.take(names[1]) is None and server.blends.take(names[-1]) is not None
