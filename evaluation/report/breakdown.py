"""Where a method is good and where it is not: averages, and what the right country gains, by topic, source,
region and kind of options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.evaluation.metrics import Floats
from cultural_palette.evaluation.report.analysis import comparable_scores
from cultural_palette.evaluation.report.discrimination import mean_rank, rank_correlations
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.load import Item
from cultural_palette.evaluation.report.roles import title
from cultural_palette.evaluation.report.tables import ELSEWHERE, GAIN, Subject, range_cell
from cultural_palette.evaluation.statistics import Interval, clustered_interval
from cultural_palette.evaluation.topics import options_kind, topic_of

Measured = tuple[Interval | None, Interval | None, float | None]
"""Average, what the right country gains, and rank correlation over the slice's countries."""


@dataclass(frozen=True)
class Slice:
    """A part of the items. `by`: how they were parted; `floor`: the best floor's mean over the items."""

    by: str
    name: str
    items: int
    batteries: int
    floor: float | None
    of: Mapping[str, Measured]


def measure_slices(subject: Subject, metric: str) -> tuple[Slice, ...]:
    """Every method in each slice. An item's gain is over all countries that its question was asked in, its
    rank correlation over those of the slice.
    """
    evaluation = subject.evaluation
    best = subject.analyses[metric].best_floor
    scores = {method: comparable_scores(evaluation, method, metric) for method in subject.roles.of}
    numbers = {method: evaluation.methods.index(method) for method in subject.roles.of}
    gains = {method: subject.discrimination.of(numbers[method], metric) for method in subject.roles.of}
    slices = []
    for heading, of in _slices(subject.cultural_map).items():
        names = [of(item) for item in evaluation.items]
        for name in sorted(set(names)):
            places = [place for place, other in enumerate(names) if other == name]
            items = [evaluation.items[place] for place in places]
            floor = best.floor.scores[metric][places] if best else np.full(len(places), np.nan)
            floor_mean = None if np.isnan(floor).all() else float(np.nanmean(floor))
            batteries = len({item.battery for item in items})
            measured = {
                method: (
                    _interval(scores[method][:, places], items, subject.permutations),
                    _interval(gains[method][:, places], items, subject.permutations),
                    mean_rank(rank_correlations(evaluation, numbers[method], places)),
                )
                for method in subject.roles.of
            }
            slices.append(Slice(heading, name, len(places), batteries, floor_mean, measured))
    return tuple(slices)


def breakdown_table(subject: Subject, metric: str, slices: Sequence[Slice]) -> Table:
    """Every method's average in each slice, with the best floor's, and the full method's interval."""
    floor = subject.analyses[metric].best_floor
    ours = subject.roles.ours

    def cells(part: Slice) -> tuple[Cell, ...]:
        made = [_count(part.items), _count(part.batteries)]
        made += [number(part.floor)] if floor else []
        for method, (whole, gain, _) in part.of.items():
            made.append(number(whole.mean if whole else None))
            if method == ours:
                made += [range_cell(whole), number(gain.mean if gain else None, signed=True)]
                made.append(range_cell(gain, signed=True))
        return tuple(made)

    columns = [Column("items"), Column("batteries")]
    columns += [Column(floor.floor.title, "best floor")] if floor else []
    for method in subject.roles.of:
        columns.append(Column(title(method)))
        if method == ours:
            columns += [Column("95 %", hint=title(ours)), Column("right country: gain", hint=title(ours))]
            columns.append(Column("95 %", hint=f"{title(ours)}, gain"))
    notes = (
        "Means of the countries' means in each slice; the floor's is over items. Not tested: with so many "
        "slices some difference is always there. Topics are the survey's own where it has some, else by the "
        "question's words (`evaluation/topics.py`); regions are the map's communities.",
    )
    caption = f"{subject.mark}By topic, source, region and kind of options, under {metric}."
    return Table("breakdown", caption, tuple(columns), _sections(slices, cells), notes, first="Slice")


def gains_table(subject: Subject, metric: str, slices: Sequence[Slice]) -> Table:
    """What the right country gains every method in each slice, with its interval, and the full method's rank
    correlation.
    """
    ours = subject.roles.ours

    def cells(part: Slice) -> tuple[Cell, ...]:
        made = []
        for method, (_, gain, rank) in part.of.items():
            made += [number(gain.mean if gain else None, signed=True), range_cell(gain, signed=True)]
            made += [number(rank, signed=True)] if method == ours else []
        return tuple(made)

    columns = []
    for method in subject.roles.of:
        columns += [Column("gain", title(method)), Column("95 %", title(method))]
        columns += [Column("rank", title(method))] if method == ours else []
    notes = (
        f"{GAIN} Other countries are all that the question was asked in; the rank is over the slice's "
        "countries, three at least. Not tested: with so many slices some difference is always there. Ranks "
        "of every method are in slices.csv, those of every question in questions.csv.",
    )
    parts = "topic, source, region and kind of options"
    caption = f"{subject.mark}What the right country gains, by {parts}, under {metric}."
    return Table("breakdown_gain", caption, tuple(columns), _sections(slices, cells), notes, first="Slice")


def _sections(slices: Sequence[Slice], cells: Callable[[Slice], tuple[Cell, ...]]) -> tuple[Section, ...]:
    return tuple(
        Section(by, tuple(Line(part.name, cells(part)) for part in slices if part.by == by))
        for by in dict.fromkeys(part.by for part in slices)
    )


def _interval(values: Floats, items: Sequence[Item], permutations: int) -> Interval | None:
    """Of the items that every run answered; None without any. `values`: (run, item)"""
    if np.isnan(values).any(axis=0).all():
        return None
    return clustered_interval(
        values, [item.battery for item in items], groups=[item.country for item in items],
        permutations=permutations,
    )  # fmt: skip


def _count(value: int) -> Cell:
    return Cell(f"{value:,}", float(value))


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
