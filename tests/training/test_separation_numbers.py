from __future__ import annotations

import numpy as np
import pytest

from cultural_palette.training.pentachromatic.separation.separation import (
    cosine_silhouettes,
    plane,
    probe,
    query_centred,
    report,
    separation,
    unit,
)
from cultural_palette.training.pentachromatic.separation.statistics import (
    by_class,
    over_queries,
    pooled,
    totals,
)
from cultural_palette.training.pentachromatic.separation.texts import Labelled, NothingToMeasure

COMMUNITIES = ("africa", "america", "asia", "europe", "oceania")


def clusters(queries: int, *, topic: float, community: float, noise: float, seed: int = 0):
    """Every community on every query: topic + community + noise, in 24 dimensions."""
    random = np.random.default_rng(seed)
    topics, places = random.normal(size=(queries, 24)), np.linalg.qr(random.normal(size=(24, 24)))[0]
    texts, rows = [], []
    for query in range(queries):
        for number, key in enumerate(COMMUNITIES):
            texts.append(Labelled(f"q{query}", f"h{query}", key, f"{query} {key}"))
            rows.append(topic * topics[query] + community * places[number] + noise * random.normal(size=24))
    return texts, np.array(rows, dtype=np.float32)


def test_silhouette_of_two_right_angles_is_one() -> None:
    # Cosine distance 0 within a community, 1 across: (1 - 0) / 1 = 1.
    units = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert cosine_silhouettes(units, np.array(["a", "a", "b", "b"])).tolist() == [1, 1, 1, 1]


def test_silhouette_by_hand() -> None:
    # For the first: to its own (0.6, 0.8) 1 - 0.6 = 0.4; to b's one text 1 - 0 = 1: (1 - 0.4) / 1 = 0.6.
    # For the second: own 0.4; to b 1 - 0.8 = 0.2: (0.2 - 0.4) / 0.4 = -0.5. A community's only text: 0.
    units = np.array([[1.0, 0], [0.6, 0.8], [0, 1]])
    assert cosine_silhouettes(units, np.array(["a", "a", "b"])) == pytest.approx([0.6, -0.5, 0.0])


def test_silhouette_is_scikit_learns() -> None:
    from sklearn.metrics import silhouette_samples

    random = np.random.default_rng(3)
    units, labels = unit(random.normal(size=(60, 7))), random.choice(["a", "b", "c"], size=60)
    assert cosine_silhouettes(units, labels) == pytest.approx(
        silhouette_samples(units, labels, metric="cosine")
    )


def test_separate_communities_are_found_and_alike_ones_are_not() -> None:
    texts, vectors = clusters(40, topic=0.0, community=1.0, noise=0.01)
    apart = separation("ours", texts, vectors, communities=COMMUNITIES, resamples=200)
    assert apart.as_is.silhouette_cosine.value > 0.98
    assert apart.as_is.probe is not None and apart.as_is.probe.accuracy.value == 1.0
    assert apart.as_is.probe.confusion == tuple(tuple(40 * (i == j) for j in range(5)) for i in range(5))

    texts, vectors = clusters(40, topic=1.0, community=0.0, noise=0.3)
    alike = separation("ours", texts, vectors, communities=COMMUNITIES, resamples=200)
    assert alike.as_is.silhouette_cosine.value < 0.01
    assert alike.as_is.probe is not None and alike.as_is.probe.balanced_chance == pytest.approx(0.2)
    assert alike.as_is.probe.accuracy.low < 0.2 < alike.as_is.probe.accuracy.high + 0.05


def test_the_topic_hides_the_communities_until_it_is_taken_off() -> None:
    texts, vectors = clusters(60, topic=1.0, community=0.6, noise=0.05)
    found = separation("ours", texts, vectors, communities=COMMUNITIES, resamples=200)
    assert found.as_is.silhouette_cosine.value < 0.1
    assert found.query_centred is not None
    assert found.query_centred.silhouette_cosine.value > 0.8
    assert found.query_centred.silhouette_euclidean_2d.value > found.as_is.silhouette_euclidean_2d.value


def test_a_probe_that_could_only_remember_queries_is_at_chance() -> None:
    """One answer a query, of one community: with the query in training it would be known."""
    random = np.random.default_rng(0)
    queries = np.repeat([f"q{n}" for n in range(60)], 4)
    labels = np.repeat(random.choice(["a", "b"], size=60), 4)
    vectors = np.repeat(random.normal(size=(60, 40)), 4, axis=0)
    found = probe(vectors, queries, labels, resamples=200)
    assert found is not None
    assert 0.25 < found.accuracy.value < 0.75
    assert len(found.folds) == 5


def test_the_probes_chance_is_the_largest_communitys_share() -> None:
    queries = np.array([f"q{n}" for n in range(40)])
    labels = np.array(["a"] * 30 + ["b"] * 10)
    found = probe(np.zeros((40, 3)), queries, labels, resamples=50)
    assert found is not None
    assert (found.chance, found.balanced_chance) == (0.75, 0.5)
    # Nothing to see: it names the largest community. 30 of 40 right; balanced (1 + 0) / 2.
    assert (found.accuracy.value, found.balanced_accuracy.value) == (0.75, 0.5)


def test_query_centring_by_hand() -> None:
    vectors = np.array([[1.0, 0], [3, 0], [5, 5], [2, 2], [4, 4]])
    queries, labels = np.array(["q", "q", "alone", "same", "same"]), np.array(["a", "b", "a", "a", "a"])
    indices, centred = query_centred(vectors, queries, labels)
    # "alone" has one answer, "same" one community's: neither says anything about communities.
    assert indices.tolist() == [0, 1]
    assert centred.tolist() == [[-1, 0], [1, 0]]


def test_without_a_shared_query_nothing_is_centred() -> None:
    texts = [Labelled(f"q{n}", f"h{n}", COMMUNITIES[n % 2], "x") for n in range(12)]
    vectors = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    found = separation("theirs", texts, vectors, communities=COMMUNITIES, resamples=20)
    assert found.query_centred is None
    assert report(found)["query_centred"] is None
    assert found.communities == ("africa", "america")


def test_one_community_cannot_be_separated() -> None:
    texts = [Labelled("q", "h", "asia", "x")] * 3
    with pytest.raises(NothingToMeasure, match="asia only; two communities are needed"):
        separation("ours", texts, np.eye(3, dtype=np.float32), communities=COMMUNITIES)


def test_equal_answers_give_zeros_not_nan() -> None:
    texts, _ = clusters(6, topic=0, community=0, noise=0)
    found = separation(
        "ours", texts, np.ones((30, 4), dtype=np.float32), communities=COMMUNITIES, resamples=20
    )
    row = report(found)["as_is"]
    assert row["silhouette_cosine"]["value"] == row["silhouette_euclidean_2d"]["value"] == 0.0
    assert row["explained_variance_2d"] == [0.0, 0.0]
    assert plane(np.ones((4, 3)))[0].tolist() == [[0, 0]] * 4


def test_figures_over_queries_by_hand() -> None:
    # q1: a right, b wrong; q2: a right. Pooled 2/3; by class (2/2 + 0/1) / 2 = 1/2.
    sums, counts = totals(np.array([1.0, 0, 1]), ["q1", "q1", "q2"], ["a", "b", "a"])
    assert sums.tolist() == [[1, 0], [1, 0]] and counts.tolist() == [[1, 1], [1, 0]]
    assert over_queries(sums, counts, pooled, resamples=10).value == pytest.approx(2 / 3)
    assert over_queries(sums, counts, by_class, resamples=10).value == pytest.approx(1 / 2)


def test_the_interval_resamples_queries_not_answers() -> None:
    """Ten queries of a hundred equal answers know as much as ten answers: the interval must be as wide."""
    values = np.array([0.0] * 5 + [1.0] * 5)
    one = over_queries(*totals(values, [str(n) for n in range(10)]), pooled)
    many = over_queries(
        *totals(np.repeat(values, 100), [str(n) for n in range(10) for _ in range(100)]), pooled
    )
    assert (one.low, one.high) == pytest.approx((many.low, many.high))
    assert one.high - one.low > 0.5
    assert (many.n, many.queries) == (1000, 10)


def test_a_single_query_has_no_interval() -> None:
    found = over_queries(*totals(np.array([0.0, 1.0]), ["q", "q"]), pooled)
    assert (found.value, found.low, found.high) == (0.5, None, None)
