"""Case studies by rule: the best, the median and the worst item of our method, and some drawn by lot."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cultural_palette.evaluation.metrics import ALIGNMENTS
from cultural_palette.evaluation.report.analysis import item_means
from cultural_palette.evaluation.report.load import FAILED, MISSING, OK, UNREADABLE, Evaluation, Item
from cultural_palette.evaluation.report.roles import Roles

RULE = (
    "Of the items that {ours} answered, by its mean over the runs under the chosen metric: the highest, the "
    "middle (the lower of two), the lowest; equals by item id. Then {drawn} drawn by lot with seed {seed} "
    "from the rest. Shown is the first run that answered."
)


@dataclass(frozen=True)
class MethodCase:
    """What one method predicted for an item in the run shown. `scores`: alignment -> 0..100, empty unless
    it is ok.
    """

    method: str
    status: str
    row: Mapping[str, Any]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """One item through all stages: `ours`, and what the others predicted in the same run."""

    why: str
    item: Item
    run: int
    mean_score: float
    ours: MethodCase
    others: tuple[MethodCase, ...]


@dataclass(frozen=True)
class Failure:
    """A row that is not ok, with its line in rows.jsonl."""

    method: str
    run: int
    item: Item
    status: str
    line: int


def choose_cases(
    evaluation: Evaluation, roles: Roles, metric: str, *, drawn: int = 1, seed: int = 0
) -> tuple[Case, ...]:
    """Cases by the RULE; none when our method answered nothing."""
    means = item_means(evaluation, roles.ours, metric)
    ranked = sorted(
        np.flatnonzero(~np.isnan(means)).tolist(), key=lambda k: (-means[k], evaluation.items[k].id)
    )
    if not ranked:
        return ()
    chosen: dict[int, str] = {}
    for why, index in (("best", ranked[0]), ("worst", ranked[-1]), ("median", ranked[len(ranked) // 2])):
        chosen.setdefault(index, why)
    rest = [index for index in ranked if index not in chosen]
    for index in random.Random(seed).sample(sorted(rest), min(drawn, len(rest))):
        chosen[index] = "by lot"
    order = ("best", "median", "worst", "by lot")
    picked = sorted(chosen.items(), key=lambda pair: order.index(pair[1]))
    ours = evaluation.methods.index(roles.ours)
    runs = {index: int(np.argmax(evaluation.status[ours, :, index] == OK)) for index, _ in picked}
    lines = [int(line) for index, _ in picked for line in evaluation.line[:, runs[index], index]]
    rows = evaluation.rows_at(lines)

    def case_of(method: str, index: int) -> MethodCase:
        place = (evaluation.methods.index(method), runs[index], index)
        row = rows.get(int(evaluation.line[place]), {})
        ok = row.get("status") == "ok"
        scores = {key: float(evaluation.scores[key][place]) for key in ALIGNMENTS} if ok else {}
        return MethodCase(method, str(row.get("status", "missing")), row, scores)

    return tuple(
        Case(
            why,
            evaluation.items[index],
            runs[index],
            float(means[index]),
            case_of(roles.ours, index),
            tuple(case_of(method, index) for method in roles.of if method != roles.ours),
        )
        for index, why in picked
    )


def failures(evaluation: Evaluation) -> tuple[Failure, ...]:
    """Every row that is not ok, by method, item and run; rows that are missing have line 0."""
    names = {MISSING: "missing", UNREADABLE: "unreadable", FAILED: "failed"}
    rows = []
    for number, method in enumerate(evaluation.methods):
        runs, items = np.nonzero(evaluation.status[number] != OK)
        for index, run in sorted(zip(items.tolist(), runs.tolist(), strict=True)):
            place = (number, run, index)
            status, line = names[int(evaluation.status[place])], int(evaluation.line[place])
            rows.append(Failure(method, run, evaluation.items[index], status, line))
    return tuple(rows)
