"""What a reader should know when a question lies outside what an embedded palette was made for."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from cultural_palette.countries import find_country
from cultural_palette.embedded.manifest import Manifest


@functools.cache
def stop_words() -> frozenset[str]:
    """Words that say nothing of what a question is about."""
    return frozenset(Path(__file__).with_name("stop_words.txt").read_text(encoding="utf-8").split())


def scope_notes(manifest: Manifest, question: str, country: str, options: Sequence[str] = ()) -> list[str]:
    """Notes on a country (ISO code), a question or options that the palette's data did not hold."""
    scope = manifest.scope
    notes = [manifest.about] if manifest.about else []
    if scope is None:
        return notes
    if country not in scope["countries"]:
        notes.append(
            f"The {manifest.name} palette's atlas has no entry for {find_country(country).in_text}: "
            "it answers from what it knows of the continent."
        )
    words = {word for word in re.findall(r"[a-z]+", question.lower()) if word not in stop_words()}
    known = words & set(scope["words"])
    if len(known) * 2 <= len(words) or not words:
        strange = ", ".join(sorted(words - known)[:5]) or "no word of its own"
        notes.append(
            f"The question lies outside the {manifest.name} palette's small atlas of daily life "
            f"({strange}): do not rely on this answer."
        )
    elif options and list(options) not in scope["options"]:
        notes.append(
            f"The {manifest.name} palette has learned to choose among the options of its atlas' own "
            "questions, in their own order; with these it guesses."
        )
    return notes
