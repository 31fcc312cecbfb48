"""Names, shapes and dtypes of a safetensors file's tensors, off its header. No torch is needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.jsonl import parse_object

LARGEST_HEADER = 100_000_000  # bytes, as safetensors has it
METADATA = "__metadata__"


@dataclass(frozen=True)
class Header:
    """A tensor's: `dtype` as safetensors spells it ("BF16"), and its shape."""

    dtype: str
    shape: tuple[int, ...]


def headers_of(file: Path) -> dict[str, Header]:
    """Tensor name -> header. Raises OSError, and ValueError for a file that is no safetensors file or is cut
    short.
    """
    return read_headers(file)[0]


def read_headers(file: Path) -> tuple[dict[str, Header], dict[str, str]]:
    """The same, and the file's own notes."""
    size = file.stat().st_size
    with file.open("rb") as data:
        begin = data.read(8)
        if len(begin) < 8:
            raise ValueError(f"{size} bytes are no safetensors file")
        (length,) = struct.unpack("<Q", begin)
        if length > min(LARGEST_HEADER, size - 8):
            raise ValueError("its header is cut short, or it is no safetensors file")
        fields = parse_object(data.read(length))
    ends = [0]
    headers = {}
    for name, facts in fields.items():
        if name == METADATA:
            continue
        headers[name] = _header(name, facts)
        ends.append(facts["data_offsets"][1])
    if 8 + length + max(ends) != size:
        raise ValueError(f"its header speaks of {8 + length + max(ends):,} bytes, and it has {size:,}")
    notes = fields.get(METADATA, {})
    return headers, {str(key): str(note) for key, note in notes.items()} if isinstance(notes, dict) else {}


def _header(name: str, facts: Mapping[str, Any]) -> Header:
    try:
        dtype, shape, (begin, end) = facts["dtype"], facts["shape"], facts["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError):
        numbers = [None]
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or not isinstance(dtype, str):
        raise ValueError(f"its header does not say what {name} is")
    return Header(dtype, tuple(shape))
