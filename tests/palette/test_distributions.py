"""Distributions: what they refuse, how they are made and compared. Expected values show their arithmetic."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cultural_palette.distributions import Distribution

COUNTS = st.lists(st.floats(0, 1e6), min_size=2, max_size=8).filter(lambda c: sum(c) > 1e-3)


@st.composite
def pairs(draw):
    size = draw(st.integers(2, 8))
    counts = st.lists(st.floats(0, 1e6), min_size=size, max_size=size).filter(lambda c: sum(c) > 1e-3)
    return Distribution.from_counts(draw(counts)), Distribution.from_counts(draw(counts))


@pytest.mark.parametrize(
    ("probabilities", "why"),
    [
        ((0.5, 0.6), r"probabilities sum to 1\.1, expected 1 \(tolerance 1e-06\)"),
        ((0.5, 0.4), r"sum to 0\.9"),
        ((), "at least one"),
        ((1.5, -0.5), "probability 0 is 1.5, expected 0 to 1"),
        ((1.0, -0.1), "probability 1 is -0.1"),
        ((math.nan, 1.0), "probability 0 is nan"),
        ((math.inf, 0.0), "probability 0 is inf"),
    ],
)
def test_nonsense_is_refused(probabilities, why):
    with pytest.raises(ValueError, match=why):
        Distribution(probabilities)


def test_uniform():
    assert Distribution.uniform(4).probabilities == (0.25,) * 4
    with pytest.raises(ValueError, match="at least one option, got 0"):
        Distribution.uniform(0)


def test_from_counts():
    assert Distribution.from_counts([1, 3, 0]).probabilities == (0.25, 0.75, 0.0)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [math.nan, 1], [math.inf, 1]])
def test_counts_that_make_none(counts):
    with pytest.raises(ValueError, match="make no distribution"):
        Distribution.from_counts(counts)


def test_from_logprobs_gives_the_mass_too():
    distribution, mass = Distribution.from_logprobs([math.log(0.2), math.log(0.6)])
    assert distribution.probabilities == pytest.approx((0.25, 0.75))  # 0.2 / 0.8, 0.6 / 0.8
    assert mass == pytest.approx(0.8)


def test_from_logprobs_far_below_the_smallest_float():
    distribution, mass = Distribution.from_logprobs([-2000.0, -2000.0 + math.log(3), -math.inf])
    assert distribution.probabilities == pytest.approx((0.25, 0.75, 0.0))
    assert mass == 0.0


@pytest.mark.parametrize("logprobs", [[], [-math.inf, -math.inf]])
def test_no_mass_is_no_distribution(logprobs):
    with pytest.raises(ValueError, match="no mass"):
        Distribution.from_logprobs(logprobs)


def test_a_mass_above_one_is_refused_but_for_rounding():
    assert Distribution.from_logprobs([math.log(0.5), math.log(0.504)])[1] == 1.0
    for logprobs in ([0.0, 0.0], [800.0, 1.0], [0.0, math.nan]):
        with pytest.raises(ValueError):
            Distribution.from_logprobs(logprobs)


def test_mix():
    a, b = Distribution((1.0, 0.0)), Distribution((0.0, 1.0))
    assert Distribution.mix([a, b]) == Distribution((0.5, 0.5))
    assert Distribution.mix([a, b], [1, 3]) == Distribution((0.25, 0.75))
    with pytest.raises(ValueError, match=r"sizes \[2, 3\]"):
        Distribution.mix([a, Distribution.uniform(3)])
    with pytest.raises(ValueError, match="2 distributions but 1 weights"):
        Distribution.mix([a, b], [1])
    with pytest.raises(ValueError, match="nothing to mix"):
        Distribution.mix([])


def test_mode_and_entropy():
    assert Distribution((0.2, 0.4, 0.4)).mode_index == 1
    assert Distribution((1.0, 0.0)).entropy == 0
    assert Distribution.uniform(4).entropy == pytest.approx(math.log(4))


def test_divergence_and_distance():
    p, q = Distribution((1.0, 0.0)), Distribution((0.0, 1.0))
    assert p.js_divergence(q) == 1  # m = (1/2, 1/2): half of log2(1 / 0.5), twice
    assert p.js_divergence(q, base=math.e) == pytest.approx(math.log(2))
    half = Distribution((0.5, 0.5))
    # m = (3/4, 1/4): (log2(4/3) + (log2(2/3) + log2(2)) / 2) / 2
    expected = (math.log2(4 / 3) + (math.log2(2 / 3) + 1) / 2) / 2
    assert p.js_divergence(half) == pytest.approx(expected)
    assert p.js_distance(half) == pytest.approx(math.sqrt(expected))
    assert p.js_divergence(half, base=math.e) == pytest.approx(expected * math.log(2))


def test_different_sizes_do_not_compare():
    with pytest.raises(ValueError, match="2 options with 3"):
        Distribution.uniform(2).js_distance(Distribution.uniform(3))


@given(pairs())
def test_distance_is_a_distance(pair):
    p, q = pair
    assert 0 <= p.js_divergence(q) <= 1
    assert 0 <= p.js_distance(q, base=math.e) <= math.sqrt(math.log(2)) + 1e-12
    assert p.js_distance(q) == pytest.approx(q.js_distance(p), abs=1e-7)
    assert p.js_distance(p) == pytest.approx(0, abs=1e-7)


@given(pairs(), st.floats(0, 1))
def test_a_mix_lies_between(pair, share):
    mixed = Distribution.mix(pair, [share, 1 - share])
    for m, p, q in zip(mixed.probabilities, *(d.probabilities for d in pair), strict=True):
        assert min(p, q) - 1e-9 <= m <= max(p, q) + 1e-9


@given(COUNTS)
def test_logprobs_undo_the_logarithm(counts):
    shares = Distribution.from_counts(counts).probabilities
    assume(all(p == 0 or p > 1e-300 for p in shares))
    logprobs = [math.log(p / 2) if p else -math.inf for p in shares]
    distribution, mass = Distribution.from_logprobs(logprobs)
    assert distribution.probabilities == pytest.approx(shares)
    assert mass == pytest.approx(0.5)
