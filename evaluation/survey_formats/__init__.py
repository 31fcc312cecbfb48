"""Readers of survey files. Each yields one `Answer` a country and question, and an `Aside` for what it can
not read.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.errors import UsageError
from cultural_palette.jsonl import WIDE

MOST = 10**300
"""Whole numbers beyond it are no floats."""


class SurveyError(UsageError):
    """A survey file that can not be read as a whole."""


@dataclass(frozen=True)
class Population:
    """Whom a row speaks for, beside its country. `group`: as the file names it ("SEX: Female"), None for
    everyone; `wave`: of the survey ("W54"); `year`: of the interviews.
    """

    group: str | None = None
    wave: str | None = None
    year: int | None = None

    @property
    def key(self) -> str:
        """For ids, "sex-female.w54.2021"; "" for everyone at no stated time."""
        parts = (self.group, self.wave, self.year)
        folded = (re.sub(r"[^a-z0-9]+", "-", str(part).casefold()).strip("-") for part in parts if part)
        return ".".join(folded)

    @property
    def in_words(self) -> str:
        """As a prompt names it: "SEX: Female, in 2021"; "" for everyone."""
        if self.group is None:
            return ""
        return self.group + (f", in {self.year}" if self.year else "")

    def as_dict(self) -> dict[str, Any]:
        """For a row: what is set."""
        fields = {"group": self.group, "wave": self.wave, "year": self.year}
        return {name: value for name, value in fields.items() if value is not None}


EVERYONE = Population()


@dataclass(frozen=True)
class Answer:
    """What a file says of one population and one question, unchecked.

    `shares`: as they stand, in the options' order. `label`: the file's name for the country. `partial`:
    shares may sum to less than 1, for the file leaves missing answers out. `key`: the file's own id of the
    question, where it is meant to be ours too. `notes`: what was mended in the question on the way.
    `respondents`: how many answered, where the file says so (weighted: their effective number). `labelled`:
    the file has one right answer and no shares. `local`: question and options in the population's own
    language, options in the same order.
    """

    text: str
    options: tuple[str, ...]
    label: str
    shares: tuple[float, ...]
    survey: str
    where: str
    key: str | None = None
    battery: str | None = None
    ordered: bool | None = None
    partial: bool = False
    notes: tuple[str, ...] = ()
    population: Population = EVERYONE
    respondents: float | None = None
    topic: str | None = None
    labelled: bool = False
    local: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Aside:
    """What a reader set aside. `where`: "file:line"; `reason`: a few words, counted; `detail`: the rest."""

    where: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


def read_text(path: Path) -> str:
    """A file's text. Bytes that are not UTF-8 become half characters that no question takes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SurveyError(f"{path} can not be read: {error.strerror or error}.") from None
    if data.startswith(WIDE):
        raise SurveyError(f"{path} is UTF-16: save it as UTF-8.")
    return data.decode("utf-8-sig", errors="surrogateescape")


def csv_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row of a CSV file with its place, "file:line". Raises SurveyError for what is not CSV."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        for row in reader:
            yield row, f"{path.name}:{reader.line_num}"
    except csv.Error as error:
        raise SurveyError(f"{path}:{reader.line_num}: not CSV ({error})") from None


def read_json(path: Path, *, nan: bool = False) -> Any:
    """A whole JSON file. `nan`: NaN stays, for a row's own check; else it is refused."""
    text = read_text(path)
    try:
        return json.loads(text) if nan else json.loads(text, parse_constant=_refused)
    except json.JSONDecodeError as error:
        raise SurveyError(f"{path}:{error.lineno}: not JSON: {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        raise SurveyError(f"{path}: not JSON: {error}.") from None


def read_json_list(path: Path) -> Iterator[tuple[int, Any]]:
    """A JSON list entry by entry, with the line each begins on; NaN stays, for the entry's own check."""
    text, decoder = read_text(path), json.JSONDecoder()
    position, line, counted = _after_space(text, 0), 1, 0
    if text[position : position + 1] != "[":
        raise SurveyError(f"{path}:1: expected a JSON list.")
    position = _after_space(text, position + 1)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            entry, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError
            at = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise SurveyError(f"{path}:{at}: not JSON. Mend that entry, or take it out.") from None
        yield line, entry
        position = _after_space(text, position)
        if text[position : position + 1] == ",":
            position = _after_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise SurveyError(f"{path}:{line}: not JSON: no comma after the entry that begins here.")


def shares_of(values: Any, options: Sequence[str]) -> tuple[float, ...] | str:
    """Numbers as shares; else what is wrong with them."""
    if not isinstance(values, list | tuple):
        return f"expected a list of shares, found {type(values).__name__}"
    if len(values) != len(options):
        return f"{len(values)} shares for {len(options)} options"
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{value!r} is no share"
        if isinstance(value, int) and abs(value) > MOST:
            return "a number of hundreds of digits is no share"
        if not math.isfinite(value) or value < 0:
            return f"share {value!r} is not 0 or more"
    return tuple(float(value) for value in values)


def option_text(option: Any) -> str | None:
    """An option's text, numbers written plainly (1.0 as "1"); None when it is neither text nor number."""
    if isinstance(option, str):
        return option
    if isinstance(option, bool) or not isinstance(option, int | float):
        return None
    if abs(option) > MOST or not math.isfinite(option):
        return None
    return str(int(option)) if float(option).is_integer() else str(option)


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _refused(name: str) -> Any:
    raise ValueError(f"it holds {name}")
