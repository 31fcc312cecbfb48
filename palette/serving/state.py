"""What was started, on the disk: `state.json`, written whole, without any key."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from cultural_palette.artifacts import write_whole
from cultural_palette.errors import ArtifactError
from cultural_palette.jsonl import read_object
from cultural_palette.serving.manifest import ServingError
from cultural_palette.serving.processes import Process
from cultural_palette.shapes import of_shape

FORMAT = "cultural-palette-serve/1"


@dataclass(frozen=True)
class Record:
    """A server as it was started. Times are ISO 8601, UTC; `ready`: when it first answered."""

    name: str
    pid: int
    began: str
    started: str
    url: str
    models: tuple[str, ...]
    log: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    asks_key: bool
    ready: str | None = None

    @property
    def process(self) -> Process:
        """The process as it can be recognised."""
        return Process(self.pid, self.began)

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.started)).total_seconds()


@dataclass(frozen=True)
class StateFile:
    """The records of one folder's servers. Whoever writes has to hold the folder's lock."""

    path: Path

    def records(self) -> dict[str, Record]:
        """Name -> record, in the order of starting; none without a file. ServingError when it is broken."""
        try:
            content = read_object(self.path)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}, expected {FORMAT!r}")
            return {name: _record(row) for name, row in content["servers"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ArtifactError) as error:
            raise ServingError(
                f"{self.path} can not be read: {error!r}. Stop its servers by hand and remove it."
            ) from None

    def put(self, record: Record, order: Collection[str] = ()) -> None:
        """Add a server, or write its new record. `order`: names as they are to be shown."""
        records = self.records() | {record.name: record}
        places = {name: place for place, name in enumerate(order)}
        self._write(dict(sorted(records.items(), key=lambda item: places.get(item[0], 0))))

    def mark_ready(self, record: Record) -> None:
        """Note that this very server has answered."""
        now = self.records().get(record.name)
        if now is not None and now.pid == record.pid and now.ready is None:
            self.put(replace(now, ready=timestamp()), list(self.records()))

    def drop(self, names: Collection[str]) -> None:
        """Forget servers; the file goes with the last of them."""
        remaining = {name: record for name, record in self.records().items() if name not in names}
        if remaining:
            self._write(remaining)
        else:
            self.path.unlink(missing_ok=True)

    def _write(self, records: Mapping[str, Record]) -> None:
        rows = {name: asdict(record) for name, record in records.items()}
        write_whole(
            self.path, json.dumps({"format": FORMAT, "servers": rows}, indent=1, ensure_ascii=False) + "\n"
        )


def timestamp() -> str:
    """Now, in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _StoredRecord(TypedDict):
    """A record as JSON has it."""

    name: str
    pid: int
    began: str
    started: str
    url: str
    models: list[str]
    log: str
    command: list[str]
    environment: dict[str, str]
    asks_key: bool
    ready: str | None


def _record(row: Mapping[str, Any]) -> Record:
    of_shape(row, _StoredRecord, "a server")
    record = Record(**_tuples(row))
    if datetime.fromisoformat(record.started).tzinfo is None or record.pid < 1:
        raise ValueError(f"a time without a zone ({record.started}), or no process ({record.pid})")
    return record


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
