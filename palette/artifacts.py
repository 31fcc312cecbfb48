"""Run folders: rows appended as they come, the manifest last. Stopped runs go on, finished ones stay."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from cultural_palette.errors import ArtifactError

LOG = logging.getLogger(__name__)
ROWS, MANIFEST, CONFIG, LOCK = "rows.jsonl", "manifest.json", "config.json", ".lock"


class RunFolder:
    """One run's folder: `rows.jsonl`, then `manifest.json`, which says that the run is finished.

    Reading needs no lock. The first `append` (or `with`) locks the folder until `close` or the process' end,
    however that comes; a second writer gets an ArtifactError. A run begun with a `config` goes on with
    the same one only.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.config = config
        self._lock: int | None = None
        self._rows: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the manifest, which comes last, is there."""
        return (self.path / MANIFEST).exists()

    @property
    def manifest(self) -> dict[str, Any]:
        """What `finish` wrote."""
        if not self.finished:
            raise ArtifactError(f"{self.path} has no {MANIFEST}: that run is not finished. Run it again.")
        return _read_json(self.path / MANIFEST)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in the order of their arrival, but for a last one cut short; none before the first."""
        file = self.path / ROWS
        if not file.exists():
            return
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    LOG.warning(
                        "%s:%d: the last row is cut short (%d bytes); left out", file, number, len(line)
                    )
                    return
                yield _row(line, file, number)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row, on the disk's side of a kill when this returns. Nothing stays of a row that fails."""
        line = _json(row, f"row for {self.path / ROWS}") + b"\n"
        rows = self._writable()
        size = os.fstat(rows).st_size
        try:
            if os.write(rows, line) < len(line):
                raise OSError("the disk took a part of the row only; is it full?")
        except OSError as error:
            os.ftruncate(rows, size)
            raise ArtifactError(f"{self.path / ROWS} can not be written: {error}") from error

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, whole, after every row is on the disk; then let the folder go."""
        data = _json(manifest, f"manifest of {self.path}", indent=2) + b"\n"
        os.fsync(self._writable())
        write_whole(self.path / MANIFEST, data)
        self.close()

    def clear(self) -> None:
        """Take the run's own files away, to begin again: only when a person asked for it."""
        self._acquire()
        for name in (MANIFEST, ROWS, CONFIG):
            (self.path / name).unlink(missing_ok=True)
        self.close()

    def open(self) -> RunFolder:
        """Lock the folder for writing, check the config, cut off a torn last row. Safe to call again."""
        if self._rows is not None:
            return self
        self._acquire()
        try:
            self._check_config()
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._rows = os.open(self.path / ROWS, flags, 0o666)
            _cut_torn_row(self._rows, self.path / ROWS)
        except OSError as error:
            self.close()
            raise ArtifactError(f"{self.path / ROWS} can not be written: {error}") from error
        except ArtifactError:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Let the folder go, finished or not."""
        for descriptor in (self._rows, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._rows = self._lock = None

    def __enter__(self) -> RunFolder:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _writable(self) -> int:
        self.open()
        if self.finished or self._rows is None:
            self.close()
            raise ArtifactError(f"{self.path} is finished: take another folder, or clear this one first.")
        return self._rows

    def _acquire(self) -> None:
        if self._lock is not None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ArtifactError(f"{self.path} can not be written: {error}") from error
        if not _lock(self._lock):
            self.close()
            raise ArtifactError(f"{self.path} is in use by another run: wait for it, or take another folder.")

    def _check_config(self) -> None:
        if self.config is None:
            return
        wanted = json.loads(_json(self.config, f"config of {self.path}"))
        file = self.path / CONFIG
        if not file.exists():
            write_whole(file, _json(wanted, f"config of {self.path}", indent=2) + b"\n")
            return
        if (there := _read_json(file)) != wanted:
            changed = sorted(key for key in there | wanted if there.get(key) != wanted.get(key))
            was = ", ".join(f"{key} {there.get(key)!r}, now {wanted.get(key)!r}" for key in changed)
            raise ArtifactError(
                f"{self.path} was begun with another config: {was}. Use the same, or take another folder."
            )


def write_whole(path: str | Path, data: str | bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part; text becomes UTF-8."""
    path = Path(path)
    raw = data.encode("utf-8") if isinstance(data, str) else data
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ArtifactError(f"{path} can not be written: {error}") from error


def _json(value: Mapping[str, Any], what: str, indent: int | None = None) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError:  # half a surrogate pair, as broken model output has it: escaped, it fits
            return json.dumps(value, allow_nan=False, indent=indent).encode("ascii")
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"The {what} does not fit into JSON: {error}") from None


def _row(line: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ArtifactError(f"{file}:{number}: not JSON ({error}). Mend that line, or take it out.") from None
    if not isinstance(row, dict):
        raise ArtifactError(f"{file}:{number}: expected a JSON object, found {type(row).__name__}.")
    return row


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return _row(file.read_bytes(), file, 1)
    except OSError as error:
        raise ArtifactError(f"{file} can not be read: {error}") from None


def _cut_torn_row(descriptor: int, file: Path) -> None:
    size = end = os.fstat(descriptor).st_size
    while end > 0:  # back from the end, in blocks, to the last line break
        start = max(0, end - 65536)
        os.lseek(descriptor, start, os.SEEK_SET)
        found = os.read(descriptor, end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        LOG.warning("%s: the last row was cut short (%d bytes); it is dropped", file, size - end)
        os.ftruncate(descriptor, end)


def _lock(descriptor: int) -> bool:
    """Take the lock, which ends with the process, even by kill -9. False when another has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
