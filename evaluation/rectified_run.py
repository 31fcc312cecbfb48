"""A run's predictions and a small sample of people together: each question's mean shares over all
populations.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from cultural_palette.errors import UsageError
from cultural_palette.evaluation.rectify import FEWEST, Rectified, rectify
from cultural_palette.evaluation.report.load import OK, Evaluation
from cultural_palette.evaluation.surveys import Survey


@dataclass(frozen=True)
class RectifiedOption:
    """One option of one question."""

    question_id: str
    question: str
    option: str
    result: Rectified


def rectify_run(
    evaluation: Evaluation, method: str, human: Survey, level: float = 0.95
) -> tuple[list[RectifiedOption], int]:
    """Every option of every question that `human` has for four populations at least, and the number of
    questions that it has for fewer. Items are matched by id.

    Raises UsageError for an unknown method, or when nothing matches.
    """
    if method not in evaluation.methods:
        raise UsageError(f"The run has no method {method!r}; it has {', '.join(evaluation.methods)}.")
    number = evaluation.methods.index(method)
    answered = (evaluation.status[number] == OK).all(axis=0)
    predicted = evaluation.predicted[number].mean(axis=0)
    by_id = {item.id: item for item in human.items}
    of_question: defaultdict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(evaluation.items):
        if answered[place]:
            of_question[item.question_id].append(place)
    rectified: list[RectifiedOption] = []
    few = 0
    for key, places in of_question.items():
        there = [place for place in places if evaluation.items[place].id in by_id]
        if len(there) < FEWEST:
            few += bool(there)
            continue
        first = evaluation.items[places[0]]
        people = [by_id[evaluation.items[place].id] for place in there]
        for option, text in enumerate(first.options):
            answers = [item.gold.probabilities[option] for item in people]
            noise = None
            if all(item.respondents for item in people):
                noise = float(
                    np.mean(
                        [
                            p * (1 - p) / (item.respondents or 1)
                            for p, item in zip(answers, people, strict=True)
                        ]
                    )
                )
            result = rectify(
                answers,
                predicted[there, option].tolist(),
                predicted[places, option].tolist(),
                noise=noise,
                level=level,
            )
            rectified.append(RectifiedOption(key, first.question, text, result))
    if not rectified:
        raise UsageError(
            f"No question of {evaluation.path} was answered by {FEWEST} populations or more in "
            f"{human.source}: items are "
            "matched by id, so read both with the same options."
        )
    return rectified, few
