"""One run's folder on a storage: the parts that shards wrote, what they were merged into, the manifest last.

OUT/config.json           what a run that goes on must share with the one that began it
OUT/parts/000012.jsonl    the rows of shard 12, whole
OUT/calls/3f/3fa9...json  every finished call, named by its content
OUT/rows.jsonl, ...       what one machine would have left
OUT/manifest.json         says that the run is finished
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import CONFIG, MANIFEST, ROWS, RunFolder, differing
from cultural_palette.cluster.storage import Storage
from cultural_palette.errors import ArtifactError
from cultural_palette.jsonl import JsonFault, parse_object

PARTS, CALLS = "parts", "calls"
Row = dict[str, Any]


@dataclass(frozen=True)
class RunStorage:
    """A run at `storage`. `config`: all that shapes its rows, and how it is cut into shards; `unchecked`:
    keys of it that may differ, as in RunFolder.
    """

    storage: Storage
    config: Mapping[str, Any]
    unchecked: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the manifest, which comes last, is there."""
        return self.storage.exists(MANIFEST)

    @property
    def manifest(self) -> Row:
        """What `finish` wrote."""
        return self._object(MANIFEST) or {}

    def open(self) -> None:
        """Begin the run, or go on with it: ArtifactError when it was begun otherwise."""
        wanted = json.loads(json.dumps(self.config, allow_nan=False))
        there = self._object(CONFIG)
        if there is None:
            if self.storage.exists(ROWS):
                raise ArtifactError(
                    f"{self.storage.url} holds rows of another kind of run: take another folder."
                )
            self.storage.write(CONFIG, _bytes(wanted))
        elif was := differing(there, wanted, self.unchecked):
            raise ArtifactError(
                f"{self.storage.url} was begun with another config: {was}. Use the same (a run begun on one "
                "machine goes on there), or take another folder."
            )

    def parts(self) -> set[int]:
        """The shards whose part is there."""
        names = self.storage.names(PARTS)
        return {int(name.partition(".")[0]) for name in names if name.endswith(".jsonl") and name[0] != "."}

    def write_part(self, shard: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put a shard's rows in place, whole."""
        self.storage.write(part_name(shard), b"".join(_line(row) for row in rows))

    def rows(self, shard: int) -> Iterator[Row]:
        """A part's rows."""
        name = part_name(shard)
        for number, line in enumerate(self.storage.lines(name), 1):
            try:
                yield parse_object(line, half_pairs=True)
            except JsonFault as error:
                raise ArtifactError(
                    f"{self.storage.at(name)}:{number}: {error}. Remove that part; it is made again from the "
                    "kept calls."
                ) from None

    def drop_part(self, shard: int) -> None:
        """Have a shard's rows made again, from the kept calls where there are such."""
        self.storage.remove(part_name(shard))

    @contextmanager
    def merging(self, config: Mapping[str, Any]) -> Iterator[RunFolder]:
        """A folder of this machine to merge the parts into; what it then holds is put in place, the manifest
        last. `config`: as one machine's run would have it.
        """
        with tempfile.TemporaryDirectory(prefix="palette-merge-") as scratch:
            folder = RunFolder(Path(scratch) / "run", config)
            try:
                yield folder
            finally:
                folder.close()
            if not folder.finished:
                return
            files = sorted(file.name for file in folder.path.iterdir() if file.name[0] != ".")
            for name in (*(name for name in files if name not in (CONFIG, MANIFEST)), MANIFEST):
                self.storage.upload(folder.path / name, name)

    def _object(self, name: str) -> Row | None:
        data = self.storage.read(name)
        if data is None:
            return None
        try:
            return parse_object(data, half_pairs=True)
        except JsonFault as error:
            raise ArtifactError(
                f"{self.storage.at(name)}: {error}. Mend it, or take another folder."
            ) from None


def part_name(shard: int) -> str:
    """Where a shard's rows lie in its run."""
    return f"{PARTS}/{shard:06d}.jsonl"


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def _bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, indent=2).encode() + b"\n"
