"""`python -m cultural_palette.cli.configuration_page docs/configuration.md`: the page's tables, made again
from the settings themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from cultural_palette.knobs import declared_knobs
from cultural_palette.settings import Settings

OURS = ("allowed_addresses", "allowed_origins", "most_request_bytes", "server_key", "checkpoints")
"""Settings of our own server; the others that no run may turn are about models and maps."""
MARK = re.compile(r"(<!-- (\w+) -->\n).*?(\n<!-- /\2 -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with its tables as the settings are now: between `<!-- run -->` and `<!-- /run -->` what a run
    may turn, likewise `models` and `server`.
    """
    knobs, fields = declared_knobs(), Settings.model_fields
    tables = {
        "run": _table(knobs, fields, flags=True),
        "models": _table([name for name in fields if name not in knobs and name not in OURS], fields),
        "server": _table(OURS, fields),
    }
    return MARK.sub(lambda match: f"{match[1]}\n{tables[match[2]]}\n{match[3]}", page)


def _table(names: Iterable[str], fields: Mapping[str, FieldInfo], *, flags: bool = False) -> str:
    knobs = declared_knobs()
    rows = ["| setting | flag | default | what it is |" if flags else "| setting | default | what it is |"]
    rows.append("|---|---|---|---|" if flags else "|---|---|---|")
    for name in names:
        field = fields[name]
        flag = f"`{knobs[name].knob.flag}` | " if flags else ""
        rows.append(f"| `{name}` | {flag}{_default(field.default)} | {_described(name, field)} |")
    return "\n".join(rows)


def _default(value: Any) -> str:
    if value in (None, [], {}):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _described(name: str, field: FieldInfo) -> str:
    """The description with its limits and choices, safe in a table."""
    description = (field.description or "").replace("|", "\\|")
    knob = declared_knobs().get(name)
    choices = [repr(choice) for choice in knob.choices] if knob else []
    limits = [_limit(part) for part in field.metadata if _limit(part)]
    more = [*([" or ".join(choices)] if choices else []), *([", ".join(limits)] if limits else [])]
    secret = ["never shown"] if SecretStr in (field.annotation, *get_args(field.annotation)) else []
    return "; ".join([description, *more, *secret])


def _limit(part: Any) -> str:
    signs = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
    return next((f"{words} {getattr(part, sign):,}" for sign, words in signs if hasattr(part, sign)), "")


@click.command()
@click.argument("page", type=click.Path(path_type=Path, exists=True))
def main(page: Path) -> None:
    """Fill the tables of PAGE in."""
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
