"""The World Values Survey, wave 7, in CultureSPA's form (Xu et al. 2025): a folder with two JSON files.

`wvs_questions.json`: a list of {"Q_id", "question", "option_lst"}; `wvs.json`, as MultiAgent-Diversity (Xu
et al. 2026) has it, with "option" in its place and the options once more at the question's end, which are
cut off. `proportions_group_by_country.json`: {ISO3: {Q_id: {code: share}}}. Shares leave missing answers
out, so they sum to less than 1; a question that was not asked in a country is an empty object.

A code is the option's place. Which place comes first goes by question: options that are numbers are their own
codes; where a country uses code 0, the first option is 0; where one uses the last place, it is 1; where
neither happens, it is 0 for the questions CultureSPA's code counts from 0 (ZERO_BASED), 1 for all others. A
question where 0 and the last place are both used can not be read, and is set aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cultural_palette.evaluation.survey_formats import (
    Answer,
    Aside,
    SurveyError,
    option_text,
    read_json,
    read_json_list,
)

QUESTIONS, PROPORTIONS = "wvs_questions.json", "proportions_group_by_country.json"
OTHER_QUESTIONS = "wvs.json"
REPEATED = re.compile(r"\s*Choose only one of the following options\b.*", re.DOTALL)
ZERO_BASED = {f"Q{n}" for n in (*range(94, 106), 119, *range(122, 130), *range(241, 250))}
# About the person (sex, age, household ...) or a list of parties that differs by country: CultureSPA leaves
# them out too.
BACKGROUND = {f"Q{n}" for n in (223, *range(260, 291))}


def is_folder(path: Path) -> bool:
    """Whether a folder holds the survey's two files."""
    return (
        any((path / name).is_file() for name in (QUESTIONS, OTHER_QUESTIONS))
        and (path / PROPORTIONS).is_file()
    )


def files(path: Path) -> tuple[Path, ...]:
    """The files that are read."""
    questions = path / QUESTIONS
    return questions if questions.is_file() else path / OTHER_QUESTIONS, path / PROPORTIONS


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every country's answer to every question."""
    proportions = read_json(path / PROPORTIONS, nan=True)
    if not isinstance(proportions, dict):
        raise SurveyError(f"{path / PROPORTIONS}: expected an object of countries.")
    questions = files(path)[0]
    for line, entry in read_json_list(questions):
        where = f"{questions.name}:{line}"
        options = _options(entry)
        if options is None:
            yield Aside(where, "corrupt row", "expected Q_id, question and option_lst (or option)")
        elif entry["Q_id"] in BACKGROUND:
            yield Aside(where, "question about the person", entry["Q_id"])
        elif not options:
            yield Aside(where, "question without options", entry["Q_id"])
        else:
            text = REPEATED.sub("", entry["question"]) if "option" in entry else entry["question"]
            yield from _answers(entry["Q_id"], text, options, proportions, where)


def _options(entry: Any) -> tuple[str, ...] | None:
    listed = entry.get("option_lst", entry.get("option")) if isinstance(entry, dict) else None
    if not isinstance(listed, list):
        return None
    texts = [option_text(option) for option in listed]
    good = isinstance(entry.get("Q_id"), str) and isinstance(entry.get("question"), str) and None not in texts
    return tuple(text for text in texts if text is not None) if good else None


def _answers(
    key: str, text: str, options: tuple[str, ...], proportions: Mapping[str, Any], where: str
) -> Iterator[Answer | Aside]:
    tables = {label: rows.get(key) for label, rows in proportions.items() if isinstance(rows, dict)}
    codes = {code for table in tables.values() if isinstance(table, dict) for code in table}
    places = _places(key, options, codes)
    if places is None:
        yield Aside(where, "codes from 0 and from 1", key)
        return
    numbers = ("number options",) if all(option.isdigit() for option in options) else ()
    for label, table in tables.items():
        if not table:
            continue  # not asked there
        shares = _shares(table, places, len(options))
        if isinstance(shares, str):
            yield Aside(f"{PROPORTIONS}: {label}.{key}", "corrupt country row", shares)
        else:
            yield Answer(text, options, label, shares, "WVS", where, partial=True, notes=numbers)


def _places(key: str, options: tuple[str, ...], codes: set[str]) -> dict[str, int] | None:
    """Each code's option index; None when codes from 0 and from 1 both occur."""
    if all(option.isdigit() for option in options):
        return {option: place for place, option in enumerate(options)}
    zero, last = "0" in codes, str(len(options)) in codes
    if zero and last:
        return None
    first = 0 if zero or (key in ZERO_BASED and not last) else 1
    return {str(place + first): place for place in range(len(options))}


def _shares(table: Any, places: Mapping[str, int], size: int) -> tuple[float, ...] | str:
    """Shares in the options' order; codes that stand for no option (negative: missing) are left out."""
    if not isinstance(table, dict):
        return f"expected codes and shares, found {type(table).__name__}"
    shares = [0.0] * size
    for code, share in table.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 100:
            return f"code {code}: {share!r} is no share"
        if code in places:
            shares[places[code]] += share
    return tuple(shares)
