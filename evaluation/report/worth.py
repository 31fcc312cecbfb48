"""Table of what each method is worth in respondents."""

from __future__ import annotations

from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table
from cultural_palette.evaluation.report.roles import title
from cultural_palette.evaluation.report.tables import DISCRIMINATION, GAIN, Subject, discrimination_cells
from cultural_palette.evaluation.worth import DRAWS, SIZES, Curve, curves, worth_of

MANY = 500
"""Above so many items fewer samples an item do, for they are averaged."""


def worth_table(subject: Subject, metric: str) -> Table | None:
    """Every method's and floor's average as the number of respondents whose sample would score it; None
    where no item has shares.
    """
    items = [item for item in subject.evaluation.items if not item.labelled]
    if not items:
        return None
    draws = DRAWS if len(items) <= MANY else DRAWS // 10
    curve = curves([item.gold for item in items], [item.country for item in items], draws=draws)[metric]
    analysis = subject.analyses[metric]
    blank = (Cell(""),) * len(DISCRIMINATION)
    floors = tuple(
        Line(floor.floor.title, (_cell(curve, floor.average), Cell("–"), *blank))
        for floor in analysis.floors
        if floor.average is not None
    )
    methods = []
    for result in analysis.methods:
        whole = result.average
        gain = discrimination_cells(result)
        if whole is None:
            methods.append(Line(title(result.method), (Cell("–"), Cell("–"), *gain)))
            continue
        worth = worth_of(curve, whole.mean, whole.low, whole.high)
        ends = Cell("none")
        if whole.low is not None:
            ends = Cell(f"[{_people(worth.low)}, {_people(worth.high)}]", worth.low)
        methods.append(Line(title(result.method), (_cell(curve, whole.mean), ends, *gain)))
    notes = (
        "The number of people, drawn at random from each country, whose answers alone would be "
        "expected to score "
        f"the same on these items (simulated; up to {SIZES[-1]:,}). 95 %: that of the score's "
        f"interval. Below 1: "
        "worse than asking one person.",
        GAIN,
    )
    columns = (Column("respondents"), Column("95 %"), *DISCRIMINATION)
    caption = f"{subject.mark}What a prediction is worth in respondents."
    sections = (Section("Floors and references", floors), Section("Methods", tuple(methods)))
    return Table("worth", caption, columns, sections, notes)


def _cell(curve: Curve, score: float | None) -> Cell:
    worth = None if score is None else curve.worth(score)
    return Cell(_people(worth), worth if worth is not None else float(SIZES[-1]))


def _people(worth: float | None) -> str:
    return f"> {SIZES[-1]:,}" if worth is None else f"{worth:.1f}" if worth < 100 else f"{worth:,.0f}"
