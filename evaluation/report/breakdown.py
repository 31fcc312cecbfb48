"""Where a method is good and where it is not: averages by topic, source, region and kind of options."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.evaluation.report.analysis import comparable_scores
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.load import Item
from cultural_palette.evaluation.report.roles import title
from cultural_palette.evaluation.report.tables import ELSEWHERE, Subject, range_cell
from cultural_palette.evaluation.statistics import clustered_interval
from cultural_palette.evaluation.topics import options_kind, topic_of


def breakdown_table(subject: Subject, metric: str) -> Table:
    """Every method's average in each slice, with the best floor's, and the full method's interval."""
    evaluation = subject.evaluation
    shown = list(subject.roles.of)
    floor = subject.analyses[metric].best_floor
    scores = {method: comparable_scores(evaluation, method, metric) for method in shown}
    batteries = np.array([item.battery for item in evaluation.items])
    sections = []
    for heading, of in _slices(subject.cultural_map).items():
        names = [of(item) for item in evaluation.items]
        lines = []
        for name in sorted(set(names)):
            places = [place for place, other in enumerate(names) if other == name]
            countries = [evaluation.items[place].country for place in places]
            own = batteries[places].tolist()
            cells = [
                Cell(f"{len(places):,}", float(len(places))),
                Cell(f"{len(set(own)):,}", float(len(set(own)))),
            ]
            if floor:
                values = floor.floor.scores[metric][places]
                cells.append(number(float(np.nanmean(values)) if not np.isnan(values).all() else None))
            for method in shown:
                table = scores[method][:, places]
                if np.isnan(table).any(axis=0).all():
                    cells += [Cell("–")] * (2 if method == subject.roles.ours else 1)
                    continue
                interval = clustered_interval(table, own, groups=countries, permutations=subject.permutations)
                cells.append(number(interval.mean))
                if method == subject.roles.ours:
                    cells.append(range_cell(interval))
            lines.append(Line(name, tuple(cells)))
        sections.append(Section(heading, tuple(lines)))
    columns = [Column("items"), Column("batteries")]
    columns += [Column(floor.floor.title, "best floor")] if floor else []
    for method in shown:
        columns.append(Column(title(method)))
        if method == subject.roles.ours:
            columns.append(Column("95 %", hint=title(method)))
    notes = (
        "Means of the countries' means in each slice; the floor's is over items. Not tested: with so "
        "many slices some "
        "difference is always there. Topics are the survey's own where it has some, else by the "
        "question's words "
        "(`evaluation/topics.py`); regions are the map's communities.",
    )
    caption = f"{subject.mark}By topic, source, region and kind of options, under {metric}."
    return Table("breakdown", caption, tuple(columns), tuple(sections), notes, first="Slice")


def _slices(cultural_map: CulturalMap) -> dict[str, Callable[[Item], str]]:
    def region(item: Item) -> str:
        home = cultural_map.community_of(item.country)
        return home.name if home else ELSEWHERE

    slices: dict[str, Callable[[Item], str]] = {
        "By topic": lambda item: topic_of(item.question, item.topic),
        "By source": lambda item: item.survey,
        "By region": region,
        "By kind of options": lambda item: options_kind(item.options, item.ordered),
    }
    return slices
