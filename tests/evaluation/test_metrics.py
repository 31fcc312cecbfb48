"""Every metric by hand, with the arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.labels import has_opinion, is_scale
from cultural_palette.evaluation.metrics import (
    ALIGNMENTS,
    alignment_table,
    alignments,
    earth_movers,
    earth_movers_table,
    mode_agreement_table,
    modes_agree,
)

LADDER = ("Strongly agree", "Agree", "Disagree", "Strongly disagree")


def test_the_same_distribution_is_100_in_all_four() -> None:
    gold = Distribution((0.2, 0.3, 0.5))
    assert alignments(gold, gold) == dict.fromkeys(ALIGNMENTS, 100.0)


def test_nothing_in_common_is_0_in_bits_and_not_in_nats() -> None:
    # p=(1,0) q=(0,1), m=(1/2,1/2): divergence = 1 bit = ln 2 = 0.693 nats; its root is 0.8326
    found = alignments(Distribution((1, 0)), Distribution((0, 1)))
    assert found == pytest.approx({"jsd_e": 30.685, "jsd_2": 0, "jsdist_2": 0, "jsdist_e": 16.745}, abs=1e-3)


def test_a_quarter_by_hand() -> None:
    # p=(1,0) q=(1/2,1/2), m=(3/4,1/4)
    # KL(p|m) = log2(4/3) = 0.41504; KL(q|m) = 1/2 log2(2/3) + 1/2 log2(2) = 0.20752
    # divergence = (0.41504 + 0.20752) / 2 = 0.31128 bits = 0.21576 nats; roots 0.55792 and 0.46450
    found = alignments(Distribution((1, 0)), Distribution((0.5, 0.5)))
    assert found == pytest.approx(
        {"jsd_e": 78.424, "jsd_2": 68.872, "jsdist_2": 44.208, "jsdist_e": 53.550}, abs=1e-3
    )


def test_the_four_are_two_numbers_in_two_units() -> None:
    found = alignments(Distribution((0.6, 0.3, 0.1)), Distribution((0.2, 0.2, 0.6)))
    lost = {key: 1 - value / 100 for key, value in found.items()}
    assert lost["jsd_2"] == pytest.approx(lost["jsdist_2"] ** 2)
    assert lost["jsd_e"] == pytest.approx(lost["jsdist_e"] ** 2)
    assert lost["jsd_e"] == pytest.approx(lost["jsd_2"] * math.log(2))


def test_alignment_does_not_compare_other_options() -> None:
    with pytest.raises(ValueError, match="2 options with 3"):
        alignments(Distribution.uniform(2), Distribution.uniform(3))


@pytest.mark.parametrize(
    ("gold", "predicted", "moved"),
    [
        ((1, 0, 0, 0), (0, 0, 0, 1), 1),  # all mass, 3 steps of 3
        ((1, 0, 0, 0), (0, 1, 0, 0), 1 / 3),  # all mass, 1 step of 3
        ((0.5, 0.5, 0, 0), (0, 0.5, 0.5, 0), 1 / 3),  # 0.5 mass 2 steps = 1 step of 3
        ((0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1), 1 / 3),
        # cumulated 0.1, 0.3, 0.6 against 0.4, 0.7, 0.9: |0.3| + |0.4| + |0.3| = 1 step of 3
        ((0.25, 0.25, 0.25, 0.25), (0.25, 0.25, 0.25, 0.25), 0),
    ],
)
def test_earth_movers_counts_steps(
    gold: tuple[float, ...], predicted: tuple[float, ...], moved: float
) -> None:
    found = earth_movers(Distribution(gold), Distribution(predicted), LADDER)
    assert found == pytest.approx(moved)


def test_earth_movers_steps_over_options_without_an_opinion() -> None:
    options = ("Strongly agree", "Agree", "Don't know", "Disagree", "DK/Refused")
    # without them (0.5, 0, 0.5) against (0, 0, 1): half the mass, 2 steps of 2
    found = earth_movers(Distribution((0.4, 0, 0.1, 0.4, 0.1)), Distribution((0, 0, 0.5, 0.5, 0)), options)
    assert found == pytest.approx(0.5)
    assert earth_movers(Distribution((0, 0, 1, 0, 0)), Distribution.uniform(5), options) is None


def test_earth_movers_needs_a_scale() -> None:
    unordered = ("Tea", "Coffee", "Milk")
    a, b = Distribution((1, 0, 0)), Distribution((0, 0, 1))
    assert earth_movers(a, b, unordered) is None
    assert earth_movers(a, b, unordered, ordered=True) == 1
    assert earth_movers(a, b, LADDER[:3], ordered=False) is None


def test_modes_agree_shares_ties() -> None:
    assert modes_agree(Distribution((0.6, 0.4)), Distribution((0.9, 0.1)))
    assert not modes_agree(Distribution((0.6, 0.4)), Distribution((0.1, 0.9)))
    assert modes_agree(Distribution((0.4, 0.4, 0.2)), Distribution((0.1, 0.8, 0.1)))
    assert modes_agree(Distribution((0.1, 0.8, 0.1)), Distribution.uniform(3))


def test_arrays_of_distributions_score_as_each_of_them() -> None:
    rng = np.random.default_rng(0)
    gold, guesses = rng.dirichlet(np.ones(4)), rng.dirichlet(np.full(4, 0.2), (3, 5))
    table = alignment_table(gold, guesses)
    moved, agreed = earth_movers_table(gold.tolist(), guesses, LADDER), mode_agreement_table(gold, guesses)
    one = Distribution.from_counts(gold.tolist())
    for place in np.ndindex(3, 5):
        other = Distribution.from_counts(guesses[place].tolist())
        assert {key: table[key][place] for key in ALIGNMENTS} == pytest.approx(alignments(one, other))
        assert moved[place] == pytest.approx(earth_movers(one, other, LADDER))
        assert agreed[place] == modes_agree(one, other)


@pytest.mark.parametrize(
    "option",
    ["DK/Refused", "Don't know", "Don\u2019t know (VOL)", "Don't know/ Unsure", "No answer/ refused",
     "Refused", "Missing; Not available; Not applicable", "Missing",
     "Other missing; Multiple answers Mail (EVS)", "Missing; Not applicable for other reasons",
     "Don't -9:-2", "Total                  N=", "Total N=1,004", "Can't rate (VOL)", "Hard to say",
     "Never heard of", "Haven't heard enough (VOL)", "Haven\u2019t heard enough", "No opinion (VOL)",
     "Difficult to say/No answer"],
)  # fmt: skip
def test_options_without_an_opinion(option: str) -> None:
    assert not has_opinion(option)


@pytest.mark.parametrize(
    "option",
    ["No", "None", "Other (VOL)", "Depends (VOL)", "Don't know anyone (VOL)", "Neither", "Not at all", "/",
     "Have not heard", "Totally acceptable", "Hard", "Never",
     "Refused refugees", "An unknown candidate"],
)  # fmt: skip
def test_options_with_an_opinion(option: str) -> None:
    assert has_opinion(option)


@pytest.mark.parametrize(
    "options",
    [
        LADDER,
        LADDER[::-1],
        ("Very important", "Rather important", "Not very important", "Not at all important", "DK"),
        ("Very well", "Somewhat well", "Not too well", "Not well at all", "DK/Refused"),
        ("A great deal", "A fair amount", "Not too much", "Not at all"),
        ("Never justifiable", *map(str, range(2, 10)), "Always justifiable", "Don't know", "No answer"),
        ("Men", "2", "3", "Both equally", "5", "6", "Women"),
        ("Major threat", "Minor threat", "Not a threat"),
    ],
)
def test_scales(options: tuple[str, ...]) -> None:
    assert is_scale(options)


@pytest.mark.parametrize(
    "options",
    [
        ("Yes", "No", "Don't know"),  # two steps are no scale worth the name
        ("Strongly agree", "Disagree", "Agree"),  # out of order
        ("Not important", "1", "Very important", "2", "3", "4", "5"),  # as the release shuffles some
        ("Very happy", "Somewhat sad", "Not at all tired"),  # of different things
        ("Freedom", "Equality", "Both"),
    ],
)
def test_no_scales(options: tuple[str, ...]) -> None:
    assert not is_scale(options)
