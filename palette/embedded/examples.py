"""Questions that the built-in palettes answer well, out of `examples.yaml`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from cultural_palette.errors import UsageError
from cultural_palette.suggestions import did_you_mean

Example = dict[str, Any]


def with_examples() -> tuple[str, ...]:
    """The palettes that have some."""
    return tuple(_all())


def examples_of(palette: str) -> list[Example]:
    """{"country": ISO code, "question": .., "options": [..] where there are any}; raises UsageError."""
    if palette not in _all():
        hint = did_you_mean(palette, _all()) or f" There are {', '.join(_all())}."
        raise UsageError(f"No examples for the palette {palette!r}.{hint}")
    return _all()[palette]


@functools.cache
def _all() -> dict[str, list[Example]]:
    text = Path(__file__).with_name("examples.yaml").read_text(encoding="utf-8")
    read: dict[str, list[Example]] = yaml.safe_load(text)
    return read
