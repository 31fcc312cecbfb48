"""Rows of CSV, TSV, JSONL and JSON files. A row that can not be read is an error, never skipped."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cultural_palette.errors import UsageError
from cultural_palette.jsonl import JsonFault, read_json, read_rows, refuse

Row = Mapping[str, Any]
ADVICE = ". Mend it, or take it out."
LONGEST_LIST = 200  # characters
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


class TableError(UsageError):
    """A file of rows that can not be used; names file, line and what it lacks."""


def rows_of(path: Path) -> Iterator[tuple[Row, str]]:
    """Every row with its place, "file:line" ("file, entry n" in a JSON list or object).

    A JSON object of objects gives one row an entry; an entry that is a text becomes {"text": ..}.
    """
    if not path.is_file():
        raise TableError(f"No file {path}.")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise TableError(f"{path}: rows are read from {', '.join(ENDINGS)} files.")
    try:
        if ending in (".csv", ".tsv"):
            yield from _separated(path, "," if ending == ".csv" else "\t")
        elif ending == ".json":
            yield from _json(path)
        else:
            yield from read_rows(path, refuse(TableError, ADVICE))
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8 ({error}). Save it as UTF-8.") from None


def column(row: Row, place: str, wanted: str | None, known: Sequence[str], what: str) -> str:
    """The name of the column that holds `what`: the one asked for, else the first known one that is there."""
    for name in (wanted,) if wanted else known:
        if name in row:
            return name
    expected = repr(wanted) if wanted else " or ".join(repr(name) for name in known)
    there = ", ".join(map(str, row))[:LONGEST_LIST] or "none"
    raise TableError(f"{place}: no column {expected} for the {what}; there are {there}.")


def _separated(path: Path, delimiter: str) -> Iterator[tuple[Row, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                place = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise TableError(f"{place}: expected {len(reader.fieldnames or ())} columns.")
                yield row, place
        except csv.Error as error:
            raise TableError(f"{path}:{reader.line_num}: not CSV ({error}).") from None


def _json(path: Path) -> Iterator[tuple[Row, str]]:
    try:
        data = read_json(path)
    except JsonFault as error:
        raise TableError(f"{path}: {error}{ADVICE}") from None
    entries = list(data.values()) if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise TableError(f"{path}: expected a list or an object of rows, found {type(data).__name__}.")
    for number, entry in enumerate(entries, 1):
        place = f"{path}, entry {number}"
        yield ({"text": entry} if isinstance(entry, str) else _object(entry, place)), place


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise TableError(f"{place}: expected a JSON object, found {type(value).__name__}.")
    return value
