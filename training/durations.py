"""Durations in words."""

from __future__ import annotations


def duration_words(seconds: float) -> str:
    """Seconds as people say them: "12 s", "5 min", "3.2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
