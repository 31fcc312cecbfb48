"""What runs leave on the disk: rows with the manifest last, and files and folders whole or not at all.

Stopped runs go on, finished ones stay, and two runs never write to one place. The locks are POSIX, as
Linux and macOS have them, and end with their process, however that comes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cultural_palette.errors import ArtifactError
from cultural_palette.jsonl import JsonFault, parse_object

LOG = logging.getLogger(__name__)
ROWS, MANIFEST, CONFIG, LOCK = "rows.jsonl", "manifest.json", "config.json", ".lock"
CLAIM_HEAD = b"cultural-palette: a run fills the folder beside this file, in:\n"


class RunFolder:
    """One run's folder: `rows.jsonl`, then `manifest.json`, which says that the run is finished.

    Reading needs no lock. The first `append` (or `with`) locks the folder until `close` or the process' end,
    however that comes; a second writer gets an ArtifactError. A run begun with a `config` goes on with
    the same one only.
    """

    def __init__(
        self, path: str | Path, config: Mapping[str, Any] | None = None, unchecked: Collection[str] = ()
    ) -> None:
        """`unchecked`: keys of the config that are written down and may differ: names of what other keys hold
        by content.
        """
        self.path = Path(path)
        self.config = config
        self.unchecked = unchecked
        self._lock: int | None = None
        self._rows: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the manifest, which comes last, is there."""
        return os.path.lexists(self.path / MANIFEST)

    @property
    def manifest(self) -> dict[str, Any]:
        """What `finish` wrote."""
        if not self.finished:
            raise ArtifactError(f"{self.path} has no {MANIFEST}: that run is not finished. Run it again.")
        return _read_json(self.path / MANIFEST)

    def same_manifest(self) -> dict[str, Any]:
        """A finished run's manifest, if it has this very config; else ArtifactError. Reads only."""
        if self.config is not None:
            self._refuse_another()
        return self.manifest

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in the order of their arrival, but for a last one cut short; none before the first."""
        file = self.path / ROWS
        if not os.path.lexists(file):
            return
        if not file.is_file():
            raise ArtifactError(f"{file} is no file that can be read. Mend it, or take it away.")
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
            self._rows = os.open(self.path / ROWS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
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
            free = _flock(self._lock)
        except OSError as error:
            self.close()
            raise ArtifactError(f"{self.path} can not be written: {error}") from error
        if not free:
            self.close()
            raise _in_use(self.path)

    def _check_config(self) -> None:
        if self.config is None:
            return
        if os.path.lexists(self.path / CONFIG) or self.finished or _holds_rows(self.path):
            self._refuse_another()
        else:
            write_whole(self.path / CONFIG, _json(self._wanted, f"config of {self.path}", indent=2) + b"\n")

    def _refuse_another(self) -> None:
        """Raise ArtifactError unless the folder was begun with this config."""
        file = self.path / CONFIG
        if not os.path.lexists(file):
            raise ArtifactError(
                f"{self.path} holds a run and no {CONFIG} that says which: take another folder."
            )
        if was := differing(_read_json(file), self._wanted, self.unchecked):
            raise ArtifactError(
                f"{self.path} was begun with another config: {was}. Use the same, or take another folder."
            )

    @property
    def _wanted(self) -> dict[str, Any]:
        """The config as a file gives it back."""
        wanted: dict[str, Any] = json.loads(_json(self.config or {}, f"config of {self.path}"))
        return wanted


def differing(there: Mapping[str, Any], wanted: Mapping[str, Any], unchecked: Collection[str] = ()) -> str:
    """What differs between two configs, in words; empty when nothing does, but for the keys in `unchecked`.
    Of objects, only the parts that differ are named.
    """
    words = []
    for key in sorted({*there, *wanted} - set(unchecked)):
        old, new = there.get(key), wanted.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            words += [f"{key}.{name} {old.get(name)!r}, now {new.get(name)!r}" for name in names]
        else:
            words.append(f"{key} {old!r}, now {new!r}")
    return ", ".join(words)


def write_whole(path: str | Path, data: str | bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part; text becomes UTF-8, half
    a surrogate pair its escape.
    """
    with whole_file(path) as file:
        file.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write in pieces: at `path`, whole, when the block ends well; else nothing has changed.

    Raises ArtifactError in place of the operating system's errors, those of the block too.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
    except OSError as error:
        raise ArtifactError(f"{path} can not be written: {error}") from error


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for whoever has it. The file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` when the block ends well; else nothing has changed.

    A second run that writes to the same place gets an ArtifactError, at once.
    """
    with claim(out) as place, place.whole_folder() as part:
        yield part


@contextmanager
def claim(out: Path, *, wait: bool = False, inside: str | None = None) -> Iterator[Claim]:
    """Hold the place `out`: one run at a time fills or replaces it. `wait`: for another run to end. `inside`:
    the lock's name in the folder `out`, for what only adds files there and may write nothing beside it.

    Where a link stands at `out`, what it points to is meant. Raises ArtifactError: in use, not writable.
    """
    try:
        where = out.resolve()
        if where.is_symlink():  # a circle of links ends nowhere
            raise OSError("its links point to each other")
        there = where.exists()
        (where if inside else where.parent).mkdir(parents=True, exist_ok=True)
        file = where / inside if inside else where.with_name(f".{where.name}.lock")
        descriptor, ours = _open_claim(file, wait)
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{out} can not be written: {error}") from error
    if descriptor is None:
        raise _in_use(out)
    place = Claim(where, descriptor, notes=ours)
    try:
        if ours:
            place.tidy()
        yield place
    finally:
        if ours:
            with suppress(OSError):
                file.unlink()
        if inside and not there:
            with suppress(OSError):
                where.rmdir()  # still empty
        os.close(descriptor)


class Claim:
    """A place that this run alone writes to, and the folders beside it that it works in.

    Their names are random, and stand in the lock file before they are made: so what a killed run left is
    known to be ours and goes away with the next run, and nothing else does.
    """

    def __init__(self, out: Path, lock: int, notes: bool) -> None:
        """`notes`: whether the lock file is ours to write to."""
        self.out = out
        self._lock, self._notes = lock, notes

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder beside the place, on the same disk; gone after the block."""
        part = self._beside("part")
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def whole_folder(self) -> Iterator[Path]:
        """A folder to fill, which takes the place when the block ends well; else nothing has changed.

        Operating system errors pass; the block may raise them too.
        """
        with self.scratch() as part:
            yield part
            old = self._beside("old")
            there = self.out.exists()
            if there:
                self.out.rename(old)
            try:
                part.rename(self.out)
            except OSError:
                if there:
                    old.rename(self.out)
                raise
            _remove(old)

    def tidy(self) -> None:
        """Put back what a killed run had moved aside and not replaced yet; remove what it left."""
        ours = re.compile(rf"\.{re.escape(self.out.name)}\.[0-9a-f]{{16}}\.(part|old)")
        left = [self.out.with_name(name) for name in _noted(self._lock) if ours.fullmatch(name)]
        for path in left:
            if path.suffix == ".old" and path.exists() and not self.out.exists():
                path.rename(self.out)
        for path in left:
            _remove(path)

    def _beside(self, kind: str) -> Path:
        path = self.out.with_name(f".{self.out.name}.{secrets.token_hex(8)}.{kind}")
        if self._notes:
            os.lseek(self._lock, 0, os.SEEK_END)
            os.write(self._lock, f"{path.name}\n".encode("utf-8", "surrogateescape"))
        return path


def _json(value: Mapping[str, Any], what: str, indent: int | None = None) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError:  # half a surrogate pair, as broken model output has it: escaped, it fits
            return json.dumps(value, allow_nan=False, indent=indent).encode("ascii")
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"The {what} does not fit into JSON: {error}") from None


def _holds_rows(folder: Path) -> bool:
    rows = folder / ROWS
    return rows.exists() and rows.stat().st_size > 0


def _row(line: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        return parse_object(line, half_pairs=True)
    except JsonFault as error:
        raise ArtifactError(f"{file}:{number}: {error}. Mend that line, or take it out.") from None


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
        line_break = os.read(descriptor, end - start).rfind(b"\n")
        if line_break >= 0:
            end = start + line_break + 1
            break
        end = start
    if end < size:
        LOG.warning("%s: the last row was cut short (%d bytes); it is dropped", file, size - end)
        os.ftruncate(descriptor, end)


def _open_claim(file: Path, wait: bool) -> tuple[int | None, bool]:
    """The lock file, locked (None: another run has it), and whether it is one of ours, to be removed after.

    A file of that name that someone else wrote is locked as well, and left as it is.
    """
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            if not _flock(descriptor, wait):
                os.close(descriptor)
                return None, False
            if not _still_at(file, descriptor):  # its last holder removed it meanwhile
                os.close(descriptor)
                continue
            size = os.fstat(descriptor).st_size
            if size == 0:
                os.write(descriptor, CLAIM_HEAD)
            os.lseek(descriptor, 0, os.SEEK_SET)
            return descriptor, os.read(descriptor, len(CLAIM_HEAD)) == CLAIM_HEAD
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise


def _noted(lock: int) -> list[str]:
    """Names of the folders that a claim's lock file says were made."""
    os.lseek(lock, len(CLAIM_HEAD), os.SEEK_SET)
    raw = os.read(lock, 2**20).decode("utf-8", "surrogateescape")
    return raw.split("\n")[:-1]


def _still_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _in_use(path: Path) -> ArtifactError:
    return ArtifactError(f"{path} is in use by another run: wait for it, or take another folder.")


def _flock(descriptor: int, wait: bool = False) -> bool:
    """Take the lock, which ends with the process, even by kill -9. False when another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
