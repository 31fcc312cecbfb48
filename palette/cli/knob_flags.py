"""Flags of the knobs of a run, made from where they are declared (`cultural_palette.knobs`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from cultural_palette.knobs import Declared, declared_knobs

Command = TypeVar("Command", bound=Callable[..., Any])
METAVARS = {int: "N", float: "NUMBER", str: "TEXT"}
OWN_WAY = ("models", "sampling")  # --set reads PART=REF, --sampling ROLE.NAME=NUMBER; they repeat


def knob_options(command: Command) -> Command:
    """Every knob that has a flag, as an option of `command` that is None when not given."""
    for knob in reversed(declared_knobs().values()):
        if knob.knob.flag and knob.name not in OWN_WAY:
            command = _option(knob)(command)
    return command


def _option(knob: Declared) -> Callable[[Command], Command]:
    assert knob.knob.flag is not None
    flag, text = knob.knob.flag, knob.knob.description
    shown = f"{text[0].upper()}{text[1:]}."
    if knob.default is not None:
        shown += f"  [default: {knob.default}]"
    if knob.choices:
        return click.option(flag, knob.name, type=click.Choice(knob.choices), help=shown)
    kinds = [kind for kind in get_args(knob.type) if kind is not type(None)]
    kind = kinds[0] if kinds else knob.type
    metavar = "SECONDS" if knob.name.endswith("_s") else "REF" if knob.name == "model" else METAVARS[kind]
    return click.option(flag, knob.name, type=kind, metavar=metavar, help=shown)
