"""Items with one right answer (NormAd, CulturalBench): is it found? No comparison of shares."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.load import OK
from cultural_palette.evaluation.report.roles import title
from cultural_palette.evaluation.report.tables import Subject, range_cell
from cultural_palette.evaluation.statistics import clustered_interval

WHOLE = "CulturalBench-Hard"
"""Here an item is one judgement of four, and known where all of its battery's are right."""


def labels_table(subject: Subject) -> Table | None:
    """Accuracy, mean probability of the right answer and Brier score; None where every item has shares."""
    evaluation = subject.evaluation
    places = [place for place, item in enumerate(evaluation.items) if item.labelled]
    if not places:
        return None
    items = [evaluation.items[place] for place in places]
    right = evaluation.gold[places].argmax(axis=1)
    lines = []
    for method in subject.roles.of:
        status = evaluation.status[evaluation.methods.index(method)][:, places]
        predicted = evaluation.predicted[evaluation.methods.index(method)][:, places]
        runs = np.flatnonzero((status == OK).any(axis=1))
        if not len(runs):
            lines.append(Line(title(method), (Cell("–"),) * 5))
            continue
        ok = status[runs] == OK
        share = np.take_along_axis(predicted[runs], right[None, :, None], axis=2)[..., 0]
        hits = np.where(ok, predicted[runs].argmax(axis=2) == right, np.nan)
        brier = ((predicted[runs] - evaluation.gold[places]) ** 2).sum(axis=2)
        interval = None
        if not np.isnan(hits).any(axis=0).all():
            interval = clustered_interval(
                100 * hits, [item.battery for item in items], groups=[item.country for item in items],
                permutations=subject.permutations,
            )  # fmt: skip
        lines.append(
            Line(
                title(method),
                (
                    number(interval.mean if interval else None),
                    range_cell(interval),
                    number(_whole(hits, [(i.survey, i.battery, i.country) for i in items])),
                    number(float(share[ok].mean()), digits=3),
                    number(float(brier[ok].mean()), digits=3),
                ),
            )
        )
    heads = ("accuracy, %", "95 %", "whole questions, %", "probability of the right one", "Brier")
    columns = tuple(Column(head) for head in heads)
    notes = (
        f"{len(places):,} items with one right answer. Accuracy: the likeliest option is the right "
        f"one, mean of the "
        "countries' means; intervals over batteries. Whole questions: all of a battery's judgements right "
        f"({WHOLE}). Probability and Brier score (0 to 2, the less the better) are means over "
        f"answered rows. The "
        "alignments of the other tables are no measure for these.",
    )
    caption = f"{subject.mark}Items with one right answer."
    return Table("labels", caption, columns, (Section("", tuple(lines)),), notes)


def _whole(hits: np.ndarray, keys: list[tuple[str, str, str]]) -> float | None:
    """Share of CulturalBench-Hard's questions all of whose judgements are right, in per cent."""
    together: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        if key[0] == WHOLE:
            together[key].append(place)
    values = [hits[:, places].min(axis=1).mean() for places in together.values()]
    return 100 * float(np.mean(values)) if values and not np.isnan(values).any() else None
