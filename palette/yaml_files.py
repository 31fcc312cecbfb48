"""The one reader of YAML that others wrote: what can not be read is named in one line, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cultural_palette.jsonl import half_pair_in


class YamlFault(ValueError):
    """Why something is no YAML that can be used: a few words, with the line where there is one."""


def parse_yaml(text: str) -> Any:
    """The value; raises YamlFault."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise YamlFault(f"not YAML: {where}{getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise YamlFault("nested without an end") from None
    except (ValueError, TypeError) as error:  # YAML builds dates, sets, keys and long numbers of its own
        raise YamlFault(f"not YAML that can be used: {error}") from None
    if half := half_pair_in(value):
        raise YamlFault(f"half a surrogate pair (\\u{ord(half):04x}), which is no character")
    return value


def read_yaml(file: Path) -> Any:
    """The value in a whole file. Raises YamlFault, and OSError where it can not be read."""
    try:
        return parse_yaml(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise YamlFault(f"not UTF-8: {error.reason} at byte {error.start}") from None
