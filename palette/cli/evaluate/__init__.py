"""`palette evaluate`: methods against surveys and semantics; floors; plans."""

from __future__ import annotations

import click

from cultural_palette.cli.evaluate.contamination import contamination
from cultural_palette.cli.evaluate.elicitation import elicitation
from cultural_palette.cli.evaluate.floors import floors
from cultural_palette.cli.evaluate.items import items
from cultural_palette.cli.evaluate.nli import nli
from cultural_palette.cli.evaluate.plan import plan
from cultural_palette.cli.evaluate.semantic import semantic
from cultural_palette.cli.evaluate.surveys import surveys


@click.group()
def evaluate() -> None:
    """Measure methods against surveys of real people, with floors and intervals."""


for command in (floors, plan, items, surveys, contamination, semantic, nli, elicitation):
    evaluate.add_command(command)
