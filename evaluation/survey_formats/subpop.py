"""SubPOP (Suh et al. 2025), saved as JSONL or CSV: one group's answer to one question a row.

{"qkey", "attribute", "group", "question", "options", "responses", "refusal_rate", "ordinal"}. `responses`
leave refusals out, `options` may end with "Refused" all the same; `refusal_rate` is its share then. Groups
are of the United States; `qkey` ends with Pew's wave, or is the General Social Survey's.
"""

from __future__ import annotations

import ast
import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cultural_palette.evaluation.survey_formats import (
    Answer,
    Aside,
    Population,
    SurveyError,
    option_text,
    read_text,
    shares_of,
)
from cultural_palette.jsonl import read_rows

FIELDS = ("qkey", "attribute", "group", "question", "options", "responses")
WAVE = re.compile(r"_(W\d+)$")
REFUSED = re.compile(r"(dk/)?refused", re.IGNORECASE)
EVERYONE_WORDS = ("overall", "none", "all")


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every line of JSONL."""
    faults: list[Aside] = []

    def fault(place: str, why: str) -> None:
        if place == str(path):
            raise SurveyError(f"{path} {why}.")
        faults.append(Aside(Path(place).name, "corrupt row", why))

    for row, place in read_rows(path, fault):
        yield from faults
        faults.clear()
        yield _answer(row, Path(place).name)
    yield from faults


def read_csv(path: Path) -> Iterator[Answer | Aside]:
    """Every row of CSV, where lists are printed as Python prints them."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        for row in reader:
            lists = {name: _literal(row.get(name)) for name in ("options", "responses", "ordinal")}
            yield _answer({**row, **lists}, f"{path.name}:{reader.line_num}")
    except csv.Error as error:
        raise SurveyError(f"{path}:{reader.line_num}: not CSV ({error})") from None


def _answer(row: Mapping[str, Any], where: str) -> Answer | Aside:
    texts = [row.get(name) for name in ("qkey", "attribute", "group", "question")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(row.get("options"), list):
        return Aside(where, "corrupt row", f"expected {', '.join(FIELDS)}")
    options = tuple(option_text(option) or "" for option in row["options"])
    responses = row.get("responses")
    if isinstance(responses, list) and len(responses) == len(options) - 1 and REFUSED.fullmatch(options[-1]):
        refused = _number(row.get("refusal_rate"))
        answered = 1 - refused if 0 <= refused < 1 else 1.0
        responses = [_number(share) * answered for share in responses] + [1 - answered]
    shares = shares_of(responses, options)
    if isinstance(shares, str):
        return Aside(where, "corrupt row", shares)
    wave = WAVE.search(row["qkey"])
    everyone = row["group"].casefold() in EVERYONE_WORDS
    group = None if everyone else f"{row['attribute']}: {row['group']}"
    return Answer(
        row["question"], options, "United States", shares, "SubPOP", where,
        ordered=True if isinstance(row.get("ordinal"), list) and row["ordinal"] else None,
        population=Population(group, wave[1] if wave else None),
    )  # fmt: skip


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _literal(text: Any) -> Any:
    try:
        return ast.literal_eval(re.sub(r"\bnan\b", "None", str(text)))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
