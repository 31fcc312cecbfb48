"""Splits: by query, stable, near-same ones together."""

from __future__ import annotations

import pytest

pytest.importorskip("datasketch")

from cultural_palette.errors import UsageError
from cultural_palette.training.pentachromatic.splits import assign, normalised, side
from tests.training.pentachromatic_runs import question

QUERIES = [(f"p{n}", question(n)) for n in range(300)]


def test_later_queries_move_no_earlier_one() -> None:
    fewer, more = assign(QUERIES[:200], 0.2, 1), assign(QUERIES, 0.2, 1)
    assert all(more.of[query_id] == fewer.of[query_id] for query_id, _ in QUERIES[:200])
    shuffled = assign(QUERIES[::-1], 0.2, 1)  # no two are near-same here: the order does not matter
    assert shuffled.of == more.of


def test_the_seed_draws_another_split_of_the_same_share() -> None:
    one, other = assign(QUERIES, 0.2, 0), assign(QUERIES, 0.2, 1)
    assert one.of != other.of
    for splits in (one, other):
        # binomial: 300 x 0.2 = 60 expected, standard deviation (300 x 0.2 x 0.8) ** 0.5 = 6.9
        assert abs(sum(each == "test" for each in splits.of.values()) - 60) < 4 * 6.9


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the meaning of life?", "what is the  meaning of life"),
        ("How can I lose weight in one month?", "How can I loose weight in one month?"),
        ("Should women be allowed to have an abortion?", "Should women be allowed to have an abortion? Why?"),
        ("Ｗhat is the meaning of life", "What is the meaning of life"),
    ],
)
def test_near_same_queries_go_together_whatever_the_seed(one: str, other: str) -> None:
    for seed in range(20):
        found = assign([("a", one), *QUERIES[:20], ("b", other)], 0.5, seed)
        assert found.of["a"] == found.of["b"] == side("a", 0.5, seed)
        assert found.leaders == {"b": "a"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "What is the capital of Germany?"),
        ("Is abortion right?", "Is abortion wrong?"),
        ("为什么天空是蓝色的", "为什么海水是咸的"),
    ],
)
def test_other_questions_are_on_their_own(one: str, other: str) -> None:
    assert assign([("a", one), ("b", other)]).leaders == {}


def test_a_query_of_signs_alone_is_still_one() -> None:
    assert normalised(" ??? ") == "???"
    assert assign([("a", "???"), ("b", "!")]).leaders == {}


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(UsageError, match="test share"):
        assign(QUERIES, share)


def test_no_test_split_when_the_share_is_zero() -> None:
    assert set(assign(QUERIES, 0).of.values()) == {"train"}
