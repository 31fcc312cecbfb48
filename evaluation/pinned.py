"""Pinned lists of items, so that two papers can be about the same: ids by content hash, one a line.

An id is a hash of the survey's own question and options, with country and population: whoever has the
survey finds the same items, and nobody needs to pass the survey on. The head says of which survey and
selection the list was made.
"""

from __future__ import annotations

from pathlib import Path

from cultural_palette.errors import UsageError
from cultural_palette.evaluation.surveys import Survey


def items_text(survey: Survey) -> str:
    """The list, with its head."""
    selection = survey.selection
    head = (
        f"# {survey.name}, file {survey.sha256[:16]}, selection {selection.digest}: "
        f"{len(survey.items):,} items",
        f"# options {selection.options}, most options {selection.max_options or 'any'}, "
        f"questions {selection.questions or 'all'} by {selection.draw}, seed {selection.seed}",
    )
    return "\n".join([*head, *(item.id for item in survey.items)]) + "\n"


def read_items(file: Path) -> tuple[str, ...]:
    """The ids of a list; UsageError for one that can not be read, is empty, or names an item twice."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} can not be read: {error}.") from None
    ids = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not ids:
        raise UsageError(f"{file} names no item: expected an id a line, from 'palette evaluate items'.")
    for number, key in enumerate(ids):
        if "/" not in key or key in ids[:number]:
            why = "stands twice" if key in ids[:number] else "is no item: expected QUESTION/COUNTRY"
            raise UsageError(f"{file}: {key[:80]} {why}.")
    return tuple(ids)
