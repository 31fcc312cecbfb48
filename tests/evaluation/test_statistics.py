"""Statistics on cases small enough to do by hand, and on simulated data whose truth is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np
import pytest
from benchmarks.coverage import designs, simulate
from hypothesis import given
from hypothesis import strategies as st

from cultural_palette.evaluation.statistics import (
    Interval,
    Values,
    average,
    clustered_error,
    clustered_interval,
    compare,
    country_means,
    detectable_difference,
    grouped_intervals,
    holm,
    holm_levels,
    spread,
)


def p_of(
    a: Values,
    b: Values,
    clusters: Sequence[Hashable],
    *,
    groups: Sequence[str] | None = None,
    permutations: int = 10000,
) -> float:
    made = compare(a, b, clusters, groups=groups, permutations=permutations)
    assert made is not None
    return made.p


def test_the_average_is_the_mean_of_the_countries_means() -> None:
    values, countries = [60.0, 80.0, 40.0, None], ["KEN", "KEN", "NZL", "USA"]
    # KEN (60 + 80) / 2 = 70, NZL 40, USA nothing answered; (70 + 40) / 2 = 55, while the plain mean is 60.
    assert country_means(values, countries) == {"KEN": 70, "NZL": 40}
    assert average(values, countries) == 55
    assert average([None], ["USA"]) is None


def test_the_interval_is_what_the_test_does_not_reject_by_enumeration() -> None:
    # Six clusters of one item; a mean m is rejected at 10 % when fewer than 10 % of the 64 patterns of signs
    # of (value - m) sum to as much. Tried m by m.
    values = [61.0, 64.0, 66.0, 70.0, 71.0, 80.0]
    signs = np.array(list(itertools.product([1, -1], repeat=6)))

    def p(m: float) -> float:
        moved = np.array(values) - m
        return float(np.mean(np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9))

    interval = clustered_interval(values, range(6), level=0.9)
    held = [m for m in np.arange(55, 90, 0.01) if p(m) >= 0.1]
    assert interval.mean == pytest.approx(412 / 6)
    assert (interval.low, interval.high) == (
        pytest.approx(min(held), abs=0.011),
        pytest.approx(max(held), abs=0.011),
    )
    assert (interval.n, interval.clusters, interval.effective) == (6, 6, pytest.approx(6))


def test_five_clusters_bear_no_interval_and_six_do() -> None:
    # 2 of 32 patterns are always as extreme: p is 0.0625 at best. Of 64: 0.03125.
    values = [60.0, 60.1, 60.2, 60.1, 60.0, 60.2]
    five, six = clustered_interval(values[:5], range(5)), clustered_interval(values, range(6))
    assert (five.low, five.high) == (None, None)
    assert six.low is not None and six.high is not None
    comparison = compare(values[:5], [0.0] * 5, range(5))
    assert comparison is not None
    assert comparison.p == comparison.smallest_p == 2 / 2**5
    assert comparison.detectable() is None


def test_every_country_has_its_own_interval() -> None:
    values = [60.0, 80.0, 40.0, None]
    whole, by_country = grouped_intervals(values, ["q1", "q2", "q1", "q2"], ["KEN", "KEN", "NZL", "NZL"])
    assert (whole.mean, whole.n, whole.clusters) == (55, 3, 2)
    assert by_country["NZL"] == Interval(40, None, None, 1, 1, 1)
    assert by_country["KEN"].mean == 70
    assert whole == clustered_interval(values, ["q1", "q2", "q1", "q2"], groups=["KEN", "KEN", "NZL", "NZL"])


def test_the_effective_number_of_clusters_by_hand() -> None:
    # Weights 0.7 and three times 0.1: 1 / (0.49 + 0.03) = 1.923
    interval = clustered_interval([1.0] * 10, ["a"] * 7 + ["b", "c", "d"])
    assert interval.clusters == 4 and interval.effective == pytest.approx(1 / 0.52)


def test_the_clustered_error_by_hand() -> None:
    # One group, mean 5. Clusters add (0 + 2) / 4 = 0.5 and 4.5, their weight is 1/2: 0.5 - 2.5 = -2, and 2.
    # (4 + 4) / (1 - 2/2 + 1/4 + 1/4) = 16, root 4; as loose items sqrt((25 + 9 + 9 + 25) / 3) / 2 = 2.38.
    values = [0.0, 2.0, 8.0, 10.0]
    assert clustered_error(values, ["a", "a", "b", "b"]) == pytest.approx(4)
    assert clustered_error(values, [1, 2, 3, 4]) == pytest.approx(math.sqrt(68 / 3) / 2)
    with pytest.raises(ValueError, match="at least two"):
        clustered_error(values, ["a"] * 4)


def test_runs_widen_the_interval_by_hand() -> None:
    # Two runs 4 apart: averages 5 and 9, variance 8, over 2 runs 4. Between clusters 16 as above, about 7.
    values = np.array([[0.0, 2.0, 8.0, 10.0], [4.0, 6.0, 12.0, 14.0]])
    clusters = ["a", "a", "b", "b"]
    assert clustered_error(values[0], clusters) == pytest.approx(4)
    assert clustered_error(values, clusters) == pytest.approx(math.sqrt(16 + 4))
    rng = np.random.default_rng(0)
    items = rng.normal(70, 5, 40)
    one = clustered_interval(items, range(40), seed=1)
    same = clustered_interval(np.stack([items, items]), range(40), seed=1)
    apart = clustered_interval(np.stack([items - 1, items + 1]), range(40), seed=1)
    assert one.low is not None and apart.low is not None
    assert (same.low, same.high) == (pytest.approx(one.low), pytest.approx(one.high))
    wider = math.sqrt(1 + 1 / clustered_error(items, range(40)) ** 2)  # averages 2 apart: variance 2, over 2
    assert (apart.mean - apart.low) / (one.mean - one.low) == pytest.approx(wider)


def test_the_smallest_detectable_difference_by_hand() -> None:
    # 40 clusters: t(0.975, 39) + t(0.8, 39) = 2.0227 + 0.8514 = 2.8741 standard errors; for many 2.8016.
    assert detectable_difference(2.0, 40) == pytest.approx(2 * 2.8741, abs=1e-3)
    assert detectable_difference(1.0, 1e6) == pytest.approx(2.80159, abs=1e-4)


def simulated(
    rng: np.random.Generator, questions: int = 60, countries: int = 6
) -> tuple[list[float], list[int], list[str]]:
    """Scores around 70 whose questions differ (sd 8) more than their countries' answers (sd 3)."""
    scores = 70 + rng.normal(0, 8, questions)[:, None] + rng.normal(0, 3, (questions, countries))
    rows = [(float(scores[q, c]), q, f"C{c}") for q in range(questions) for c in range(countries)]
    values, clusters, groups = zip(*rows, strict=True)
    return list(values), list(clusters), list(groups)


@pytest.mark.parametrize("questions", [8, 60])
def test_clustered_intervals_cover_where_naive_ones_are_too_narrow(questions: int) -> None:
    rng = np.random.default_rng(7)
    covered = naive_covered = 0
    repeats = 200
    for _ in range(repeats):
        values, clusters, groups = simulated(rng, questions)
        wide = clustered_interval(values, clusters, groups=groups, permutations=500)
        naive = clustered_interval(values, range(len(values)), groups=groups, permutations=500)
        assert wide.low is not None and wide.high is not None
        assert naive.low is not None and naive.high is not None
        covered += wide.low <= 70 <= wide.high
        naive_covered += naive.low <= 70 <= naive.high
    assert 0.92 <= covered / repeats <= 0.98
    assert naive_covered / repeats < 0.75


def test_the_benchmark_of_coverage_counts_what_it_simulates() -> None:
    unequal = next(design for design in designs() if design.name.startswith("10 unequal"))
    found = simulate(unequal, repeats=150, permutations=300, seed=0)
    assert (found.batteries, found.with_interval) == (10, 1)
    assert 0.88 <= found.by_battery <= 1 and found.by_question < 0.8


def test_the_error_agrees_with_the_interval() -> None:
    values, clusters, groups = simulated(np.random.default_rng(3))
    interval = clustered_interval(values, clusters, groups=groups, permutations=4000)
    assert interval.low is not None and interval.high is not None
    width = (interval.high - interval.low) / (2 * 2.0)  # t(0.975, 59)
    assert clustered_error(values, clusters, groups=groups) == pytest.approx(width, rel=0.05)


def test_the_power_that_is_promised() -> None:
    rng = np.random.default_rng(5)
    detected, repeats = 0, 200
    for _ in range(repeats):
        noise, clusters, _ = simulated(rng, questions=40, countries=3)
        true = 2.8741 * math.sqrt((8**2 + 3**2 / 3) / 40)
        p = p_of([x - 70 + true for x in noise], [0.0] * len(noise), clusters, permutations=400)
        detected += p < 0.05
    assert 0.70 <= detected / repeats <= 0.90


def test_permutations_by_enumeration() -> None:
    # Cluster sums of a - b: q1 2 + 2 = 4, q2 1, q3 -2; observed |3|. The 8 patterns of +-4 +-1 +-2 are
    # 7, 3, 5, 1 and their negatives; at least 3 in size: six of eight.
    a, b = [12.0, 12.0, 11.0, 8.0], [10.0, 10.0, 10.0, 10.0]
    assert p_of(a, b, ["q1", "q1", "q2", "q3"]) == 6 / 8
    # As loose items 2, 2, 1, -2: |3|; of the 16 patterns 2 have |7|, 2 |5|, 6 |3| and 6 |1|.
    assert p_of(a, b, [1, 2, 3, 4]) == 10 / 16


def test_permutations_weigh_countries_alike() -> None:
    # KEN has two items, NZL one: q1 adds 4 / (2 * 2) = 1, q2 2 / (2 * 2) = 0.5, q3 -3 / (1 * 2) = -1.5.
    # Observed 0: every pattern is as extreme.
    a, b = [4.0, 2.0, 0.0], [0.0, 0.0, 3.0]
    assert p_of(a, b, ["q1", "q2", "q3"], groups=["KEN", "KEN", "NZL"]) == 1
    assert p_of(a, b, ["q1", "q2", "q3"]) == 6 / 8  # plain: |3| of 4, 2, 3: 9 5 3 1, by sign


def test_drawn_permutations_agree_with_all_of_them() -> None:
    rng = np.random.default_rng(11)
    a, b = rng.normal(0.5, 1, 12), np.zeros(12)
    exact = p_of(a, b, range(12))
    drawn = p_of(a, b, range(12), permutations=4000)
    assert drawn == pytest.approx(exact, abs=0.02)
    assert exact * 4096 == pytest.approx(round(exact * 4096))
    sure = compare([5.0] * 40, [0.0] * 40, range(40), permutations=999)
    assert sure is not None and sure.p == sure.smallest_p == 1 / 1000  # never 0


def test_permutations_hold_their_level() -> None:
    rng = np.random.default_rng(2)
    under = 0
    for _ in range(300):
        a, clusters, groups = simulated(rng, questions=20, countries=3)
        b, _, _ = simulated(rng, questions=20, countries=3)
        under += p_of(a, b, clusters, groups=groups, permutations=200) < 0.05
    assert under / 300 < 0.09


@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=14),
    st.sampled_from([0.01, 0.05, 0.2]),
    st.sampled_from([50, 100_000]),
    st.floats(0, 3),
)
def test_interval_and_p_never_contradict_each_other(
    differences: list[float], alpha: float, permutations: int, apart: float
) -> None:
    table = np.array([differences, np.array(differences) + apart])  # two runs
    made = compare(table, np.zeros(len(differences)), range(len(differences)), permutations=permutations)
    assert made is not None
    ends = made.flips.ends(1 - alpha)
    if ends is None:
        assert made.smallest_p >= alpha or permutations == 50
        return
    low, high = ends
    if min(abs(low), abs(high)) > 1e-6:  # on the edge itself rounding may decide
        assert (low <= 0 <= high) == (made.p >= alpha)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    # 0.03 * 2 = 0.06 first, then 0.04 * 1 may not fall below it; nothing exceeds 1.
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        holm([1.5])


def test_holms_levels_by_hand() -> None:
    # 0.01 < 0.05 / 4 is rejected there; 0.02 is not below 0.05 / 3, and what follows is held at that level.
    assert holm_levels([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.05 / 3, 0.05 / 4, 0.05 / 3, 0.05 / 3])
    assert holm_levels([0.001, 0.04]) == pytest.approx([0.025, 0.05])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holms_levels_say_what_holm_says(p_values: list[float]) -> None:
    for p, adjusted, level in zip(p_values, holm(p_values), holm_levels(p_values), strict=True):
        if abs(adjusted - 0.05) > 1e-9:
            assert (p < level) == (adjusted < 0.05)


def test_only_what_both_answered_is_compared() -> None:
    a = [70.0, 60.0, None, 80.0, None]
    b = [60.0, 60.0, 50.0, None, None]
    made = compare(a, b, ["q1", "q2", "q3", "q4", "q5"])
    assert made is not None
    assert (made.difference.mean, made.difference.n) == (5, 2)
    assert (made.only_first, made.only_second, made.neither) == (1, 1, 1)
    assert made.p == 1  # +-10 +-0: all four patterns are as extreme
    assert compare([None, 1.0], [2.0, None], ["q1", "q2"]) is None
    alone = compare([1.0], [0.0], ["q1"])
    assert alone is not None and alone.detectable() is None and alone.difference.low is None
    # an item that one run lacks is no pair
    runs = compare(np.array([[1.0, 2.0], [3.0, np.nan]]), np.zeros(2), ["q1", "q2"])
    assert runs is not None and (runs.difference.mean, runs.difference.n, runs.only_second) == (2, 1, 1)


def test_the_spread_over_runs() -> None:
    found = spread([70.0, 72.0, 74.0])
    assert (found.runs, found.sd, found.low, found.high) == (3, 2, 70, 74)  # (4 + 0 + 4) / 2 = 4
    assert spread([70.0]).sd is None
    with pytest.raises(ValueError, match="at least one run"):
        spread([])


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="3 values but 2 clusters"):
        clustered_interval([1, 2, 3], ["a", "b"])
    with pytest.raises(ValueError, match="no item was answered"):
        clustered_interval([None, math.nan], ["a", "b"])
    with pytest.raises(ValueError, match="infinity"):
        clustered_interval([1, math.inf], ["a", "b"])
    with pytest.raises(ValueError, match="from low to high"):
        Interval(1, 2, 1, 3, 2, 2)
    with pytest.raises(ValueError, match="can not lie in 4 clusters"):
        Interval(1, 0, 2, 3, 4, 4)


def test_the_seed_decides() -> None:
    values, clusters, groups = simulated(np.random.default_rng(1))
    first = clustered_interval(values, clusters, groups=groups, permutations=100, seed=1)
    assert first == clustered_interval(values, clusters, groups=groups, permutations=100, seed=1)
    assert first != clustered_interval(values, clusters, groups=groups, permutations=100, seed=2)
