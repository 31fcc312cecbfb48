"""SimBench (Hu et al. 2025), saved as CSV: `SimBenchPop` and `SimBenchGrouped`.

Columns: dataset_name, group_prompt_template, group_prompt_variable_map, input_template, human_answer
(letter -> share or per cent), group_size, grouping_keys, wave. The options' texts stand in
`input_template`, one a line, "(A): ...". The country is the one that the persona names ("You are from
Finland."), or its variable of that name; a row that names none has nobody to answer for here, and is set
aside. Its released `.pkl` files would run code when they are read, and are not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cultural_palette.countries import find_country
from cultural_palette.errors import UnknownCountry
from cultural_palette.evaluation.survey_formats import (
    Answer,
    Aside,
    Population,
    csv_rows,
    shares_of,
)
from cultural_palette.mentions import countries_in

COLUMNS = (
    "dataset_name",
    "group_prompt_template",
    "group_prompt_variable_map",
    "input_template",
    "human_answer",
)
OPTION = re.compile(r"^\s*\(?([A-Z])\)?\s*[:.)]\s*(.+?)\s*$", re.MULTILINE)
HEADING = re.compile(r"\n\s*(answer )?(options|choices)\s*:\s*$", re.IGNORECASE)
COUNTRY_KEYS = ("country", "nation", "country_name")
PER_CENT = 100


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every row, as one population's answer."""
    for row, place in csv_rows(path):
        yield _answer(row, place)


def _answer(row: Mapping[str, Any], where: str) -> Answer | Aside:
    shares_by_letter = _literal(row.get("human_answer"))
    if not isinstance(shares_by_letter, dict) or not row.get("input_template"):
        return Aside(where, "corrupt row", "expected input_template, and human_answer by letter")
    variables = _literal(row.get("group_prompt_variable_map")) or {}
    if not isinstance(variables, dict):
        return Aside(where, "corrupt row", "group_prompt_variable_map is no dictionary")
    matches = list(OPTION.finditer(row["input_template"]))
    texts = {match[1]: match[2] for match in matches}
    letters = [letter for letter in texts if letter in shares_by_letter]
    if len(letters) < len(shares_by_letter):
        return Aside(where, "corrupt row", "an answer's letter is none of the options'")
    shares = shares_of([shares_by_letter[letter] for letter in letters], letters)
    if isinstance(shares, str):
        return Aside(where, "corrupt row", shares)
    if sum(shares) > PER_CENT / 2:
        shares = tuple(share / PER_CENT for share in shares)
    persona = str(row["group_prompt_template"])
    for name, value in variables.items():
        persona = persona.replace(f"{{{name}}}", str(value))
    country = _country(variables, persona)
    if country is None:
        return Aside(where, "names no country", f"{row['dataset_name']}: {persona[:60]}")
    others = {name: value for name, value in variables.items() if name.casefold() not in COUNTRY_KEYS}
    group = "; ".join(f"{name}: {value}" for name, value in others.items()) or None
    text = HEADING.sub("", row["input_template"][: matches[0].start()].rstrip() if matches else "")
    return Answer(
        text.strip(), tuple(texts[letter] for letter in letters), country, shares, str(row["dataset_name"]),
        where, population=Population(group, row.get("wave") or None),
        respondents=_size(row.get("group_size")), topic=str(row["dataset_name"]),
    )  # fmt: skip


def _country(variables: Mapping[str, Any], persona: str) -> str | None:
    for name, value in variables.items():
        if str(name).casefold() in COUNTRY_KEYS:
            try:
                return find_country(str(value)).iso3
            except UnknownCountry:
                return str(value)  # set aside by name
    named = countries_in(persona).all
    return named[0].iso3 if len(named) == 1 else None


def _size(value: Any) -> float | None:
    try:
        size = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return size if size > 0 else None


def _literal(text: Any) -> Any:
    try:
        return ast.literal_eval(str(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
