"""Prompts are text files beside this one, filled strictly: they are scientific artefacts, not format strings.

A prompt has a `[system]` and a `[user]` section. A field stands in braces, `{country}`. Filling is one
pass over the template, so braces in what a user wrote stay as they are, and are never filled again. A
prompt in a folder of its own goes by both names: `synthesis/respond`. Folders `wording-1`, `wording-2`
hold the same prompts in other words, for a check of how much hangs on the words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from cultural_palette.errors import PromptError

FOLDER = Path(__file__).parent
FIELD = re.compile(r"\{([a-z_]+)\}")
HEADING = re.compile(r"^\[(.+)\][ \t]*$", re.MULTILINE)
SECTIONS = ("system", "user")
WORDINGS = (0, 1, 2)
"""Of the prompts that a survey's methods send; 0 is ours."""
_wording: ContextVar[int] = ContextVar("wording", default=0)


@functools.cache
def names(folder: str = "") -> tuple[str, ...]:
    """The prompts of the ask path, or those of a folder: `names("synthesis")`."""
    prefix = f"{folder}/" if folder else ""
    return tuple(sorted(prefix + path.stem for path in (FOLDER / folder).glob("*.txt")))


@functools.cache
def template_of(name: str) -> str:
    """The text of a prompt file, read once."""
    folder = name.rpartition("/")[0]
    if name not in (known := names(folder) or names()):
        raise PromptError(f"No prompt {name!r}; there are {', '.join(known)}.")
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


@contextmanager
def use_wording(wording: int) -> Iterator[None]:
    """Prompts in other words, where `wording-N` has them, inside this block. One's own texts stay as they
    are.

    Raises PromptError for a number that there is no wording of.
    """
    if wording not in WORDINGS:
        raise PromptError(f"No wording {wording}; there are {', '.join(map(str, WORDINGS))}.")
    token = _wording.set(wording)
    try:
        yield
    finally:
        _wording.reset(token)


@functools.cache
def worded(name: str, wording: int) -> str:
    """The text of a prompt in that wording; ours where it has none of its own."""
    file = FOLDER / f"wording-{wording}" / f"{name}.txt"
    return file.read_text(encoding="utf-8") if wording and file.is_file() else template_of(name)


def fields_of(name: str) -> tuple[str, ...]:
    """The fields a prompt must use, in the order they first stand."""
    return tuple(dict.fromkeys(FIELD.findall(template_of(name))))


def render(name: str, *, template: str | None = None, **fields: str) -> list[BaseMessage]:
    """The system and the user message of a prompt. `template` stands in for the file's text.

    Raises PromptError that names fields missing and fields unused, in one go.
    """
    text = template if template is not None else worded(name, _wording.get())
    where = f"prompt {name!r}" + (" (your own text)" if template is not None else "")
    used = set(FIELD.findall(text))
    faults = [f"it asks for {{{field}}}, which is not given" for field in sorted(used - fields.keys())]
    faults += [f"it does not use {{{field}}}" for field in sorted(fields.keys() - used)]
    if faults:
        given = ", ".join(f"{{{field}}}" for field in fields)
        raise PromptError(f"The {where} does not fit: {'; '.join(faults)}. Its fields are {given or 'none'}.")
    system, user = (_fill(part, fields) for part in _sections(text, where))
    return [SystemMessage(system), HumanMessage(user)]


def _sections(text: str, where: str) -> tuple[str, str]:
    before, *parts = HEADING.split(text)
    names = tuple(parts[0::2])
    if names != SECTIONS or before.strip():
        raise PromptError(
            f"The {where} needs a line [system], then a line [user], each with its text below it, and "
            f"nothing before; found {', '.join(f'[{name}]' for name in names) or 'no such line'}."
        )
    return parts[1], parts[3]


def _fill(part: str, fields: dict[str, str]) -> str:
    return FIELD.sub(lambda field: fields[field[1]], part).strip("\n").rstrip()
