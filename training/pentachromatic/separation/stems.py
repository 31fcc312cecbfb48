"""A question without the options that stand in its text: surveys and training data keep them in or leave them
out as they like, and it is the same question.

A form too many is cheap: it counts only where it is itself like a survey's question.
"""

from __future__ import annotations

import itertools
import re

from cultural_palette.training.pentachromatic.separation.surveys import words_of

FEWEST_WORDS = 3
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "x": 10}
CIRCLED = "①②③④⑤⑥⑦⑧⑨⑩"
MARK = re.compile(
    rf"(?<![\w.])(?:(?:option|choice|answer)\s)?"
    rf"(?:[(\[*]{{0,2}}(?P<sign>-?\d{{1,2}}|[ivx]{{1,4}}|[a-z])"
    r"(?:\s?[*]{0,2}[.):=\]]+[*]{0,2}|[*]{2}|\s[-–—](?=\s))"
    rf"|(?P<circled>[{CIRCLED}]))(?=\s?\S)(?!(?<=\.)\d)",
    re.IGNORECASE,
)
BULLET = re.compile(
    r"^[ \t]*(?:[-*•◦▪–—☐□◻○◯●✓✔➤→⇒»>]|[-=]>|\[ ?[xX]?\]|\( ?\)|[A-Za-z]\t|[A-Z] (?=[A-Z]))[ \t]*(?=\S)",
    re.MULTILINE,
)
HTML = re.compile(r"<\s*/?\s*(?:br|li|ul|ol|p|div|option|select|td|tr)\b[^<>]{0,80}>", re.IGNORECASE)
HEADING = re.compile(
    r"\b(?:(?:your|the|these|following|possible|available|answer|response|reply)[ -])*"
    r"(?:options|choices|answers|responses|categories|scale|option|choice)(?: are| is)?\s?(?::|\n)"
    r"|\b(?:please )?(?:choose|select|pick|answer|respond|reply) (?:only |just )?"
    r"(?:one )?(?:of|from|with|among|by|using)\b"
    r"|\b(?:you (?:may|can|could) (?:answer|say|choose|reply)|would you say|is it|do you say)\b"
    r"(?=[^?.]{0,200}\bor\b)",
    re.IGNORECASE,
)
ITEM = r"[\"'“‘]?\w[^?/;|\n.]{0,60}"
LISTED = re.compile(
    rf"(?:[?:.]|\s[-–—])(?P<rest>\s*[-–—]?\s*(?:{ITEM}(?:(?:\s/\s|\s?[;|\n]\s*){ITEM})+"
    r"|\w[^?/;|\n.]{0,24}(?:/\w[^?/;|\n.]{0,24})+)\W*)\Z"
)
OFFERED = re.compile(
    r"(?:[?.]|\s[-–—])(?P<rest>\s*(?:[^\s?,.]+\s){0,6}?[^\s?,.]+(?:, [^?,.]{1,60})*,? or (?!not\?)"
    r"[^?,.]{1,60}[?.])\s*\Z"
)
OPENS_A_LIST = re.compile(r"[?:.](?=\s)|\s[-–—](?=\s)")
QUOTED = re.compile(
    r"(?P<rest>\s[\"“'‘][^\"“”'‘’?]{1,60}[\"”'’](?:\W{1,3}(?:or )?[\"“'‘][^\"”]{1,60}[\"”'’])+\W*)\Z"
)
IN_BRACKETS = re.compile(
    r"(?P<rest>\([^()]{1,200}[/;|,][^()]{1,200}\)|\[[^\[\]]{1,200}[/;|,][^\[\]]{1,200}\]"
    r"|\{[^{}]{1,200}[/;|,][^{}]{1,200}\})\W*\Z"
)
SENTENCE = re.compile(r"(?<=[^\W\d]{2}[.!?])\s+|(?<=\w:)\s+|\n+")  # no end after "2." or "b."
SIGNS = str.maketrans(
    {"？": "? ", "؟": "?", "，": ", ", "、": ", ", "،": ",", "：": ": ", "；": "; ", "؛": ";", "。": ". "}
)
"""Signs of other scripts, as the patterns here have them."""
MOST_MARKS = 200  # in a text; a question has fewer
LONGEST_LIST, LONGEST_AFTER_LIST = 2000, 80  # characters
SHORT_OPTION, LONGEST_OPTION = 4, 16  # words


def forms_of(text: str) -> list[str]:
    """The text, and its stem where options stand behind it (numbered, lettered, under bullets or a heading,
    or listed with signs or an "or" between), with and without what introduces it; or the question behind its
    options.
    """
    plain = HTML.sub("\n", text.translate(SIGNS))
    stem = plain[: _options_from(plain)]
    if len(words_of(stem)) >= len(words_of(text)):
        return [text]
    before = len(words_of(stem)) >= FEWEST_WORDS
    parts = SENTENCE.split((stem if before else plain).strip())
    forms = [text]
    for form in (stem, parts[-1]) if before or len(parts) > 1 else ():
        if len(words_of(form)) >= FEWEST_WORDS and form not in forms:
            forms.append(form)
    return forms


def _options_from(text: str) -> int:
    """Where the options begin; the text's length where there are none."""
    ends = [len(text), *_numbered(text)]
    bullets = list(BULLET.finditer(text))
    if len(bullets) > 1:
        ends.append(bullets[0].start())
    if heading := HEADING.search(text):
        ends.append(heading.start())
    for pattern in (LISTED, OFFERED, QUOTED, IN_BRACKETS):
        if listed := pattern.search(text):
            ends.append(listed.start("rest"))
    ends.extend(_behind_commas(text))
    return 0 if min(ends) == len(text) and _begins_with_a_list(text) else min(ends)


def _behind_commas(text: str) -> list[int]:
    """Where options with nothing but commas between them begin, at the text's end: two behind a question,
    three behind another sign. A sentence may follow.
    """
    asked = text.rfind("?", 0, len(text.rstrip()) - 1)
    for sign in OPENS_A_LIST.finditer(text, max(asked, len(text) - LONGEST_LIST, 0)):
        listed, *after = SENTENCE.split(text[sign.end() :].strip(), 1)
        fewest, longest = (2, LONGEST_OPTION) if sign[0] == "?" else (3, SHORT_OPTION)
        if len("".join(after)) <= LONGEST_AFTER_LIST and _is_list(listed, fewest, longest):
            return [sign.end()]
    return []


def _begins_with_a_list(text: str) -> bool:
    """Whether options with commas between them stand before a text's one question."""
    first, *more = SENTENCE.split(text.strip(), 1)
    return bool(more) and more[0].find("?") == len(more[0]) - 1 and _is_list(first, 2, LONGEST_OPTION)


def _is_list(text: str, fewest: int, longest: int) -> bool:
    """Whether it is options with commas between them: a few words, or up to `longest` and a capital first."""
    options = re.split(r",\s+", text.rstrip(".!: "))
    return len(options) >= fewest and all(
        len(words) <= SHORT_OPTION or (len(words) <= longest and option.lstrip("\"'“‘")[:1].isupper())
        for option in options
        for words in [option.split()]
    )


def _numbered(text: str) -> list[int]:
    """Where numbers or letters that follow on each other begin, in whatever order they stand."""
    marks = list(itertools.islice(MARK.finditer(text), MOST_MARKS))
    places = [_places(mark["sign"] or mark["circled"]) for mark in marks]
    for first in range(len(marks)):
        for kind in range(3):
            run = [place[kind] for place in places[first:] if place[kind] is not None]
            numbers = [number for number in run if number is not None]
            if places[first][kind] is None or len(numbers) < 2:
                continue
            follows = numbers[0] in (0, 1) and numbers[1] == numbers[0] + 1
            whole = len(numbers) > 2 and sorted(numbers) == list(range(min(numbers), max(numbers) + 1))
            if follows or whole:
                return [marks[first].start()]
    return []


def _places(sign: str) -> tuple[int | None, int | None, int | None]:
    """A mark's number, as a number, a letter (a is 1) and a Roman numeral."""
    low = sign.lower()
    if sign in CIRCLED:
        return CIRCLED.index(sign) + 1, None, None
    if low.lstrip("-").isdigit():
        return int(low), None, None
    letter = ord(low) - ord("a") + 1 if len(low) == 1 and low.isascii() else None
    return None, letter, ROMAN.get(low)
