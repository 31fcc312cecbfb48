"""Other people's text on a terminal: nothing that a model or a user writes may move the cursor."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """`text` with control characters (escape sequences among them) made visible; tabs and newlines stay."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))
