"""A folder on any storage that fsspec reaches: a shared disk, S3, Google Cloud Storage, memory.

A reader finds an object whole or not at all: on a disk by renaming, on an object store by its own promise.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cultural_palette.artifacts import write_whole
from cultural_palette.errors import ArtifactError, UsageError


class Storage:
    """The folder at `url`: a path, or "s3://bucket/runs/x". Safe to use from several threads.

    Raises UsageError for a kind of storage that is unknown or lacks its package, ArtifactError for what can
    not be read or written.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{url}: {error}. Give a folder, or such as s3://BUCKET/FOLDER.") from None
        except Exception as error:  # s3fs, gcsfs and the others raise their own: no key, no bucket
            raise ArtifactError(f"{url} can not be used: {_words(error)}") from error

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.url,)

    @property
    def local(self) -> bool:
        """Whether it is a disk, of this machine or shared."""
        return isinstance(self._files, LocalFileSystem)

    @property
    def in_memory(self) -> bool:
        """Whether it ends with its process, and no other process sees it."""
        return "memory" in (
            self._files.protocol if isinstance(self._files.protocol, tuple) else (self._files.protocol,)
        )

    def at(self, name: str) -> str:
        """Where the object `name` lies, for messages."""
        return f"{self.url}/{name}"

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        with self._errors(name, "read"):
            return bool(self._files.exists(self._path(name)))

    def names(self, folder: str) -> list[str]:
        """Objects directly in `folder`, by name; none where there is no such folder."""
        with self._errors(folder, "read"):
            self._files.invalidate_cache()
            try:
                paths = self._files.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in paths)

    def read(self, name: str) -> bytes | None:
        """The object's bytes; None when it is not there."""
        with self._errors(name, "read"):
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def lines(self, name: str) -> Iterator[bytes]:
        """The object line by line, a block in memory at a time."""
        with self._errors(name, "read"), self._files.open(self._path(name), "rb") as file:
            yield from file

    def write(self, name: str, data: bytes) -> None:
        """Put an object in place, whole; one of that name is replaced."""
        with self._errors(name, "written"):
            if self.local:
                write_whole(self._path(name), data)
            else:
                self._files.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Put an object in place unless one is there; whether it is this one. Of two writers at once the
        first one wins, on a disk, in memory and wherever fsspec can create exclusively; else the later one.
        """
        path = self._path(name)
        with self._errors(name, "written"):
            if self.local:
                return _link_whole(Path(path), data)
            try:
                self._files.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError):
                self._files.pipe_file(path, data)
            return True

    def upload(self, source: Path, name: str) -> None:
        """Put a file of this machine in place, whole."""
        path = self._path(name)
        with self._errors(name, "written"):
            if not self.local:
                self._files.put_file(str(source), path)
                return
            part = Path(path).with_name(f".{Path(path).name}.{secrets.token_hex(4)}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._files.put_file(str(source), str(part))
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Take an object away, if it is there."""
        with self._errors(name, "removed"), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def probe(self) -> None:
        """Write, read and remove an object; ArtifactError when the storage refuses."""
        name, data = f".probe-{secrets.token_hex(8)}", b"cultural-palette"
        self.write(name, data)
        try:
            if self.read(name) != data:
                raise ArtifactError(f"{self.at(name)} does not give back what was written.")
        finally:
            self.remove(name)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    @contextmanager
    def _errors(self, name: str, doing: str) -> Iterator[None]:
        try:
            yield
        except ArtifactError:
            raise
        except Exception as error:  # each storage's package raises errors of its own
            raise ArtifactError(f"{self.at(name)} can not be {doing}: {_words(error)}") from error


def _link_whole(path: Path, data: bytes) -> bool:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(data)
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
