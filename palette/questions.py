"""What is asked: a text and, for a closed question, its options with their letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from cultural_palette.errors import QuestionError

MOST_CHARACTERS = 8_000
MOST_SHOWN = 60
FEWEST_OPTIONS, MOST_OPTIONS = 2, 40


@dataclass(frozen=True)
class Question:
    """A question of at most 8,000 characters, free or with 2 to 40 options. Refuses what can not be asked."""

    text: str
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _clean(self.text, "The question"))
        options = tuple(_clean(option, f"Option {number}") for number, option in enumerate(self.options, 1))
        object.__setattr__(self, "options", options)
        if not self.text:
            raise QuestionError("The question is empty: give a text.")
        if len(self.text) > MOST_CHARACTERS:
            raise QuestionError(
                f"The question has {len(self.text):,} characters; the limit is {MOST_CHARACTERS:,}."
            )
        if options and not FEWEST_OPTIONS <= len(options) <= MOST_OPTIONS:
            raise QuestionError(
                f"A question has {FEWEST_OPTIONS} to {MOST_OPTIONS} options, or none for a free answer; "
                f"got {len(options)}."
            )
        seen: dict[str, str] = {}
        for number, option in enumerate(options, 1):
            if not option:
                raise QuestionError(f"Option {number} is empty: give it a text or leave it out.")
            if len(option) > MOST_CHARACTERS:
                raise QuestionError(
                    f"Option {number} has {len(option):,} characters; the limit is {MOST_CHARACTERS:,}."
                )
            key = _folded(option)
            if key in seen:
                raise QuestionError(f"Option {number}, {option!r}, stands there already as {seen[key]!r}.")
            seen[key] = option

    @classmethod
    def read(cls, text: object, options: object = None) -> Question:
        """A question from outside, where anything may stand in the place of a text or of a list of options.
        Raises QuestionError that names the value and what to send instead.
        """
        if not isinstance(text, str):
            raise QuestionError(f"query = {_shown(text)} is no text: give the question as a text.")
        if options is None:
            return cls(text)
        if isinstance(options, str):
            listed = f"[{options!r}, ...]" if len(options) <= MOST_SHOWN else "['Yes', 'No']"
            raise QuestionError(
                f"options = {_shown(options)} is one text: give a list of options, such as {listed}."
            )
        if not isinstance(options, Sequence) or isinstance(options, bytes):
            raise QuestionError(
                f"options = {_shown(options)} is no list: give a list of texts, such as ['Yes', 'No']."
            )
        for number, option in enumerate(options, 1):
            if not isinstance(option, str):
                raise QuestionError(
                    f"Option {number} is {_shown(option)}, no text: write it as a text, such as '{option}'."
                    if isinstance(option, int | float)
                    else f"Option {number} is {_shown(option)}, no text: give every option as a text."
                )
        return cls(text, tuple(options))

    @property
    def labels(self) -> tuple[str, ...]:
        """The options' letters: A, B, ...; beyond 26 options AA, AB, ..., so that none begins another."""
        if len(self.options) <= len(ascii_uppercase):
            return tuple(ascii_uppercase[: len(self.options)])
        pairs = (first + second for first in ascii_uppercase for second in ascii_uppercase)
        return tuple(label for label, _ in zip(pairs, self.options, strict=False))

    def lettered(self) -> str:
        """The options as a prompt shows them, one a line; empty for a free question."""
        if not self.options:
            return ""
        # An option of several lines goes on one, or it could pass for the next option.
        lines = (" ".join(option.split()) for option in self.options)
        rows = (f"{label}. {line}" for label, line in zip(self.labels, lines, strict=True))
        return "\n".join(("Options:", *rows))


def _folded(option: str) -> str:
    """What makes two options the same to a reader: without case, spaces at the ends, characters that are not
    seen, and the full stop or exclamation mark behind a word.
    """
    seen = "".join(c for c in unicodedata.normalize("NFKC", option) if unicodedata.category(c) != "Cf")
    text = " ".join(seen.casefold().split())
    return text.rstrip(".!").rstrip() or text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def _clean(text: str, what: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise QuestionError(
            f"{what} is not valid text: character {error.start + 1} can not be written as UTF-8."
        ) from None
    return text.strip()
