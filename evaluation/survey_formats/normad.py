"""NormAd-Eti (Rao et al. 2024), CSV: stories of everyday conduct, with one right label for a country.

Columns: ID, Country, Background, Axis, Subaxis, Value, Rule-of-Thumb, Story, Explanation, Gold Label
("yes", "no", "neutral"). Only the story is shown, and whose country it is: their hardest setting;
background and rule give the label away. The sentence that asks is ours. Stories made from one background
are one battery.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cultural_palette.evaluation.survey_formats import Answer, Aside, csv_rows
from cultural_palette.provenance import short_sha256

COLUMNS = ("Country", "Background", "Story", "Gold Label")
LABELS = {"yes": "Yes, it is", "no": "No, it is not", "neutral": "Neither: no custom speaks to it"}


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every story, as its country's judgement."""
    for row, place in csv_rows(path):
        yield _answer(row, place)


def _answer(row: Mapping[str, str | None], where: str) -> Answer | Aside:
    country, story = (row.get("Country") or "").replace("_", " "), (row.get("Story") or "").strip()
    label = (row.get("Gold Label") or "").strip().casefold()
    if label not in LABELS:
        return Aside(where, "corrupt row", f"label {label!r}, expected one of {', '.join(LABELS)}")
    if not story:
        return Aside(where, "corrupt row", "no story")
    text = f"{story}\nIs what was done here acceptable to people of that country?"
    return Answer(
        text, tuple(LABELS.values()), country, tuple(float(key == label) for key in LABELS), "NormAd", where,
        battery="normad-" + short_sha256(f"{country}\n{row.get('Background')}", 12), ordered=False,
        topic=(row.get("Subaxis") or row.get("Axis") or None), labelled=True,
    )  # fmt: skip
