"""OpinionQA's counts by group (Santurkar et al. 2023) and the distributional alignment set (Meister et al.
2025).

Both: an object of question -> {"MC_options", "question_text", GROUP: {option: count}}. Three shapes:

- opinion surveys (`SEX_data.json`): the key is Pew's id ("GUN_W26"), whose end is the wave; groups are of the
  United States; the file's name says which attribute they differ in.
- book tastes (`nytimes/data.json`): the key is a book; groups of the United States, some twenty people each.
- global values (`Global_Values/data/data.json`): the key is the question, options a printed list, and in the
  place of counts a list of shares by country.

The release cuts options at their commas ("Yes", "I own a gun") where the counts have them whole: they are
joined again, and noted.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cultural_palette.evaluation.survey_formats import (
    Answer,
    Aside,
    Population,
    SurveyError,
    option_text,
    read_json,
    shares_of,
)

OPTIONS, TEXT = "MC_options", "question_text"
NO_GROUP = (OPTIONS, TEXT, "genre", "summary", "countries")
WAVE = re.compile(r"_(W\d+)$")
UNITED_STATES = "United States"


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every group's answer to every question."""
    whole = read_json(path)
    if not isinstance(whole, dict):
        raise SurveyError(f"{path}: expected an object of questions.")
    attribute = path.stem.removesuffix("_data") if path.stem.endswith("_data") else ""
    for key, entry in whole.items():
        where = f"{path.name}: {key[:40]}"
        if not isinstance(entry, dict):
            yield Aside(where, "corrupt row", f"expected an object, found {type(entry).__name__}")
            continue
        options = _options(entry.get(OPTIONS))
        groups = {name: value for name, value in entry.items() if name not in NO_GROUP}
        if options is None or not groups:
            yield Aside(where, "corrupt row", f"expected {OPTIONS} and groups")
            continue
        for name, value in groups.items():
            yield _answer(key, entry, options, attribute, name, value, where)


def _answer(
    key: str,
    entry: Mapping[str, Any],
    options: tuple[str, ...],
    attribute: str,
    name: str,
    value: Any,
    where: str,
) -> Answer | Aside:
    if isinstance(value, list):  # shares by country
        shares = shares_of(value, options)
        if isinstance(shares, str):
            return Aside(where, "corrupt country row", f"{name}: {shares}")
        return Answer(key, options, name, shares, "distributional-alignment", where)
    if not isinstance(value, dict):
        return Aside(where, "corrupt country row", f"{name}: expected counts by option")
    notes: tuple[str, ...] = ()
    if not set(value) <= set(options):
        joined = _joined(options, set(value))
        if joined is None:
            unknown = next(option for option in value if option not in options)
            return Aside(where, "corrupt country row", f"{name}: {unknown!r} is none of the options")
        options, notes = joined, ("options joined again",)
    counts = shares_of([value.get(option, 0) for option in options], options)
    if isinstance(counts, str):
        return Aside(where, "corrupt country row", f"{name}: {counts}")
    total = sum(counts)
    if not total:
        return Aside(where, "all zeros", name)
    text, wave = entry.get(TEXT), WAVE.search(key)
    summary = entry.get("summary")
    if not isinstance(text, str):
        about = f" It is about this: {summary}" if isinstance(summary, str) else ""
        text = f"How likely are you to want to read the book {key}?{about}"
    group = f"{attribute}: {name}" if attribute and attribute != "NONE" else name
    population = Population(None if attribute == "NONE" else group, wave[1] if wave else None)
    return Answer(
        text, options, UNITED_STATES, tuple(count / total for count in counts),
        "OpinionQA" if wave else "distributional-alignment", where, notes=notes, population=population,
        respondents=total, topic=entry.get("genre") if isinstance(entry.get("genre"), str) else None,
    )  # fmt: skip


def _options(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    if not isinstance(value, list) or not value:
        return None
    texts = [option_text(option) for option in value]
    return tuple(text for text in texts if text is not None) if None not in texts else None


def _joined(options: Sequence[str], wanted: set[str]) -> tuple[str, ...] | None:
    """Options that were cut at commas, whole again, so that each of `wanted` is one; None where it fails."""
    parts, whole = [option.strip().strip('"') for option in options], []
    while parts:
        for size in range(len(parts), 0, -1):
            candidate = ", ".join(parts[:size])
            if candidate in wanted or size == 1:
                whole.append(candidate)
                parts = parts[size:]
                break
    return tuple(whole) if wanted <= set(whole) else None
