"""What a result is made of: hashes of texts and files, versions of packages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 2**20
MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")
NOT_OF_THE_MODEL = ("training_args.bin", "trainer_state.json")


class Hash(Protocol):
    """What hashlib's hashes have."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""


def sha256(content: str | bytes) -> str:
    """64 hex digits of a text (as UTF-8; half a surrogate pair counts as it is) or of bytes."""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()


def short_sha256(content: str | bytes, digits: int = 16) -> str:
    """The first hex digits: enough to tell prompts, questions and reviewed texts apart."""
    return sha256(content)[:digits]


def file_sha256(*files: Path) -> str:
    """64 hex digits of a file's content, or of several files', one after the other."""
    total = hashlib.sha256()
    for file in files:
        hash_file(total, file)
    return total.hexdigest()


def model_sha256(folder: Path) -> str:
    """64 hex digits of a model folder's weights, config and tokenizer. About a minute for 16 GB."""
    files = {
        path.name: file_sha256(path)
        for pattern in MODEL_FILES
        for path in sorted(folder.glob(pattern))
        if path.name not in NOT_OF_THE_MODEL
    }
    return sha256(json.dumps(files, sort_keys=True))


def hash_file(total: Hash, file: Path) -> None:
    """Take a file's content into `total`, a block at a time: a model's weights do not fit twice."""
    with file.open("rb") as content:
        while block := content.read(BLOCK_BYTES):
            total.update(block)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, in this order; what is not installed is left out."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
