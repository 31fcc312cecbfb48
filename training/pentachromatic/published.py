"""The authors' published format: rows of query, response, rejected_response, a file for each community.

JSONL, JSON (a list), CSV and Parquet. The community comes from a column `community` or `continent`, else
from the file's name ("Africa.csv", "train_asia.jsonl"). A community has several rows a query, one for each
rejected answer; they need not stand together.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import RunFolder, whole_folder
from cultural_palette.errors import UsageError
from cultural_palette.jsonl import JsonFault, read_json, read_rows, refuse
from cultural_palette.provenance import short_sha256
from cultural_palette.training.pentachromatic.splits import normalised
from cultural_palette.training.pentachromatic.synthesis_run import OK, STEPS

COLUMNS = ("query", "response", "rejected_response")
COMMUNITY_COLUMNS = ("community", "continent")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


class PublishedError(UsageError):
    """Files that are not in the published format; names file and row."""


@dataclass
class PublishedGroup:
    """One community's answer to one query, and the answers rejected for it, in the files' order."""

    query_id: str
    query: str
    response: str
    rejected: list[str]


@dataclass(frozen=True)
class Published:
    """Groups by community, then by query id. `rows`: read; `repeated`: rows that stood twice."""

    groups: Mapping[str, Mapping[str, PublishedGroup]]
    rows: int
    repeated: int

    def answers(self) -> Iterator[tuple[str, PublishedGroup]]:
        """(community, group), all communities of a query together."""
        for query_id in dict.fromkeys(query_id for groups in self.groups.values() for query_id in groups):
            for key, groups in self.groups.items():
                if query_id in groups:
                    yield key, groups[query_id]

    def strangers(self) -> int:
        """Rejected answers that are no other community's response to that query."""
        count = 0
        for key, groups in self.groups.items():
            for query_id, group in groups.items():
                others = {
                    other_groups[query_id].response
                    for other, other_groups in self.groups.items()
                    if other != key and query_id in other_groups
                }
                count += sum(text not in others for text in group.rejected)
        return count


def read_published(
    paths: Sequence[Path], communities: Mapping[str, Sequence[str]], given: Mapping[Path, str] | None = None
) -> Published:
    """Read the files of one or all communities. `communities`: key to the names it goes by;
    `given`: community of a file that does not say it."""
    groups: dict[str, dict[str, PublishedGroup]] = {key: {} for key in communities}
    names = {name.casefold(): key for key, all_names in communities.items() for name in (key, *all_names)}
    rows = repeated = 0
    for path in paths:
        file_community = (given or {}).get(path) or _community_of(path, names)
        for place, row in _rows(path):
            query, response, rejected = (_text(row, column, place) for column in COLUMNS)
            community_text = next((str(row[c]) for c in COMMUNITY_COLUMNS if row.get(c)), None)
            key = names.get(community_text.strip().casefold()) if community_text else file_community
            if key is None:
                raise PublishedError(
                    f"{place}: which community? "
                    + (
                        f"{community_text!r} is not one of"
                        if community_text
                        else "Neither a column nor the file's name says one of"
                    )
                    + f" {', '.join(communities)}; say --community KEY=FILE."
                )
            query_id = published_id(query)
            group = groups[key].setdefault(query_id, PublishedGroup(query_id, query, response, []))
            if group.response != response:
                raise PublishedError(f"{place}: a second, different response of {key} to {query[:80]!r}")
            if rejected in group.rejected:
                repeated += 1
            else:
                group.rejected.append(rejected)
            rows += 1
    if not rows:
        raise PublishedError(f"No rows in {', '.join(map(str, paths))}.")
    return Published(groups, rows, repeated)


def as_run(published: Published, out: Path, map_key: str) -> dict[str, Any]:
    """Write them as a folder like that of a synthesis, which `build` and the review read; its manifest. The
    folder is there when it is whole, or not at all.

    What the published columns do not say (steps, validation, teacher) is None there, or "unknown".
    """
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there already, and no empty folder. Take another --out.")
    if lost := [key for key, groups in published.groups.items() if not groups]:
        raise PublishedError(f"No rows of {', '.join(lost)}: give the files of every community.")
    answers = 0
    with whole_folder(out) as part, RunFolder(part) as folder:
        for key, group in published.answers():
            folder.append(_run_row(key, group))
            answers += 1
        manifest = {
            "kind": "published-answers",
            "map": map_key,
            "communities": list(published.groups),
            "counts": {
                "rows": published.rows,
                "repeated": published.repeated,
                "answers": answers,
                "rejected_of_no_community": published.strangers(),
            },
        }
        folder.finish(manifest)
    return manifest


def _run_row(community: str, group: PublishedGroup) -> dict[str, Any]:
    blank = dict.fromkeys(("conversation_id", "user_id", "birth_country", "community"))
    return {
        "query_id": group.query_id,
        "query": group.query,
        "community": community,
        "status": OK,
        "response": group.response,
        "steps": dict.fromkeys(STEPS),
        "rounds": None,
        "validation": None,
        "teacher": "unknown",
        "prompts": {},
        "usage": None,
        "error": None,
        "source": {"dataset": "published", **blank},
    }


def published_id(query: str) -> str:
    """An id for a query that has none: from its normalised text."""
    return f"q-{short_sha256(normalised(query), 12)}"


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row); one row in memory at a time, but for .json."""
    if path.suffix not in SUFFIXES:
        raise PublishedError(f"{path}: expected {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix == ".csv":
            csv.field_size_limit(2**27)
            with path.open(encoding="utf-8-sig", newline="") as file:
                table = csv.DictReader(file)
                for cells in table:
                    yield f"{path}:{table.line_num}", cells
        elif path.suffix == ".json":
            data = read_json(path)
            if not isinstance(data, list):
                raise PublishedError(f"{path}: expected a list of rows, found {type(data).__name__}")
            for number, row in enumerate(data):
                yield _object(row, f"{path}[{number}]")
        else:
            for row, place in read_rows(path, refuse(PublishedError)):
                yield place, row
    except FileNotFoundError:
        raise PublishedError(f"No file {path}.") from None
    except UnicodeDecodeError as error:
        raise PublishedError(f"{path} is not UTF-8: {error}") from None
    except (csv.Error, JsonFault, OSError) as error:
        raise PublishedError(f"{path} can not be read: {error}") from None


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=512):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except pa.ArrowInvalid as error:
        raise PublishedError(f"{path} is no Parquet file: {error}") from None


def _object(row: object, place: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(row, dict):
        raise PublishedError(f"{place}: expected an object, found {type(row).__name__}")
    return place, row


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    if column not in row:
        raise PublishedError(f"{place}: no column {column!r}; needed are {', '.join(COLUMNS)}")
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise PublishedError(f"{place}: {column} is {value!r}, expected a text")
    return value


def _community_of(path: Path, names: Mapping[str, str]) -> str | None:
    """The one community that the file's name says; None when it says none, or several."""
    words = re.split(r"[^a-z0-9]+", path.stem.casefold())
    text = f" {' '.join(words)} "
    keys = {key for name, key in names.items() if f" {' '.join(re.split(r'[^a-z0-9]+', name))} " in text}
    return keys.pop() if len(keys) == 1 else None
