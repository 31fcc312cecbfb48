"""Repeated flags of pairs: `--set PART=REF`, `--model-of NAME=REF`, `--sampling ROLE.NAME=NUMBER`."""

from __future__ import annotations

from collections.abc import Sequence

from cultural_palette.errors import SettingsError

SAMPLING_FORM, SAMPLING_EXAMPLE = "ROLE.NAME=NUMBER", "draft.top_p=0.9"


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


def sampling_of(pairs: Sequence[str]) -> dict[str, dict[str, str]]:
    """What `--sampling` sets, role by role; the settings read the numbers, and refuse what is none."""
    shapes: dict[str, dict[str, str]] = {}
    for name, number in refs_of("--sampling", pairs, SAMPLING_FORM, SAMPLING_EXAMPLE).items():
        role, dot, value = name.partition(".")
        if not (role and dot and value):
            raise SettingsError(
                f"--sampling {name!r}: expected {SAMPLING_FORM}, such as {SAMPLING_EXAMPLE!r}."
            )
        shapes.setdefault(role, {})[value] = number
    return shapes
