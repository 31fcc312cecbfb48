"""A question without the options that stand in its text: surveys and training data keep them in or leave them
out as they like, and it is the same question.
"""

from __future__ import annotations

import re
from itertools import pairwise

from cultural_palette.training.pentachromatic.separation.surveys import words_of

FEWEST_WORDS = 3
MARK = re.compile(r"(?<![\w.])[(\[]?(?P<sign>\d{1,2}|[a-z])\s?[.):=\]]+(?=\s?\S)", re.IGNORECASE)
NEXT = {"0": "1", "1": "2", "a": "b"}
BULLET = re.compile(r"^[ \t]*(?:[-*•◦▪–—]|\[ \]|\( \))[ \t]*(?=\S)", re.MULTILINE)
HEADING = re.compile(
    r"\b(?:(?:answer|response|possible|available|reply)[ -])?(?:options|choices|answers|responses|categories)"
    r"(?: are)?\s?:|\b(?:choose|select|pick|answer) (?:one |only )?(?:of|from|with|among)\b",
    re.IGNORECASE,
)
LISTED = re.compile(
    r"[?:](?P<rest>\s*(?:\w[^?/;|\n.]{0,60}(?:(?:\s/\s|\s?[;|\n]\s?)\w[^?/;|\n.]{0,60})+"
    r"|\w[^?/;|\n.]{0,24}(?:/\w[^?/;|\n.]{0,24})+)\W*)\Z"
)
OFFERED = re.compile(
    r"\?(?P<rest>\s*(?:[^\s?,.]+\s){0,6}?[^\s?,.]+(?:, [^?,.]{1,60})*,? or (?!not\?)[^?,.]{1,60}\?)\s*\Z"
)
IN_BRACKETS = re.compile(r"(?P<rest>\([^()]{1,200}[/;|,][^()]{1,200}\))\W*\Z")


def forms_of(text: str) -> list[str]:
    """The text, and its stem where options stand behind it: numbered, lettered, under bullets or a heading,
    or listed after the question with signs or an "or" between.
    """
    stem = text[: _options_from(text)]
    shorter = len(words_of(stem)) < len(words_of(text))
    return [text, stem] if shorter and len(words_of(stem)) >= FEWEST_WORDS else [text]


def _options_from(text: str) -> int:
    """Where the options begin; the text's length where there are none."""
    ends = [len(text)]
    marks = list(MARK.finditer(text))
    for mark, following in pairwise(marks):
        if NEXT.get(mark["sign"].lower()) == following["sign"].lower():
            ends.append(mark.start())
            break
    bullets = list(BULLET.finditer(text))
    if len(bullets) > 1:
        ends.append(bullets[0].start())
    if heading := HEADING.search(text):
        ends.append(heading.start())
    for pattern in (LISTED, OFFERED, IN_BRACKETS):
        if listed := pattern.search(text):
            ends.append(listed.start("rest"))
    return min(ends)
