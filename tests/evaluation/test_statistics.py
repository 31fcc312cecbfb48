"""Statistics on cases small enough to do by hand, and on simulated data whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from cultural_palette.evaluation.statistics import (
    Interval,
    average,
    clustered_bootstrap,
    clustered_error,
    compare,
    country_means,
    grouped_bootstrap,
    holm,
    paired_permutation,
    smallest_detectable_difference,
    spread,
)


def test_the_average_is_the_mean_of_the_countries_means() -> None:
    values, countries = [60.0, 80.0, 40.0, None], ["KEN", "KEN", "NZL", "USA"]
    # KEN (60 + 80) / 2 = 70, NZL 40, USA nothing answered; (70 + 40) / 2 = 55, while the plain mean is 60.
    assert country_means(values, countries) == {"KEN": 70, "NZL": 40}
    assert average(values, countries) == 55
    assert average([None], ["USA"]) is None


def test_one_bootstrap_serves_the_average_and_every_country() -> None:
    values = [60.0, 80.0, 40.0, None]
    whole, each = grouped_bootstrap(values, ["q1", "q2", "q1", "q2"], ["KEN", "KEN", "NZL", "NZL"])
    assert (whole.mean, whole.n, whole.clusters) == (55, 3, 2)
    assert each["NZL"] == Interval(40, None, None, 1, 1)  # one question says nothing of others
    # KEN's two questions: 60, 60 | 60, 80 | 80, 80 in a quarter, a half, a quarter of the resamples.
    assert (each["KEN"].low, each["KEN"].high) == (60, 80)
    assert whole == clustered_bootstrap(values, ["q1", "q2", "q1", "q2"], groups=["KEN", "KEN", "NZL", "NZL"])


def test_the_bootstrap_by_enumeration() -> None:
    # Three clusters with sums 0, 30, 60 of one item each: 27 equally likely resamples of the mean.
    means = sorted(sum(draw) / 3 for draw in itertools.product([0, 30, 60], repeat=3))
    low, high = np.quantile(means, [0.1, 0.9])
    found = clustered_bootstrap([0, 30, 60], ["a", "b", "c"], resamples=20000, level=0.8)
    assert found.mean == 30
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_the_clustered_error_by_hand() -> None:
    # One group, mean 5. Deviations by cluster: a (-5 - 3) = -8, b (3 + 5) = 8; u = -8 / 4, 8 / 4.
    # sqrt(2 / 1 * (4 + 4)) = 4; as four loose items it is sd / 2 = sqrt((25 + 9 + 9 + 25) / 3) / 2 = 2.38.
    values = [0.0, 2.0, 8.0, 10.0]
    assert clustered_error(values, ["a", "a", "b", "b"]) == pytest.approx(4)
    assert clustered_error(values, [1, 2, 3, 4]) == pytest.approx(math.sqrt(68 / 3) / 2)
    with pytest.raises(ValueError, match="at least two"):
        clustered_error(values, ["a"] * 4)


def test_the_smallest_detectable_difference_by_hand() -> None:
    # z(0.975) + z(0.8) = 1.95996 + 0.84162 = 2.80159, times the error of 4 above.
    found = smallest_detectable_difference([0.0, 2.0, 8.0, 10.0], ["a", "a", "b", "b"])
    assert found == pytest.approx(2.80159 * 4, rel=1e-5)


def simulated(
    rng: np.random.Generator, questions: int = 60, countries: int = 6
) -> tuple[list[float], list[int], list[str]]:
    """Scores around 70 whose questions differ (sd 8) more than their countries' answers (sd 3)."""
    scores = 70 + rng.normal(0, 8, questions)[:, None] + rng.normal(0, 3, (questions, countries))
    rows = [(float(scores[q, c]), q, f"C{c}") for q in range(questions) for c in range(countries)]
    values, clusters, groups = zip(*rows, strict=True)
    return list(values), list(clusters), list(groups)


def test_clustered_intervals_cover_where_naive_ones_are_too_narrow() -> None:
    rng = np.random.default_rng(7)
    covered = naive_covered = 0
    repeats = 200
    for _ in range(repeats):
        values, clusters, groups = simulated(rng)
        wide = clustered_bootstrap(values, clusters, groups=groups, resamples=400)
        naive = clustered_bootstrap(values, range(len(values)), groups=groups, resamples=400)
        assert wide.low is not None and wide.high is not None
        assert naive.low is not None and naive.high is not None
        assert wide.high - wide.low > naive.high - naive.low
        covered += wide.low <= 70 <= wide.high
        naive_covered += naive.low <= 70 <= naive.high
    assert 0.90 <= covered / repeats <= 0.99
    assert naive_covered / repeats < 0.75


def test_the_error_agrees_with_the_bootstrap() -> None:
    values, clusters, groups = simulated(np.random.default_rng(3))
    found = clustered_bootstrap(values, clusters, groups=groups, resamples=4000)
    assert found.low is not None and found.high is not None
    width = (found.high - found.low) / (2 * 1.96)
    assert clustered_error(values, clusters, groups=groups) == pytest.approx(width, rel=0.05)


def test_the_power_that_is_promised() -> None:
    rng = np.random.default_rng(5)
    found, repeats = 0, 200
    for _ in range(repeats):
        noise, clusters, _ = simulated(rng, questions=40, countries=3)
        noise = [each - 70 for each in noise]
        true = 2.80159 * math.sqrt((8**2 + 3**2 / 3) / 40)
        p = paired_permutation([x + true for x in noise], [0.0] * len(noise), clusters, permutations=400)
        found += p < 0.05
    assert 0.70 <= found / repeats <= 0.90


def test_permutations_by_enumeration() -> None:
    # Cluster sums of a - b: q1 2 + 2 = 4, q2 1, q3 -2; observed |3|. The 8 patterns of +-4 +-1 +-2 are
    # 7, 3, 5, 1 and their negatives; at least 3 in size: six of eight.
    a, b = [12.0, 12.0, 11.0, 8.0], [10.0, 10.0, 10.0, 10.0]
    assert paired_permutation(a, b, ["q1", "q1", "q2", "q3"]) == 6 / 8
    # As loose items 2, 2, 1, -2: |3|; of the 16 patterns 2 have |7|, 2 |5|, 6 |3| and 6 |1|.
    assert paired_permutation(a, b, [1, 2, 3, 4]) == 10 / 16


def test_permutations_weigh_countries_alike() -> None:
    # KEN has two items, NZL one: q1 adds 4 / (2 * 2) = 1, q2 2 / (2 * 2) = 0.5, q3 -3 / (1 * 2) = -1.5.
    # Observed 0: every pattern is as extreme.
    a, b = [4.0, 2.0, 0.0], [0.0, 0.0, 3.0]
    assert paired_permutation(a, b, ["q1", "q2", "q3"], groups=["KEN", "KEN", "NZL"]) == 1
    assert paired_permutation(a, b, ["q1", "q2", "q3"]) == 6 / 8  # plain: |3| of 4, 2, 3: 9 5 3 1, by sign


def test_drawn_permutations_agree_with_all_of_them() -> None:
    rng = np.random.default_rng(11)
    a, b = rng.normal(0.5, 1, 12), np.zeros(12)
    exact = paired_permutation(a, b, range(12))
    drawn = paired_permutation(a, b, range(12), permutations=4000)
    assert drawn == pytest.approx(exact, abs=0.02)
    assert exact * 4096 == pytest.approx(round(exact * 4096))
    sure = paired_permutation([5.0] * 40, [0.0] * 40, range(40), permutations=999)
    assert sure == 1 / 1000  # never 0


def test_permutations_hold_their_level() -> None:
    rng = np.random.default_rng(2)
    under = 0
    for _ in range(300):
        a, clusters, groups = simulated(rng, questions=20, countries=3)
        b, _, _ = simulated(rng, questions=20, countries=3)
        under += paired_permutation(a, b, clusters, groups=groups, permutations=200) < 0.05
    assert under / 300 < 0.09


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    # 0.03 * 2 = 0.06 first, then 0.04 * 1 may not fall below it; nothing exceeds 1.
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        holm([1.5])


def test_only_what_both_answered_is_compared() -> None:
    a = [70.0, 60.0, None, 80.0, None]
    b = [60.0, 60.0, 50.0, None, None]
    found = compare(a, b, ["q1", "q2", "q3", "q4", "q5"])
    assert found is not None
    assert (found.difference.mean, found.difference.n) == (5, 2)
    assert (found.only_first, found.only_second, found.neither) == (1, 1, 1)
    assert found.p == 1  # +-10 +-0: all four patterns are as extreme
    assert compare([None, 1.0], [2.0, None], ["q1", "q2"]) is None
    alone = compare([1.0], [0.0], ["q1"])
    assert alone is not None and alone.detectable is None and alone.difference.low is None


def test_the_spread_over_runs() -> None:
    found = spread([70.0, 72.0, 74.0])
    assert (found.runs, found.sd, found.low, found.high) == (3, 2, 70, 74)  # (4 + 0 + 4) / 2 = 4
    assert spread([70.0]).sd is None
    with pytest.raises(ValueError, match="at least one run"):
        spread([])


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="3 values but 2 clusters"):
        clustered_bootstrap([1, 2, 3], ["a", "b"])
    with pytest.raises(ValueError, match="no item was answered"):
        clustered_bootstrap([None, math.nan], ["a", "b"])
    with pytest.raises(ValueError, match="infinity"):
        clustered_bootstrap([1, math.inf], ["a", "b"])
    with pytest.raises(ValueError, match="from low to high"):
        Interval(1, 2, 1, 3, 2)
    with pytest.raises(ValueError, match="can not lie in 4 clusters"):
        Interval(1, 0, 2, 3, 4)


def test_the_seed_decides() -> None:
    values, clusters, groups = simulated(np.random.default_rng(1))
    first = clustered_bootstrap(values, clusters, groups=groups, resamples=100, seed=1)
    assert first == clustered_bootstrap(values, clusters, groups=groups, resamples=100, seed=1)
    assert first != clustered_bootstrap(values, clusters, groups=groups, resamples=100, seed=2)
