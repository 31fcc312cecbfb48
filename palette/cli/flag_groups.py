"""Flags that travel together reach a command as one typed value each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any


def flag_groups(**groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a click command take dataclasses: parameter name to the dataclass whose fields are flags' names.

    Stands right above the function, below its options, whose order in `--help` it leaves alone.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def grouped(**flags: Any) -> None:
            values = {
                parameter: group(**{flag.name: flags.pop(flag.name) for flag in fields(group)})
                for parameter, group in groups.items()
            }
            command(**flags, **values)

        return grouped

    return decorate
