"""Files written row by row, in little memory: JSONL and Parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cultural_palette.provenance import file_sha256

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 512


@dataclass(frozen=True)
class FileFacts:
    """What a manifest says of a file. `rows`: None for what has no rows."""

    rows: int | None
    bytes: int
    sha256: str


class JsonLines:
    """A JSONL file, a row at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rows, self._digest, self._bytes = path, 0, sha256(), 0
        self._file = path.open("xb")

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        self._file.write(line)
        self._digest.update(line)
        self.rows, self._bytes = self.rows + 1, self._bytes + len(line)

    def close(self) -> FileFacts:
        """Put it on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileFacts(self.rows, self._bytes, self._digest.hexdigest())

    def abandon(self) -> None:
        """Close it as it is, after a failure."""
        self._file.close()


class ParquetRows:
    """A Parquet file, a row at a time, zstd-compressed, written by row groups."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rows, self._schema = path, 0, schema
        self._held: list[Mapping[str, Any]] = []
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._held.append(row)
        self.rows += 1
        if len(self._held) >= ROW_GROUP:
            self._flush()

    def close(self) -> FileFacts:
        """Put it on the disk."""
        self._flush()
        self._writer.close()
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        return facts(self.path, self.rows)

    def abandon(self) -> None:
        """Close it as it is, after a failure."""
        self._held.clear()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._held:
            self._writer.write_table(pa.Table.from_pylist(list(self._held), self._schema))
            self._held.clear()


def facts(path: Path, rows: int | None = None) -> FileFacts:
    """Size and SHA-256 of a file that is there."""
    return FileFacts(rows, path.stat().st_size, file_sha256(path))
