"""The sum against the definition: five whole FFNs, W + B A each, under weights."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch.nn.functional import linear, silu  # noqa: E402

from cultural_palette.moerges.mixture import CHUNK_TOKENS, FEW_TOKENS, LowRanks, mixture  # noqa: E402

HIDDEN, WIDTH, COMMUNITIES = 24, 56, 5
RANKS = {"gate": 3, "up": 4, "down": 2}


@pytest.fixture
def low() -> LowRanks:
    torch.manual_seed(0)
    sizes = {"gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)}
    tensors = []
    for name, (into, out) in sizes.items():
        tensors += [torch.randn(COMMUNITIES, RANKS[name], into), torch.randn(COMMUNITIES, RANKS[name], out)]
    return LowRanks(*(tensor / 4 for tensor in tensors))


def by_definition(x, base, weights, low):
    """Sum over the communities of G_C * FFN_C(x)."""
    out = 0
    for c in range(COMMUNITIES):
        gate, up, down = (
            base[name] + b[c].T @ a[c] for name, a, b in zip(base, low[::2], low[1::2], strict=True)
        )
        out = out + weights[:, c : c + 1] * linear(silu(linear(x, gate)) * linear(x, up), down)
    return out


@pytest.mark.parametrize("tokens", [1, FEW_TOKENS, FEW_TOKENS + 1, 2 * CHUNK_TOKENS["cpu"] + 3])
def test_few_many_and_pieces_are_the_same_sum(low: LowRanks, tokens: int) -> None:
    torch.manual_seed(tokens)
    base = {
        "gate": torch.randn(WIDTH, HIDDEN),
        "up": torch.randn(WIDTH, HIDDEN),
        "down": torch.randn(HIDDEN, WIDTH),
    }
    base = {name: weight / 5 for name, weight in base.items()}
    x, weights = torch.randn(tokens, HIDDEN), torch.randn(tokens, COMMUNITIES).softmax(-1)
    h, y = mixture(x, linear(x, base["gate"]), linear(x, base["up"]), weights, low)
    assert h.shape == (tokens, WIDTH)
    torch.testing.assert_close(
        linear(h, base["down"]) + y, by_definition(x, base, weights, low), rtol=1e-5, atol=1e-5
    )


def test_two_ranks_add_up_to_one(low: LowRanks) -> None:
    """Each has half of the width; the low-rank part of the output is a part of the sum as well."""
    torch.manual_seed(9)
    x, weights = torch.randn(40, HIDDEN), torch.randn(40, COMMUNITIES).softmax(-1)
    gate, up = torch.randn(40, 2 * WIDTH).chunk(2, -1)
    h, y = mixture(x, gate, up, weights, low)
    halves = []
    for half in (slice(0, WIDTH // 2), slice(WIDTH // 2, WIDTH)):
        mine = low._replace(
            gate_b=low.gate_b[..., half], up_b=low.up_b[..., half], down_a=low.down_a[..., half]
        )
        halves.append(mixture(x, gate[:, half], up[:, half], weights, mine))
    torch.testing.assert_close(torch.cat([h for h, _ in halves], -1), h)
    torch.testing.assert_close(halves[0][1] + halves[1][1], y, rtol=1e-5, atol=1e-5)


def test_sixteen_bits_stay_sixteen_bits(low: LowRanks) -> None:
    half = LowRanks(*(tensor.bfloat16() for tensor in low))
    x, (gate, up) = torch.randn(50, HIDDEN).bfloat16(), torch.randn(2, 50, WIDTH).bfloat16()
    weights = torch.randn(50, COMMUNITIES).softmax(-1)
    h, y = mixture(x, gate, up, weights, half)
    assert h.dtype == y.dtype == torch.bfloat16
    exact, exact_low = mixture(
        x.float(), gate.float(), up.float(), weights, LowRanks(*(t.float() for t in half))
    )
    assert (h.float() - exact).abs().max() / exact.abs().max() < 0.02
    assert (y.float() - exact_low).abs().max() / exact_low.abs().max() < 0.02
