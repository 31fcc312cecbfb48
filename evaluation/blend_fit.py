"""Which cultures is a country blended from? Convex weights over communities, from questions it answered.

    w = argmax  sum_n sum_k p_nk log( sum_c w_c q_nkc )  +  strength / C * sum_c log w_c

for the country's shares p of N questions and the communities' distributions q: maximum likelihood of a
mixture under a symmetric Dirichlet prior, found by expectation and maximisation (Dempster, Laird and Rubin
1977). The objective is concave, so the start does not matter. `strength` counts like so many questions
answered alike by every community; it is chosen by cross-validation over batteries. An infinite one is equal
weights.

Intervals: percentiles of the weights over batteries drawn with replacement (a cluster bootstrap), at the
strength chosen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cultural_palette.distributions import Distribution
from cultural_palette.errors import UsageError

Floats = NDArray[np.float64]
STRENGTHS = (0.5, 2.0, 8.0, 32.0, math.inf)
FOLDS, DRAWS, LEVEL = 5, 400, 0.95
STEPS, STILL, LEAST = 2000, 1e-9, 1e-12
FEWEST = 8
"""Questions, below which no blend is fitted."""


class BlendFitError(UsageError):
    """Too little to fit a blend on, or communities that did not answer the same questions."""


@dataclass(frozen=True)
class AnsweredQuestion:
    """What a country answered, and what each community's agent would: over the same options."""

    battery: str
    gold: Distribution
    agents: Mapping[str, Distribution]


@dataclass(frozen=True)
class FittedBlend:
    """A country's weights over communities (sum 1), with the ends of their intervals.

    `strength`: of the prior, as chosen. `losses`: cross-validated KL in nats (of the country's shares from
    the blend's) of the fitted blend, of equal weights, and of the one community that was best in the other
    folds.
    """

    weights: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    questions: int
    batteries: int
    strength: float
    losses: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; an infinite strength is null."""
        return {
            "weights": dict(self.weights),
            "low": dict(self.low),
            "high": dict(self.high),
            "questions": self.questions,
            "batteries": self.batteries,
            "strength": None if math.isinf(self.strength) else self.strength,
            "cross_validated_kl": dict(self.losses),
        }


def fit_blend(answered: Sequence[AnsweredQuestion], seed: int = 0) -> FittedBlend:
    """The blend of a country's answered questions. Raises BlendFitError for fewer than `FEWEST`, or with one
    battery only, which can not be cross-validated.
    """
    keys = list(answered[0].agents) if answered else []
    if any(set(one.agents) != set(keys) for one in answered) or len(keys) < 2 <= len(answered):
        raise BlendFitError("a blend is fitted on questions that the same two communities or more answered")
    batteries = sorted({one.battery for one in answered})
    if len(answered) < FEWEST or len(batteries) < 2:
        raise BlendFitError(
            f"{len(answered)} questions of {len(batteries)} batteries are too few to fit a blend on: give "
            f"{FEWEST} or more, of two batteries at least"
        )
    tables = [_table(one, keys) for one in answered]
    shuffled = list(batteries)
    random.Random(seed).shuffle(shuffled)
    fold_of = {battery: place % min(FOLDS, len(batteries)) for place, battery in enumerate(shuffled)}
    folds = [fold_of[one.battery] for one in answered]
    losses = {strength: _cross_validated(tables, folds, strength) for strength in STRENGTHS}
    # Of equals the stronger prior: no evidence is no reason to leave equal weights.
    strength = min(reversed(STRENGTHS), key=lambda one: losses[one])
    weights = _weights(tables, strength)
    of_battery: dict[str, list[Any]] = {battery: [] for battery in batteries}
    for one, table in zip(answered, tables, strict=True):
        of_battery[one.battery].append(table)
    lot = random.Random(seed)
    drawn = np.array(
        [
            _weights([t for battery in lot.choices(batteries, k=len(batteries)) for t in of_battery[battery]],
                     strength)
            for _ in range(DRAWS)
        ]
    )  # fmt: skip
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return FittedBlend(
        dict(zip(keys, weights.tolist(), strict=True)),
        dict(zip(keys, low.tolist(), strict=True)),
        dict(zip(keys, high.tolist(), strict=True)),
        len(answered),
        len(batteries),
        strength,
        {
            "fitted": losses[strength],
            "uniform": losses[math.inf],
            "best_one": _best_one(tables, folds),
        },
    )


def blended(weights: Mapping[str, float], agents: Mapping[str, Distribution]) -> Distribution:
    """The communities' distributions under the weights."""
    return Distribution.mix([agents[key] for key in weights], list(weights.values()))


Table = tuple[Floats, Floats]
"""A question: the country's shares (options), and the communities' (communities, options)."""


def _table(one: AnsweredQuestion, keys: Sequence[str]) -> Table:
    return (
        np.array(one.gold.probabilities),
        np.maximum(np.array([one.agents[key].probabilities for key in keys]), LEAST),
    )


def _weights(tables: Sequence[Table], strength: float) -> Floats:
    count = len(tables[0][1])
    weights = np.full(count, 1 / count)
    if math.isinf(strength):
        return weights
    gold = np.concatenate([shares for shares, _ in tables])
    agents = np.concatenate([some for _, some in tables], axis=1)
    for _ in range(STEPS):
        taken = weights[:, None] * agents
        mine = (taken / taken.sum(axis=0) * gold).sum(axis=1)
        after = (mine + strength / count) / (len(tables) + strength)
        still = np.abs(after - weights).max() < STILL
        weights = after
        if still:
            break
    return weights


def _kl(table: Table, weights: Floats) -> float:
    gold, agents = table
    some = gold > 0
    return float((gold[some] * np.log(gold[some] / (weights @ agents)[some])).sum())


def _cross_validated(tables: Sequence[Table], folds: Sequence[int], strength: float) -> float:
    total = 0.0
    for fold in set(folds):
        others = [table for table, own in zip(tables, folds, strict=True) if own != fold]
        weights = _weights(others, strength)
        total += sum(_kl(table, weights) for table, own in zip(tables, folds, strict=True) if own == fold)
    return total / len(tables)


def _best_one(tables: Sequence[Table], folds: Sequence[int]) -> float:
    alone = np.eye(len(tables[0][1]))
    losses = np.array([[_kl(table, one) for table in tables] for one in alone])
    return _loss_of_chosen(losses, np.array(folds))


def _loss_of_chosen(losses: Floats, folds: NDArray[np.int64]) -> float:
    """Mean loss of the candidate that is best in the other folds. `losses`: (candidate, question)."""
    total = 0.0
    for fold in set(folds.tolist()):
        best = losses[:, folds != fold].sum(axis=1).argmin()
        total += float(losses[best, folds == fold].sum())
    return total / len(folds)


def choose_blend(
    candidates: Mapping[str, Mapping[str, float]],
    answers: Mapping[str, Sequence[Distribution]],
    golds: Sequence[Distribution],
    batteries: Sequence[str],
    seed: int = 0,
) -> FittedBlend:
    """The candidate whose answers come nearest to the country's; the first of equals.

    `answers`: candidate -> what the model answers under it, in the order of `golds`. Its cross-validated loss
    is that of the candidate chosen on the other folds; intervals are over the candidates that are chosen on
    batteries drawn with replacement. Raises BlendFitError for too few questions.
    """
    if len(golds) < FEWEST or len(set(batteries)) < 2:
        raise BlendFitError(
            f"{len(golds)} questions of {len(set(batteries))} batteries are too few to choose a blend by: "
            f"give {FEWEST} or more, of two batteries at least"
        )
    names = list(candidates)
    keys = list(candidates[names[0]])
    losses = np.array(
        [[_divergence(gold, some) for gold, some in zip(golds, answers[name], strict=True)] for name in names]
    )  # (candidate, question)
    shuffled = sorted(set(batteries))
    random.Random(seed).shuffle(shuffled)
    fold_of = {battery: place % min(FOLDS, len(shuffled)) for place, battery in enumerate(shuffled)}
    folds = np.array([fold_of[battery] for battery in batteries])
    chosen = int(losses.sum(axis=1).argmin())
    alone = losses[[place for place, name in enumerate(names) if name in keys]]
    of_battery = {battery: [p for p, own in enumerate(batteries) if own == battery] for battery in shuffled}
    lot = random.Random(seed)
    drawn = []
    for _ in range(DRAWS):
        places = [p for battery in lot.choices(shuffled, k=len(shuffled)) for p in of_battery[battery]]
        best = names[int(losses[:, places].sum(axis=1).argmin())]
        drawn.append([candidates[best][key] for key in keys])
    low, high = np.quantile(np.array(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return FittedBlend(
        dict(candidates[names[chosen]]),
        dict(zip(keys, low.tolist(), strict=True)),
        dict(zip(keys, high.tolist(), strict=True)),
        len(golds),
        len(shuffled),
        0.0,
        {
            "fitted": _loss_of_chosen(losses, folds),
            "uniform": float(losses[0].mean()),
            "best_one": _loss_of_chosen(alone, folds),
        },
    )


def _divergence(gold: Distribution, answer: Distribution) -> float:
    """KL of the country's shares from an answer's, nats; an answer is at least `LEAST`."""
    pairs = zip(gold.probabilities, answer.probabilities, strict=True)
    return math.fsum(p * math.log(p / max(q, LEAST)) for p, q in pairs if p > 0)
