"""What reviewers decided: one decision, one reviewer's file (JSON or CSV), and both read strictly."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.errors import UsageError
from cultural_palette.jsonl import JsonFault, parse_json
from cultural_palette.safe_text import unguarded_cell

FORMAT = "cultural-palette-review/1"
APPROVE, EDIT, REJECT = "approve", "edit", "reject"
DECISIONS = (APPROVE, EDIT, REJECT)
COLUMNS = (
    "query_id",
    "query",
    "community",
    "response",
    "findings",
    "text_hash",
    "reviewer",
    "decision",
    "reason",
    "text",
)
NEEDED = ("query_id", "community", "decision", "reason", "text")
FIELD_LIMIT = 2**27


class ReviewError(UsageError):
    """Decisions that can not be taken as they stand; names file, row and the way out."""


@dataclass(frozen=True)
class Decision:
    """One reviewer on one answer. `text`: the edited answer; `text_hash`: of the answer that was read."""

    query_id: str
    community: str
    decision: str
    reason: str | None = None
    text: str | None = None
    text_hash: str | None = None

    def __post_init__(self) -> None:
        for name in ("query_id", "community"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise ReviewError(f'"{name}" is {getattr(self, name)!r}, expected a text')
        for name in ("reason", "text", "text_hash"):
            if not isinstance(getattr(self, name), str | None):
                raise ReviewError(f'"{name}" is {getattr(self, name)!r}, expected a text or nothing')
        if self.decision not in DECISIONS:
            raise ReviewError(f"decision {self.decision!r}: expected one of {', '.join(DECISIONS)}")
        if self.decision != APPROVE and not (self.reason or "").strip():
            raise ReviewError(f"{self.decision} needs a reason")
        if self.decision == EDIT and not (self.text or "").strip():
            raise ReviewError('edit needs "text", the answer as it should read')
        if self.decision != EDIT and self.text is not None:
            raise ReviewError(f'{self.decision} has a "text"; only edit takes one')

    @property
    def key(self) -> tuple[str, str]:
        """(query id, community)."""
        return self.query_id, self.community


@dataclass(frozen=True)
class DecisionsFile:
    """One reviewer's decisions. `undecided`: rows of a CSV that were left blank."""

    reviewer: str
    run: str
    decisions: tuple[Decision, ...]
    path: Path
    undecided: int = 0

    def __post_init__(self) -> None:
        if not self.reviewer.strip():
            raise ReviewError(f"{self.path}: no reviewer's name")
        seen: dict[tuple[str, str], Decision] = {}
        for decision in self.decisions:
            if seen.setdefault(decision.key, decision) != decision:
                raise ReviewError(
                    f"{self.path}: {self.reviewer} decides twice, and not the same, on "
                    f"{decision.query_id} / {decision.community}"
                )


def read_decisions(path: Path) -> DecisionsFile:
    """A decisions file, JSON as the page saves it or CSV; raises ReviewError with the row's place."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ReviewError(f"{path} can not be read: {error.strerror or error}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ReviewError(f"{path} is not UTF-8: save it again as CSV UTF-8, or as JSON") from None
    return _from_csv(text, path) if path.suffix.lower() == ".csv" else _from_json(text, path)


def to_json(reviewer: str, run: str, decisions: Iterable[Decision]) -> dict[str, Any]:
    """What the page saves, and `read_decisions` reads."""
    return {
        "format": FORMAT,
        "reviewer": reviewer,
        "run": run,
        "decisions": [
            {
                "query_id": decision.query_id,
                "community": decision.community,
                "decision": decision.decision,
                "reason": decision.reason,
                "text": decision.text,
                "text_hash": decision.text_hash,
            }
            for decision in decisions
        ],
    }


def _from_json(text: str, path: Path) -> DecisionsFile:
    try:
        data = parse_json(text)
    except JsonFault as error:
        raise ReviewError(f"{path}: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        file_format = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ReviewError(f'{path}: expected "format": "{FORMAT}", found {file_format!r}')
    rows = data.get("decisions")
    if not isinstance(rows, list):
        raise ReviewError(f'{path}: "decisions" is {type(rows).__name__}, expected a list')
    decisions = tuple(_decision(row, f"{path}: decisions[{n}]") for n, row in enumerate(rows))
    return DecisionsFile(str(data.get("reviewer") or ""), str(data.get("run") or ""), decisions, path)


def _from_csv(text: str, path: Path) -> DecisionsFile:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    csv.field_size_limit(FIELD_LIMIT)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if missing := [name for name in NEEDED if name not in (table.fieldnames or ())]:
        raise ReviewError(f"{path}:1: no column {missing[0]!r}; needed are {', '.join(NEEDED)}")
    decisions, names, undecided = [], set(), 0
    for row in table:
        place = f"{path}:{table.line_num}"
        cells = {key: unguarded_cell(value or "") for key, value in row.items() if isinstance(key, str)}
        if name := cells.get("reviewer", "").strip():
            names.add(name)
        if not (decision := cells["decision"].strip().lower()):
            if cells["reason"].strip() or cells["text"].strip():
                raise ReviewError(f"{place}: a reason or a text, but no decision")
            undecided += 1
            continue
        fields = {name: cells.get(name, "") for name in ("reason", "text_hash")}
        decisions.append(
            _decision(
                {
                    "query_id": cells["query_id"],
                    "community": cells["community"].strip(),
                    "decision": decision,
                    "text": cells["text"] if cells["text"].strip() else None,
                    **{name: value.strip() or None for name, value in fields.items()},
                },
                place,
            )
        )
    if len(names) > 1:
        raise ReviewError(f"{path}: several reviewers ({', '.join(sorted(names))}); one file for each")
    return DecisionsFile(names.pop() if names else _reviewer_in(path), "", tuple(decisions), path, undecided)


def _decision(row: object, place: str) -> Decision:
    if not isinstance(row, Mapping):
        raise ReviewError(f"{place}: expected an object, found {type(row).__name__}")
    if lost := [name for name in ("query_id", "community", "decision") if name not in row]:
        raise ReviewError(f'{place}: no "{lost[0]}"')
    known = {name: row.get(name) for name in Decision.__dataclass_fields__}
    try:
        return Decision(**known)  # type: ignore[arg-type]  # Decision refuses what does not fit
    except ReviewError as error:
        raise ReviewError(f"{place} ({row['query_id']} / {row['community']}): {error}") from None


def _reviewer_in(path: Path) -> str:
    """The name in `decisions-NAME.csv`, else the file's own."""
    return path.stem.removeprefix("decisions-")
