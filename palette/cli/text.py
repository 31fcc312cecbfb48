"""What commands print. Other people's text stands in most of it, and none of it may move the cursor."""

from __future__ import annotations

import json
from typing import Any

import click

from cultural_palette.safe_text import escaped, visible

__all__ = ["echo", "echo_json", "visible"]


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print, with characters that hide or reorder others made visible."""
    click.echo(visible(str(text)), err=err, nl=nl)


def echo_json(value: Any, indent: int = 2) -> None:
    """Print as JSON, readable in any script; such characters as escapes, so that the value stays the same."""
    click.echo(escaped(json.dumps(value, ensure_ascii=False, indent=indent)))
