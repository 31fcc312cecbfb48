"""The World Values Survey's own file, one respondent a row, read with WorldValuesBench's codebook (Zhao et
al. 2024). The survey may not be passed on: a user has it from worldvaluessurvey.org, and we ship none of
it.

A folder with `codebook.json` ({"Q1": {"question", "question_instruction", "choices": {"1": "Very
important"}}}) and one CSV with B_COUNTRY_ALPHA (or B_COUNTRY with the codebook's names), A_WAVE, A_YEAR,
W_WEIGHT and a column a question. Shares are weighted by W_WEIGHT; the number of respondents is the weights'
effective one (Kish), which is what sampling noise goes by. Codes below 0 are missing answers. Only columns
with choices are questions, and those about the person (`wvs.BACKGROUND`) are none.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cultural_palette.evaluation.survey_formats import Answer, Aside, Population, SurveyError, read_json
from cultural_palette.evaluation.survey_formats.wvs import BACKGROUND

CODEBOOK = "codebook.json"
COUNTRY, NUMBERED, WAVE, YEAR, WEIGHT = "B_COUNTRY_ALPHA", "B_COUNTRY", "A_WAVE", "A_YEAR", "W_WEIGHT"


@dataclass
class _Tally:
    """Weights by option, and what the effective number needs."""

    weights: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    squares: float = 0.0

    def take(self, code: str, weight: float) -> None:
        self.weights[code] += weight
        self.squares += weight**2

    @property
    def effective(self) -> float:
        """(sum w)**2 / sum w**2."""
        return sum(self.weights.values()) ** 2 / self.squares


def is_folder(path: Path) -> bool:
    """Whether a folder holds a codebook beside one CSV."""
    return (path / CODEBOOK).is_file() and len(list(path.glob("*.csv"))) == 1


def files(path: Path) -> tuple[Path, ...]:
    """The files that are read."""
    return path / CODEBOOK, next(iter(sorted(path.glob("*.csv"))))


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every country's answer to every question, weighted."""
    codebook_file, data = files(path)
    codebook = read_json(codebook_file)
    if not isinstance(codebook, dict):
        raise SurveyError(f"{codebook_file}: expected an object of columns.")
    questions = {key: entry for key, entry in codebook.items() if _is_question(key, entry)}
    tallies: defaultdict[tuple[str, str, str], _Tally] = defaultdict(_Tally)
    years: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with data.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if COUNTRY not in columns and NUMBERED not in columns:
            raise SurveyError(f"{data}:1: no column {COUNTRY} or {NUMBERED}.")
        keys = [key for key in questions if key in columns]
        try:
            for row in reader:
                weight = _number(row.get(WEIGHT)) if WEIGHT in columns else 1.0
                if weight is None or weight <= 0:
                    yield Aside(f"{data.name}:{reader.line_num}", "respondent without a weight")
                    continue
                country, wave = _country(row, codebook), _plain(row.get(WAVE)) or ""
                years[country, wave][_plain(row.get(YEAR)) or ""] += 1
                for key in keys:
                    code = _plain(row.get(key))
                    if code is not None and not code.startswith("-"):
                        tallies[key, country, wave].take(code, weight)
        except csv.Error as error:
            raise SurveyError(f"{data}:{reader.line_num}: not CSV ({error})") from None
    for (key, country, wave), tally in sorted(tallies.items()):
        year = years[country, wave].most_common(1)[0][0]
        yield _answer(key, questions[key], country, wave, year, tally)


def _answer(
    key: str, entry: Mapping[str, Any], country: str, wave: str, year: str, tally: _Tally
) -> Answer | Aside:
    choices = {
        str(code): str(text) for code, text in entry["choices"].items() if not str(code).startswith("-")
    }
    where = f"{CODEBOOK}: {key}"
    unknown = [code for code in tally.weights if code not in choices]
    if unknown:
        return Aside(where, "code without a choice", f"{country}: {unknown[0]}")
    codes = sorted(choices, key=lambda code: (len(code), code))
    total = sum(tally.weights.values())
    shares = tuple(tally.weights.get(code, 0.0) / total for code in codes)
    text = str(entry.get("question_instruction") or entry["question"])
    return Answer(
        text, tuple(choices[code] for code in codes), country, shares, "WVS", where,
        population=Population(None, wave or None, int(year) if year.isdigit() else None),
        respondents=tally.effective, topic=entry.get("category"),
    )  # fmt: skip


def _is_question(key: str, entry: Any) -> bool:
    return (
        key.startswith("Q")
        and key not in BACKGROUND
        and isinstance(entry, dict)
        and isinstance(entry.get("question"), str)
        and isinstance(entry.get("choices"), dict)
        and sum(not str(code).startswith("-") for code in entry["choices"]) > 1
    )


def _country(row: Mapping[str, Any], codebook: Mapping[str, Any]) -> str:
    if row.get(COUNTRY):
        return str(row[COUNTRY])
    code = _plain(row.get(NUMBERED)) or ""
    entry = codebook.get(NUMBERED)
    choices = entry.get("choices") if isinstance(entry, dict) else None
    return str(choices.get(code, code)) if isinstance(choices, dict) else code


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == number else None


def _plain(text: Any) -> str | None:
    """A code without ".0"; None where the field is empty."""
    number = _number(text)
    if number is None:
        return str(text).strip() or None if text else None
    return str(int(number)) if number.is_integer() else str(number)
