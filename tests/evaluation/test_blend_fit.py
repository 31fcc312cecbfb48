"""Blends fitted on answered questions: found again, cross-validated, refused where there is too little."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.blend_fit import (
    FEWEST,
    AnsweredQuestion,
    BlendFitError,
    blended,
    fit_blend,
)

KEYS = ("africa", "asia", "europe")


def answered(
    count: int, weights: tuple[float, ...], noise: float = 0.0, seed: int = 0
) -> list[AnsweredQuestion]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        agents = {key: Distribution.from_counts(rng.dirichlet([0.6] * 4).tolist()) for key in KEYS}
        mixed = np.array(Distribution.mix(list(agents.values()), list(weights)).probabilities)
        gold = (1 - noise) * mixed + noise * rng.dirichlet([1] * 4)
        made.append(AnsweredQuestion(f"b{number // 2}", Distribution.from_counts(gold.tolist()), agents))
    return made


def test_the_weights_that_made_the_answers_are_found_again() -> None:
    found = fit_blend(answered(50, (0.6, 0.3, 0.1)))
    assert found.strength == 0.5  # the weakest prior: the answers are the blend itself
    for key, true in zip(KEYS, (0.6, 0.3, 0.1), strict=True):
        assert found.weights[key] == pytest.approx(true, abs=0.02)
        assert found.low[key] <= found.weights[key] <= found.high[key]
    assert math.fsum(found.weights.values()) == pytest.approx(1)
    assert found.losses["fitted"] < found.losses["uniform"] < found.losses["best_one"]  # 0.6 is near 1 / 3
    assert (found.questions, found.batteries) == (50, 25)


def test_without_evidence_the_blend_stays_uniform() -> None:
    rng = np.random.default_rng(1)
    alike = [
        AnsweredQuestion(
            f"b{n}",
            Distribution.from_counts(rng.dirichlet([1] * 3).tolist()),
            dict.fromkeys(KEYS, Distribution.uniform(3)),
        )
        for n in range(20)
    ]
    found = fit_blend(alike)
    assert math.isinf(found.strength) and found.as_dict()["strength"] is None
    assert list(found.weights.values()) == pytest.approx([1 / 3] * 3)


def test_the_maximum_is_one() -> None:
    """No step along any edge of the simplex is better, of the likelihood with the prior as written."""
    from cultural_palette.evaluation import blend_fit

    data = answered(30, (0.2, 0.2, 0.6), noise=0.5)
    tables = [blend_fit._table(one, KEYS) for one in data]
    weights = blend_fit._weights(tables, 8.0)

    def objective(w: np.ndarray) -> float:
        likelihood = sum(float((gold * np.log(w @ agents)).sum()) for gold, agents in tables)
        return likelihood + 8.0 / 3 * float(np.log(w).sum())

    best = objective(weights)
    for a in range(3):
        for b in range(3):
            step = np.zeros(3)
            step[a] += 1e-3
            step[b] -= 1e-3
            assert objective(weights + step) <= best + 1e-9


def test_intervals_are_wider_with_fewer_questions() -> None:
    few, many = fit_blend(answered(12, (0.6, 0.3, 0.1), 0.5)), fit_blend(answered(120, (0.6, 0.3, 0.1), 0.5))
    widths = [found.high["africa"] - found.low["africa"] for found in (few, many)]
    if few.strength == many.strength:
        assert widths[0] > widths[1]
    assert many.low["africa"] <= many.weights["africa"] <= many.high["africa"]


def test_a_blend_of_distributions() -> None:
    """0.75 (1, 0) + 0.25 (0, 1) = (0.75, 0.25)."""
    agents = {"africa": Distribution((1.0, 0.0)), "asia": Distribution((0.0, 1.0))}
    assert blended({"africa": 0.75, "asia": 0.25}, agents).probabilities == (0.75, 0.25)


def test_too_little_is_refused() -> None:
    with pytest.raises(BlendFitError, match=rf"3 questions of 2 batteries are too few.*{FEWEST} or more"):
        fit_blend(answered(3, (0.6, 0.3, 0.1)))
    one = [AnsweredQuestion("b", each.gold, each.agents) for each in answered(20, (0.6, 0.3, 0.1))]
    with pytest.raises(BlendFitError, match="1 batteries"):
        fit_blend(one)
    other = AnsweredQuestion("x", one[0].gold, {"africa": one[0].agents["africa"]})
    with pytest.raises(BlendFitError, match="the same two communities"):
        fit_blend([*one, other])
