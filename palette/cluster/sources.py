"""What this installation of the package is, in one hash: code and prompts, under the same version or not."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from cultural_palette import provenance
from cultural_palette.provenance import hash_file

SUFFIXES = (".py", ".txt", ".yaml")


@functools.cache
def sources_sha256() -> str:
    """64 hex digits over names and contents of the package's sources, prompts and maps."""
    root = Path(provenance.__file__).parent
    total = hashlib.sha256()
    for file in sorted(_sources(root)):
        total.update(f"{file.relative_to(root).as_posix()}\n".encode())
        hash_file(total, file)
    return total.hexdigest()


def _sources(root: Path) -> list[Path]:
    """The rooms that a checkout links in are followed."""
    return [
        Path(folder) / name
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.endswith(SUFFIXES) and "__pycache__" not in folder
    ]
