"""One vector a text, computed once: kept on the disk by the content of model and text. A stopped run goes on.

A shard is a whole .npz file of up to `SHARD` texts: a kill loses the shard at work and nothing else.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cultural_palette.artifacts import write_whole
from cultural_palette.errors import ArtifactError, UsageError
from cultural_palette.provenance import file_sha256, short_sha256

SHARD = 512
KEY_BYTES = 16
WEIGHTS = (".safetensors", ".bin", ".model")
FILES = ("*.json", "*.txt", "*.safetensors", "*.model")
OTHER_RUNTIMES = ("onnx/*", "openvino/*")
Vectors = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


class Encoder(Protocol):
    """A model that turns texts into vectors. `identity`: of its files; another model has other shards."""

    identity: str

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, Sequence[int]]:
        """(N, D) vectors, and each text's length in tokens before anything is cut off."""
        ...


@dataclass(frozen=True)
class Encoded:
    """`vectors`: (N, D); `tokens`: (N,), lengths before cutting; `computed`: how many were not there yet."""

    vectors: Vectors
    tokens: npt.NDArray[np.int32]
    computed: int


def encode_all(
    texts: Sequence[str], encoder: Encoder, folder: Path, progress: Progress = lambda done, total: None
) -> Encoded:
    """Every text's vector: from the shards under `folder` if it is there, else computed, longest first."""
    keys = [_key(text) for text in texts]
    home = folder / encoder.identity
    known = _load(home)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    rest = sorted(missing.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    total = len(rest)
    progress(0, total)
    for start in range(0, total, SHARD):
        part = rest[start : start + SHARD]
        vectors, tokens = encoder.encode([text for _, text in part])
        if not np.isfinite(vectors).all():
            raise ArtifactError(f"The model {encoder.identity} gave a vector that is not finite.")
        part_keys = [key for key, _ in part]
        _write(home, part_keys, vectors, tokens)
        known.update(zip(part_keys, zip(vectors, tokens, strict=True), strict=True))
        progress(start + len(part), total)
    return Encoded(
        np.stack([known[key][0] for key in keys]).astype(np.float32),
        np.array([known[key][1] for key in keys], dtype=np.int32),
        total,
    )


def model_folder(reference: str) -> Path:
    """A local folder as it is; a hub name's files, downloaded once."""
    path = Path(reference)
    if path.is_dir():
        return path
    if reference.count("/") != 1 or reference.startswith((".", "/", "~")):
        raise UsageError(f"--model {reference!r} is no folder, and no hub name like 'owner/name'.")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(reference, allow_patterns=list(FILES), ignore_patterns=list(OTHER_RUNTIMES))
        )
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors and ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"--model {reference!r} is no folder, and the hub did not give it: {reason} "
            "Download it where there is a network, and give its folder."
        ) from None


def identity_of(folder: Path) -> str:
    """16 hex digits that change with any file of a model that its vectors depend on."""
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and (file.suffix in WEIGHTS or file.suffix in (".json", ".txt"))
    )
    if not any(file.suffix in WEIGHTS for file in files):
        raise UsageError(f"{folder} has no weights ({', '.join(WEIGHTS)}): that is no model's folder.")
    lines = []
    for file in files:
        lines.append(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n")
    return short_sha256("".join(lines))


def _key(text: str) -> bytes:
    return bytes.fromhex(short_sha256(text, 2 * KEY_BYTES))


def _load(home: Path) -> dict[bytes, tuple[Any, int]]:
    known: dict[bytes, tuple[Any, int]] = {}
    for file in sorted(home.glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as shard:
                vectors, tokens = shard["vectors"], shard["tokens"].tolist()
                keys = [row.tobytes() for row in shard["keys"]]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{file} can not be read ({error}): remove it, it is made again.") from None
        known.update(zip(keys, zip(vectors, tokens, strict=True), strict=True))
    return known


def _write(home: Path, keys: Sequence[bytes], vectors: Vectors, tokens: Sequence[int]) -> None:
    data = io.BytesIO()
    np.savez(
        data,
        keys=np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES),
        vectors=np.asarray(vectors, dtype=np.float32),
        tokens=np.asarray(tokens, dtype=np.int32),
    )
    name = short_sha256(b"".join(sorted(keys)), 24)
    write_whole(home / f"{name}.npz", data.getvalue())
