"""The one reader of JSON that others wrote: values, whole files, and JSONL row by row.

UTF-8 with or without a byte order mark. What is no JSON, is nested without an end, holds NaN, or has half a
surrogate pair (which no UTF-8 file can take) is named in one line, never a traceback.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

MOST_NESTED = 100
HALF_PAIR = re.compile("[\ud800-\udfff]")
TEXT_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)  # linear, whatever the text
MOST_DIGITS = 300  # of a whole number; no float holds one of 309
LONG_NUMBER = re.compile(rb"\d{%d}" % MOST_DIGITS)
ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
Row = dict[str, Any]
Fault = Callable[[str, str], object]


class JsonFault(ValueError):
    """Why something is no JSON value that can be used: a few words, to stand behind the place."""


def parse_json(raw: bytes | str, *, half_pairs: bool = False, nan: bool = False) -> Any:
    """The JSON value; raises JsonFault.

    `half_pairs`: keep half surrogate pairs, as our own run folders do; `nan`: take NaN and Infinity, as
    models' configs may have them.
    """
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.removeprefix("\ufeff") if isinstance(raw, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        wide = " (it looks like UTF-16)" if data.startswith(WIDE) else ""
        raise JsonFault(f"not UTF-8{wide}: {error.reason} at byte {error.start}") from None
    if data.count(b"[") + data.count(b"{") > MOST_NESTED and _nested(data) > MOST_NESTED:
        raise JsonFault(f"not JSON (nested more than {MOST_NESTED} deep)")
    try:
        hooks: dict[str, Any] = {} if nan else {"parse_constant": _refuse_constant}
        if LONG_NUMBER.search(data):
            hooks["parse_int"] = _whole_number
        value = json.loads(text, **hooks)
    except (ValueError, RecursionError) as error:
        raise JsonFault(f"not JSON ({error})") from None
    may_have = not half_pairs and (isinstance(raw, str) or ESCAPED_HALF.search(data))
    if may_have and (half := half_pair_in(value)):
        raise JsonFault(f"half a surrogate pair (\\u{ord(half):04x}), which is no character")
    return value


def parse_object(raw: bytes | str, *, half_pairs: bool = False, nan: bool = False) -> Row:
    """The JSON object; raises JsonFault for anything else."""
    value = parse_json(raw, half_pairs=half_pairs, nan=nan)
    if not isinstance(value, dict):
        raise JsonFault(f"expected a JSON object, found {type(value).__name__}")
    return value


def read_json(file: Path) -> Any:
    """The value in a whole file. Raises JsonFault, and OSError where it can not be read."""
    return parse_json(file.read_bytes())


def read_object(file: Path, *, nan: bool = False) -> Row:
    """The object in a whole file. Raises JsonFault, and OSError where it can not be read."""
    return parse_object(file.read_bytes(), nan=nan)


def read_rows(file: Path, fault: Fault) -> Iterator[tuple[Row, str]]:
    """Every object of a JSONL file with its "file:line", one in memory at a time; empty lines do not count.

    What is no object goes to `fault(place, why)`, which may raise (`refuse`) or note it and go on. A line
    ends with a line feed only: U+2028 and U+0085 are text here.
    """
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.removeprefix(codecs.BOM_UTF8).strip():
                    continue
                place = f"{file}:{number}"
                try:
                    row = parse_object(line)
                except JsonFault as error:
                    fault(place, str(error))
                    continue
                yield row, place
    except OSError as error:
        fault(str(file), f"can not be read ({error.strerror or error})")


def refuse(kind: Callable[[str], Exception], advice: str = "") -> Fault:
    """A `fault` for `read_rows` that ends the reading: raises `kind("file:line: why" + advice)`."""

    def raising(place: str, why: str) -> NoReturn:
        raise kind(f"{place}: {why}{advice}")

    return raising


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _nested(data: bytes) -> int:
    """How deep lists and objects go, counted without recursion; brackets within texts do not count."""
    depth = deepest = 0
    for match in TEXT_OR_BRACKET.finditer(data):
        sign = match[0]
        if sign in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in b"]}":
            depth -= 1
    return deepest


def half_pair_in(value: Any) -> str | None:
    """The first half of a surrogate pair in any text of the value, which may hold itself, as YAML may."""
    waiting, seen = [value], set[int]()
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list):
            if id(item) in seen:
                continue
            seen.add(id(item))
        if isinstance(item, str):
            if not item.isascii() and (match := HALF_PAIR.search(item)):
                return match[0]
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
    return None
