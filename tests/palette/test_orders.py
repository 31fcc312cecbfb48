"""Orders of options: Latin squares, labels back to their options, and what averaging does to a favourite
place.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cultural_palette.distributions import Distribution
from cultural_palette.models.readout import Reading
from cultural_palette.option_orders import in_order, orders_of
from cultural_palette.orders import Averaged
from cultural_palette.questions import Question

LABELS = ("A", "B", "C")


def read(*shares: float, mass: float | None = 0.9, censored: tuple[str, ...] = ()) -> Reading:
    distribution = Distribution(shares) if shares else None
    return Reading(
        distribution, mass, "exact", censored=censored, usage={"input_tokens": 9, "output_tokens": 1}
    )


@given(size=st.integers(2, 9), squares=st.integers(1, 3), seed=st.integers(0, 9))
def test_each_option_stands_in_each_place_equally_often(size, squares, seed):
    squares = min(squares, math.factorial(size - 1))
    orders = orders_of(size, size * squares, seed)
    assert orders[0] == tuple(range(size))
    assert len(set(orders)) == len(orders) == size * squares
    for place in range(size):
        stood = [order[place] for order in orders]
        assert all(stood.count(option) == squares for option in range(size))


@pytest.mark.parametrize("size", [3, 4, 5, 9])
def test_two_orders_are_own_and_reverse_so_that_every_option_has_the_same_mean_place(size):
    orders = orders_of(size, 2, seed=7)
    assert orders == [tuple(range(size)), tuple(reversed(range(size)))]
    places = [[order.index(option) for order in orders] for option in range(size)]
    assert {sum(own) / 2 for own in places} == {(size - 1) / 2}
    # a liking for the first place averages to the same for the first option and the last
    liking = Distribution.from_counts(range(size, 0, -1)).probabilities
    averaged = Averaged.over([read(*liking), read(*liking)], orders, "ABCDEFGHI"[:size], 0)
    assert averaged.distribution is not None
    assert averaged.distribution.probabilities == pytest.approx((1 / size,) * size)


def test_fewer_orders_than_options_repeat_no_place():
    orders = orders_of(5, 3, seed=1)
    assert orders == orders_of(5, 3, seed=1) and len(orders) == 3
    assert all(len({order[place] for order in orders}) == 3 for place in range(5))


def test_all_orders_when_as_many_are_wanted():
    assert sorted(orders_of(3, 6)) == sorted(orders_of(3, 700)) and len(orders_of(3, 700)) == 6
    assert orders_of(2, 2) == [(0, 1), (1, 0)]
    with pytest.raises(ValueError, match="at least 1 option and 1 order"):
        orders_of(3, 0)


def test_a_question_in_another_order():
    assert in_order(Question("?", ("x", "y", "z")), (2, 0, 1)).options == ("z", "x", "y")


def test_probabilities_go_back_to_their_options():
    # Order (2, 0, 1) shows option 2 as A, 0 as B, 1 as C: A .5, B .3, C .2 is 0: .3, 1: .2, 2: .5
    # Mean with (.1, .2, .7): 0: .2, 1: .2, 2: .6; deviations from it: .1, 0, .1
    averaged = Averaged.over(
        [read(0.1, 0.2, 0.7), read(0.5, 0.3, 0.2, mass=0.7)], [(0, 1, 2), (2, 0, 1)], LABELS, 0
    )
    assert averaged.distribution is not None and averaged.spread is not None
    assert averaged.distribution.probabilities == pytest.approx((0.2, 0.2, 0.6))
    assert averaged.spread == pytest.approx((0.1, 0, 0.1))
    assert (averaged.mode_agreement, averaged.option_mass) == (1.0, pytest.approx(0.8))
    assert averaged.usage == {"input_tokens": 18, "output_tokens": 2}
    assert averaged.as_dict("xyz")["spread"] == pytest.approx({"x": 0.1, "y": 0, "z": 0.1})


def test_a_favourite_place_averages_to_uniform():
    orders = orders_of(3, 3)
    averaged = Averaged.over([read(0.8, 0.15, 0.05)] * 3, orders, LABELS, 0)
    assert averaged.distribution is not None and averaged.spread is not None
    assert averaged.distribution.probabilities == pytest.approx((1 / 3,) * 3)
    assert min(averaged.spread) > 0.3  # and the spread tells why


def test_unreadable_orders_are_left_out_and_counted():
    orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    averaged = Averaged.over(
        [read(0.2, 0.3, 0.5), read(mass=0.0), read(1, 0, 0, mass=0.001)], orders, LABELS, 0.01
    )
    assert averaged.distribution == Distribution((0.2, 0.3, 0.5))
    assert (averaged.orders, averaged.unreadable, averaged.option_mass) == (3, 2, 0.9)
    nothing = Averaged.over([read(mass=0.002), read(mass=0.004)], orders[:2], LABELS, 0.01)
    assert (nothing.distribution, nothing.spread, nothing.mode_agreement) == (None, None, None)
    assert nothing.option_mass == pytest.approx(0.003)


def test_censored_labels_are_those_of_the_question_itself():
    # shown as (2, 0, 1), the unseen "A" stands for option 2, which is C
    averaged = Averaged.over(
        [read(0.5, 0.5, 0.0), read(0.0, 0.5, 0.5, censored=("A",))], [(0, 1, 2), (2, 0, 1)], LABELS, 0
    )
    assert averaged.censored == ("C",)
    assert averaged.as_reading().censored == ("C",)
