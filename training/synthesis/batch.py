"""Providers' batch files: the next step of every unfinished row as requests, and their results as replies.

The format is OpenAI's: one JSON object a line, `custom_id` being the key that the call is kept under. Half
the price, and a day's patience: write, upload, read, until nothing is left to ask.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cultural_palette.errors import ArtifactError, UsageError
from cultural_palette.jsonl import parse_object
from cultural_palette.nodes.synthesis.state import TeacherRefused
from cultural_palette.training.synthesis.teacher import Json, NotYet, Request
from cultural_palette.training.synthesis.teacher_servers import REFUSALS, Trouble, read_completion

MOST_REQUESTS, MOST_BYTES = 50_000, 100_000_000  # of one file, as OpenAI takes them
ENDPOINT = "/v1/chat/completions"


@dataclass
class RequestsFile:
    """Writes requests to `requests-<round>-<part>.jsonl`, each once. The files appear whole, at `close`."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    requests: int = 0
    _written: set[str] = field(default_factory=set)
    _open: BinaryIO | None = None
    _in_file: int = 0
    _round: int = 0
    _token: str = field(default_factory=lambda: secrets.token_hex(4))

    async def __call__(self, request: Request, key_of: Callable[[], str]) -> Json:
        """Note the request; its reply is to come."""
        key = key_of()
        if key not in self._written:
            self._written.add(key)
            line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": request.body}
            self._write(json.dumps(line, ensure_ascii=True).encode("ascii") + b"\n")
            self.requests += 1
        raise NotYet("The request stands in the batch file.")

    def _write(self, line: bytes) -> None:
        try:
            if self._open and (self._in_file >= MOST_REQUESTS or self._open.tell() + len(line) > MOST_BYTES):
                self._open.close()
                self._open = None
            if self._open is None:
                self._begin()
            assert self._open is not None
            self._open.write(line)
        except OSError as error:
            raise ArtifactError(f"{self.folder} can not be written: {error}") from error
        self._in_file += 1

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._round:
            names = (re.match(r"requests-(\d+)-", file.name) for file in self.folder.glob("requests-*.jsonl"))
            rounds = [int(name[1]) for name in names if name]
            self._round = max(rounds, default=0) + 1
        file = self.folder / f"requests-{self._round:03}-{len(self.files) + 1:03}.jsonl"
        self.files.append(file)
        self._open = self._part_of(file).open("xb")
        self._in_file = 0

    def _part_of(self, file: Path) -> Path:
        return file.with_name(f".{file.name}.{self._token}.part")

    def close(self) -> list[Path]:
        """Give the files their names."""
        try:
            if self._open:
                self._open.close()
                self._open = None
            for file in self.files:
                self._part_of(file).replace(file)
        except OSError as error:
            raise ArtifactError(f"{self.folder} can not be written: {error}") from error
        return self.files


@dataclass
class ResultsFiles:
    """Replies out of results files. Counts: `read` lines, `errors` (asked again next time), `duplicates`
    (the first that is good counts), `unreadable` lines, `used` replies.
    """

    files: tuple[Path, ...]
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("read", "errors", "duplicates", "unreadable", "used"), 0)
    )
    faults: list[str] = field(default_factory=list)
    _places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        failed: set[str] = set()
        for number, file in enumerate(self.files):
            if not file.is_file():
                raise UsageError(f"No results file {file}.")
            with file.open("rb") as lines:
                offset = 0
                for line_number, line in enumerate(lines, 1):
                    if line.strip():
                        self._index(line, number, offset, f"{file}:{line_number}", failed)
                    offset += len(line)
        self.counts["errors"] = len(failed - self._places.keys())

    def _index(self, line: bytes, number: int, offset: int, place: str, failed: set[str]) -> None:
        self.counts["read"] += 1
        try:
            row = parse_object(line, half_pairs=True)
            key = row["custom_id"]
            if not isinstance(key, str):
                raise TypeError("custom_id is no text")
            outcome = _outcome(row)
        except (ValueError, KeyError, TypeError) as error:
            self.counts["unreadable"] += 1
            self.faults.append(f"{place}: no batch result ({type(error).__name__}: {error})")
            return
        if key in self._places:
            self.counts["duplicates"] += 1
        elif isinstance(outcome, Trouble):
            failed.add(key)
            if len(self.faults) < 100:
                self.faults.append(f"{place}: {outcome.why}")
        else:
            self._places[key] = (number, offset)

    async def __call__(self, request: Request, key_of: Callable[[], str]) -> Json:
        """The reply to a request, if a file has it."""
        key = key_of()
        if key not in self._places:
            raise NotYet("The results files have no reply to this request.")
        number, offset = self._places[key]
        with self.files[number].open("rb") as lines:
            lines.seek(offset)
            outcome = _outcome(parse_object(lines.readline(), half_pairs=True))
        assert not isinstance(outcome, Trouble)
        self.counts["used"] += 1
        if "refused" in outcome:
            raise TeacherRefused(f"{request.model} refused the request ({outcome['refused']}).")
        return outcome


def _outcome(row: Mapping[str, Any]) -> Json | Trouble:
    """The reply of a result line; or {"refused": why}, when asking again would not help; or the trouble."""
    response = row.get("response")
    if not isinstance(response, Mapping):
        return Trouble(f"error: {_reason(row.get('error'))}")
    status, body = response.get("status_code"), response.get("body")
    if status in REFUSALS:
        return {"refused": f"HTTP {status}: {_reason(body)}"}
    if status != 200 or row.get("error"):
        return Trouble(f"HTTP {status}: {_reason(row.get('error') or body)}")
    done = read_completion(body if isinstance(body, Mapping) else {}, "the results file")
    if isinstance(done, Trouble):
        return done
    return {"text": done.text, "finish": done.finish, "usage": done.usage, "seconds": 0.0}


def _reason(error: Any) -> str:
    if isinstance(error, Mapping):
        error = error.get("error", error)
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("code") or error
    return " ".join(str(error).split())[:200].rstrip(".")
