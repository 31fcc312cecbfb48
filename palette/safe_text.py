"""Other people's text where it is shown: on a terminal, in Markdown, in a spreadsheet.

Nothing that a model or a user writes may move the cursor, turn a line round, run a script or a formula.
"""

from __future__ import annotations

import json
import re

HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, escape sequences among them
    r"\u061c\u180e\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"  # order, width, halves
    r"\U000e0000-\U000e007f]"  # letters that nobody sees
    r"|(?<=[\x20-\x7e])[\u200c-\u200f]|[\u200c-\u200f](?=[\x20-\x7e])"  # joiners belong in other scripts
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def visible(text: str) -> str:
    """`text` with characters that hide or reorder others made visible; tabs and newlines stay."""
    return HIDDEN.sub("\ufffd", text.replace("\r\n", "\n"))


def escaped(text: str) -> str:
    """JSON text with such characters as JSON's own escapes, which say the same."""
    return HIDDEN.sub(lambda match: json.dumps(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f", text)


def hidden_in(text: str) -> str | None:
    """The first such character, as "U+202E"; None for text that can be shown as it is."""
    match = HIDDEN.search(text)
    return f"U+{ord(match[0]):04X}" if match else None


def without_html(markdown: str) -> str:
    """Markdown in which no tag and no entity is one; code, where they are none anyway, stays as it is."""
    lines = []
    for line in visible(markdown).split("\n"):
        parts, after = [], 0
        for code in CODE.finditer(line):
            parts += [line[after : code.start()].translate(HTML), code[0]]
            after = code.end()
        lines.append("".join([*parts, line[after:].translate(HTML)]))
    return "\n".join(lines)


def as_code(text: str) -> str:
    """Another's text as Markdown code, on one line, whatever is in it."""
    return f"`{' '.join(visible(text).replace('`', ' ').split()) or ' '}`"


def guarded_cell(cell: str) -> str:
    """A cell that a spreadsheet will not run as a formula: an apostrophe before the signs that begin one."""
    return f"'{cell}" if cell.startswith((*FORMULA, "'")) else cell


def unguarded_cell(cell: str) -> str:
    """The cell as it was before `guarded_cell`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*FORMULA, "'")) else cell
