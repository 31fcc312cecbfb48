"""What someone meant by a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_NAME = 200  # characters; the comparison is quadratic, and nobody misspells a page


def nearest(name: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """The `n` known names most like `name`, best first; `cutoff`: least likeness, 0 to 1."""
    if len(name) > LONGEST_NAME:
        return []
    return difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str], *, quoted: bool = True) -> str:
    """` Did you mean 'africa'?` with a known name like `name`, to stand behind a sentence; else nothing."""
    near = nearest(name, known)
    return f" Did you mean {repr(near[0]) if quoted else near[0]}?" if near else ""
