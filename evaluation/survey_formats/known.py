"""Which reader a file takes. One function, `read_answers`, reads every format: whoever needs answers of
people, to evaluate or to train on, comes through here.

A format is told by what is in it: the columns of a CSV, the fields of the first entry of a JSON list or of
the first line of JSONL, the files of a folder. Each reader's own page says what the data is and where it is
from; `docs/surveys.md` has their licences.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cultural_palette.evaluation.survey_formats import (
    Answer,
    Aside,
    SurveyError,
    blend,
    culturalbench,
    globalopinionqa,
    grouped_counts,
    jsonl,
    modular_pluralism,
    normad,
    read_text,
    respondents,
    simbench,
    subpop,
    wvs,
)

Read = Callable[[Path], Iterator[Answer | Aside]]
HEAD = 20_000


@dataclass(frozen=True)
class Format:
    """One format. `needs`: columns or fields that only it has; with none it is the suffix's last resort."""

    name: str
    suffix: str
    needs: frozenset[str]
    read: Read


FORMATS = (
    Format("GlobalOpinionQA", ".csv", frozenset(globalopinionqa.COLUMNS), globalopinionqa.read),
    Format("SimBench", ".csv", frozenset(simbench.COLUMNS), simbench.read),
    Format("SubPOP", ".csv", frozenset(subpop.FIELDS), subpop.read_csv),
    Format("NormAd", ".csv", frozenset(normad.COLUMNS), normad.read),
    Format("CulturalBench-Easy", ".csv", frozenset(culturalbench.EASY), culturalbench.read),
    Format("CulturalBench-Hard", ".csv", frozenset(culturalbench.HARD), culturalbench.read),
    Format("GlobalOpinionQA", ".csv", frozenset(), globalopinionqa.read),  # it says which column is missing
    Format("SubPOP", ".jsonl", frozenset(subpop.FIELDS), subpop.read),
    Format("our own", ".jsonl", frozenset(), jsonl.read),
    Format("OpinionQA and distributional alignment", ".json", frozenset({grouped_counts.OPTIONS}),
           grouped_counts.read),
    Format("BLEnD", ".json", frozenset({blend.ANNOTATIONS}), blend.read),
    Format("Modular Pluralism and VITAL", ".json", frozenset(), modular_pluralism.read),
)  # fmt: skip


def read_answers(path: Path) -> tuple[Iterator[Answer | Aside], tuple[Path, ...]]:
    """Every population's answer to every question of a file or folder, and the files that are read.

    Raises SurveyError for what is no survey; what can not be read of one comes as `Aside`.
    """
    if path.is_dir():
        if wvs.is_folder(path):
            return wvs.read(path), wvs.files(path)
        if respondents.is_folder(path):
            return respondents.read(path), respondents.files(path)
        raise SurveyError(
            f"{path} is a folder without {wvs.QUESTIONS} (or {wvs.OTHER_QUESTIONS}) and {wvs.PROPORTIONS}, "
            f"and without {respondents.CODEBOOK} beside a CSV of respondents."
        )
    suffix = path.suffix.lower()
    formats = [known for known in FORMATS if known.suffix == suffix]
    if not formats:
        known = ", ".join(dict.fromkeys(known.suffix for known in FORMATS))
        more = " SimBench's .pkl would run code: save it as CSV." if suffix == ".pkl" else ""
        raise SurveyError(f"{path}: expected a file that ends in {known}, or a folder.{more}")
    fields = _fields(path, suffix)
    return next(known for known in formats if known.needs <= fields).read(path), (path,)


def _fields(path: Path, suffix: str) -> frozenset[str]:
    """The columns of a CSV's first line, or the fields of the first entry of JSON or JSONL."""
    text = read_text(path)
    if suffix == ".csv":
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        try:
            return frozenset(next(csv.reader([text.partition("\n")[0]]), []))
        except csv.Error:
            return frozenset()
    if suffix == ".jsonl":
        text = text.partition("\n")[0]
    start = text.lstrip()
    try:
        if start.startswith("["):
            first, _ = json.JSONDecoder().raw_decode(start[1:].lstrip())
        else:
            first = json.loads(start)
    except (ValueError, RecursionError):
        return frozenset()
    if suffix == ".json" and isinstance(first, dict) and start.startswith("{"):
        first = next((value for value in first.values() if isinstance(value, dict)), first)
    return frozenset(first) if isinstance(first, dict) else frozenset()
