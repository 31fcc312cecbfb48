"""The questions of the surveys that evaluation uses, from any file with a column of questions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cultural_palette.provenance import file_sha256
from cultural_palette.training.pentachromatic.separation.tables import TableError, column, rows_of

QUESTION_COLUMNS = ("question", "question_text", "text", "prompt", "query", "opening_prompt")
ID_COLUMNS = ("Q_id", "question_id", "id")
# Scripts that put no spaces between words: each of their letters counts as a word.
SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{SPACELESS}]|[^\W_{SPACELESS}]+")


@dataclass(frozen=True)
class SurveyQuestion:
    """A question as it stands in the file, with its id there, or its row's place."""

    id: str
    text: str


@dataclass(frozen=True)
class SurveyQuestions:
    """A survey's questions, each text once. `repeated`, `empty`: rows that said nothing new, or nothing."""

    name: str
    sha256: str
    questions: tuple[SurveyQuestion, ...]
    repeated: int = 0
    empty: int = 0


def read_survey(path: Path, text: str | None = None) -> SurveyQuestions:
    """GlobalOpinionQA's CSV, CultureSPA's JSON of the World Values Survey, PRISM's prompts, or any CSV, TSV,
    JSONL or JSON.

    `text` names the column of the questions. Raises TableError for a row that can not be read, and when no
    question is there: a gate that skips what it can not read would be none.
    """
    questions: dict[str, SurveyQuestion] = {}
    rows = empty = 0
    for number, (row, place) in enumerate(rows_of(path), 1):
        rows += 1
        value = row[column(row, place, text, QUESTION_COLUMNS, "question")]
        if value is not None and not isinstance(value, str):
            raise TableError(f"{place}: the question is {value!r}, expected a text.")
        if not (key := " ".join(words_of(value or ""))):
            empty += 1
            continue
        name = next((str(row[column]) for column in ID_COLUMNS if row.get(column)), f"row {number}")
        questions.setdefault(key, SurveyQuestion(name, _tidy(value or "")))
    if not questions:
        raise TableError(f"{path} has no question.")
    return SurveyQuestions(
        path.name, file_sha256(path), tuple(questions.values()), rows - empty - len(questions), empty
    )


def _tidy(text: str) -> str:
    """Without empty lines and needless spaces; line breaks stay, options may stand behind them."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def words_of(text: str) -> Sequence[str]:
    """The words of a text folded for comparison: no case, accents' forms, marks or line breaks."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").replace("'", "")
    return WORD.findall(plain)
