"""Our own survey file, JSONL: one country's answer to one question a line.

{"id": "family", "question": "...", "options": ["...", "..."], "country": "KEN", "distribution": [0.6, 0.4]}
and, if wanted, "battery" (questions that a split must not part), "ordered" (options are a scale), "survey"
(its name), "topic"; of the population "group", "wave", "year"; "respondents" (how many answered);
"labelled" (the distribution is one right answer); "local": {"question", "options"} in the population's own
language. Lines of one id have the same question and options. `survey_rows` writes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cultural_palette.evaluation.survey_formats import (
    Answer,
    Aside,
    Population,
    SurveyError,
    option_text,
    shares_of,
)
from cultural_palette.jsonl import read_rows

NEEDED = ("id", "question", "options", "country", "distribution")
OPTIONAL = (
    "battery", "ordered", "survey", "note", "topic", "group", "wave", "year", "respondents", "labelled",
    "local",
)  # fmt: skip
KEY = re.compile(r"[^\s/]+")


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every line, as one country's answer; empty ones are passed over."""
    faults: list[Aside] = []

    def fault(place: str, why: str) -> None:
        if place == str(path):
            raise SurveyError(f"{path} {why}.")
        faults.append(Aside(Path(place).name, "corrupt row", why))

    for row, place in read_rows(path, fault):
        yield from faults
        faults.clear()
        yield _answer(row, Path(place).name, path.stem)
    yield from faults


def _answer(row: dict[str, Any], where: str, name: str) -> Answer | Aside:
    if fault := _fault(row):
        return Aside(where, "corrupt row", fault)
    options = tuple(option_text(option) or "" for option in row["options"])
    shares = shares_of(row["distribution"], options)
    if isinstance(shares, str):
        return Aside(where, "corrupt row", shares)
    return Answer(
        row["question"], options, row["country"], shares, row.get("survey", name), where,
        key=row["id"], battery=row.get("battery"), ordered=row.get("ordered"),
        population=Population(row.get("group"), row.get("wave"), row.get("year")),
        respondents=row.get("respondents"), topic=row.get("topic"), labelled=row.get("labelled") is True,
        local=(row["local"]["question"], tuple(row["local"]["options"])) if row.get("local") else None,
    )  # fmt: skip


def _fault(row: dict[str, Any]) -> str | None:
    """What is wrong with the line, if anything."""
    if missing := [name for name in NEEDED if name not in row]:
        return f"no {missing[0]!r}"
    if unknown := [name for name in row if name not in (*NEEDED, *OPTIONAL)]:
        return f"unknown field {unknown[0]!r}; fields are {', '.join((*NEEDED, *OPTIONAL))}"
    for name in ("id", "question", "country", "battery", "survey", "topic", "group", "wave"):
        if not isinstance(row.get(name, ""), str):
            return f"{name!r} is no text"
    if fault := _fault_of_numbers(row):
        return fault
    if not KEY.fullmatch(row["id"]):
        return f"id {row['id']!r}: no spaces and no slash"
    if not isinstance(row.get("ordered"), bool | None):
        return "'ordered' is true, false or null"
    if not isinstance(row["options"], list) or None in map(option_text, row["options"]):
        return "'options' is a list of texts"
    local = row.get("local")
    if local is None:
        return None
    texts = local.get("options") if isinstance(local, dict) else None
    if not isinstance(texts, list) or len(texts) != len(row["options"]):
        return "'local' is a question and as many options"
    if not all(isinstance(text, str) for text in (local.get("question"), *texts)):
        return "'local' has something that is no text"
    return None


def _fault_of_numbers(row: dict[str, Any]) -> str | None:
    year, respondents = row.get("year"), row.get("respondents")
    if year is not None and (isinstance(year, bool) or not isinstance(year, int)):
        return "'year' is no whole number"
    if respondents is not None and (
        isinstance(respondents, bool)
        or not isinstance(respondents, int | float)
        or not 0 < respondents < math.inf
    ):
        return "'respondents' is no number above 0"
    return None if isinstance(row.get("labelled", False), bool) else "'labelled' is true or false"
