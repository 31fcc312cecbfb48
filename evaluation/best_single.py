"""The control `best-single-draft`: one culture for all countries, the best one by questions other than the
item's own. It asks nobody: it takes the rows of the `single-draft:COMMUNITY` methods.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.methods import BEST_SINGLE
from cultural_palette.evaluation.metrics import alignments
from cultural_palette.evaluation.predictions import Row, row_of
from cultural_palette.evaluation.surveys import SurveyItem
from cultural_palette.graph.variants import SINGLE
from cultural_palette.provenance import sha256


def halves(batteries: Iterable[str]) -> dict[str, int]:
    """Battery -> 0 or 1: two halves of nearly equal size, by a hash; a battery is never parted."""
    ranked = sorted(set(batteries), key=sha256)
    return {name: place % 2 for place, name in enumerate(ranked)}


def best_single_rows(rows: Iterable[Row], items: Mapping[str, SurveyItem], run: int) -> Iterator[Row]:
    """A row for every item of one run: that of the community whose drafts scored best (mean of 1 - JS
    distance, base e) on the half of the questions that the item is not in. The labels of the item itself,
    and of its whole battery, choose nothing.
    """
    half = halves(item.question.battery for item in items.values())
    by_item: dict[str, dict[str, Row]] = defaultdict(dict)
    scores: dict[int, dict[str, list[float]]] = {0: defaultdict(list), 1: defaultdict(list)}
    for row in rows:
        if row["run"] != run or not row["method"].startswith(SINGLE):
            continue
        community = row["method"].removeprefix(SINGLE)
        by_item[row["item"]][community] = row
        if row["status"] == "ok":
            gold, guess = Distribution(tuple(row["gold"])), Distribution(tuple(row["predicted"] or ()))
            side = half[items[row["item"]].question.battery]
            scores[side][community].append(alignments(gold, guess)["jsdist_e"])
    best = {side: _best(by_community) for side, by_community in scores.items()}
    for item in items.values():
        chosen = best[1 - half[item.question.battery]]
        row_of_chosen = by_item[item.id].get(chosen) if chosen else None
        if row_of_chosen is None:
            yield row_of(
                BEST_SINGLE,
                run,
                item,
                None,
                error="No community could be chosen: no question of another battery was answered.",
            )
        else:
            yield {**row_of_chosen, "method": BEST_SINGLE, "seconds": 0.0, "calls": {}}


def _best(scores: Mapping[str, list[float]]) -> str | None:
    """The community with the highest mean; the first by name of equals."""
    means = {name: math.fsum(values) / len(values) for name, values in scores.items() if values}
    return min(means, key=lambda name: (-means[name], name)) if means else None
