"""The same rows by other papers' own scores, to be held against their figures like with like.

`modular-pluralism` (Feng et al. 2024, their script for distributions): questions with at most five options;
Jensen-Shannon distance in base e, the less the better, as the plain mean over rows; a reply that can not be
read counts as uniform. Beside it how often the likeliest option (the first of equals) is the survey's.

`culturespa` (Xu et al. 2025, their script for the World Values Survey): one answer a question, as the number
of its option; a country's score is 100 * (1 - the Euclidean distance between its answers and the survey's
over all questions, over the greatest distance possible); then the mean over countries. Their gold answer is
the first code that their file lists for the question; ours is the option that most people chose. A question
without a readable answer is left out, as there.

Both are scores of the whole: no intervals. What their papers ask models, and how, is another matter still
(docs/methods.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cultural_palette.distributions import js_distances
from cultural_palette.evaluation.metrics import Floats
from cultural_palette.evaluation.report.load import OK, UNREADABLE, Evaluation

Peer = Literal["modular-pluralism", "culturespa"]
PEERS: tuple[Peer, ...] = ("modular-pluralism", "culturespa")
MOST_OPTIONS = 5


@dataclass(frozen=True)
class ModularPluralism:
    """`distance`: mean Jensen-Shannon distance, base e (0..0.83); `mode`: share of rows whose likeliest
    option is the survey's; `rows`: how many counted, `uniform` of them as uniform.
    """

    distance: float
    mode: float
    rows: int
    uniform: int


def modular_pluralism(evaluation: Evaluation, method: str) -> ModularPluralism | None:
    """A method's rows by that score; None without a row of at most five options."""
    number = evaluation.methods.index(method)
    status, predicted = evaluation.status[number], evaluation.predicted[number]
    sizes = np.array([len(item.options) for item in evaluation.items])
    runs, items = np.nonzero(((status == OK) | (status == UNREADABLE)) & (sizes <= MOST_OPTIONS))
    if not len(runs):
        return None
    unread = status[runs, items] == UNREADABLE
    guesses = np.where(unread[:, None], _uniform(sizes, predicted.shape[-1])[items], predicted[runs, items])
    gold = evaluation.gold[items]
    agree = guesses.argmax(axis=-1) == gold.argmax(axis=-1)
    distance = float(js_distances(gold, guesses, math.e).mean())
    return ModularPluralism(distance, float(agree.mean()), len(runs), int(unread.sum()))


def culturespa(evaluation: Evaluation, method: str) -> float | None:
    """A method's score, 0..100, mean over runs; None when nothing was answered."""
    number = evaluation.methods.index(method)
    scores = []
    for run in range(evaluation.runs):
        answered = np.flatnonzero(evaluation.status[number, run] == OK).tolist()
        squares: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for place in answered:
            item = evaluation.items[place]
            apart = int(evaluation.predicted[number, run, place].argmax()) - int(np.argmax(item.gold))
            squares[item.country].append((apart**2, (len(item.options) - 1) ** 2))
        countries = [
            1 - math.sqrt(sum(apart for apart, _ in own) / sum(most for _, most in own))
            for own in squares.values()
        ]
        if countries:
            scores.append(100 * math.fsum(countries) / len(countries))
    return math.fsum(scores) / len(scores) if scores else None


def _uniform(sizes: NDArray[np.int64], widest: int) -> Floats:
    shares: Floats = np.where(np.arange(widest) < sizes[:, None], 1 / sizes[:, None], 0.0)
    return shares
