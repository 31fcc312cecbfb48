"""Flags that name models: `--set PART=REF`, `--model-of NAME=REF`."""

from __future__ import annotations

from collections.abc import Sequence

from cultural_palette.errors import SettingsError


def refs_of(flag: str, pairs: Sequence[str], form: str, example: str) -> dict[str, str]:
    """The pairs of a repeated flag. `form`: such as "PART=REF". Raises SettingsError for one that is none, or
    that names a thing twice.
    """
    refs: dict[str, str] = {}
    for pair in pairs:
        name, equals, ref = pair.partition("=")
        if not (name and equals and ref):
            raise SettingsError(f"{flag} {pair!r}: expected {form}, such as {example!r}.")
        if name in refs:
            raise SettingsError(f"{flag} names {name!r} twice.")
        refs[name] = ref
    return refs
