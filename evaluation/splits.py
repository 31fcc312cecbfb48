"""A survey in two parts that share no battery: one to choose by, one to be judged by."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from cultural_palette.evaluation.selection import SelectionError
from cultural_palette.evaluation.surveys import Survey


def split(survey: Survey, share: float, seed: int = 0) -> tuple[Survey, Survey]:
    """Two surveys: one with about `share` (0..1) of the questions, and the rest. Batteries are never
    parted.
    """
    if not 0 < share < 1:
        raise SelectionError(f"Share {share:g}: expected more than 0 and less than 1.")
    sizes = Counter(question.battery for question in survey.questions)
    batteries = sorted(sizes)
    random.Random(seed).shuffle(batteries)
    wanted = share * len(survey.questions)
    first: set[str] = set()
    for battery in batteries:
        if wanted >= sizes[battery] / 2:
            first.add(battery)
            wanted -= sizes[battery]
    parts = []
    for which, name in ((True, "first"), (False, "second")):
        items = tuple(item for item in survey.items if (item.question.battery in first) is which)
        selection = replace(survey.selection, part=f"{name} of a split at {share:g}, seed {seed}")
        counts = {**survey.counts, "items": len(items), "questions": len({i.question.id for i in items})}
        parts.append(replace(survey, items=items, selection=selection, counts=counts))
    return parts[0], parts[1]
