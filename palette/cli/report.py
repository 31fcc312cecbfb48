"""`palette report`: Write the tables, figures and pages of a finished evaluation."""

from __future__ import annotations

import click


@click.command()
def report() -> None:
    """Write the tables, figures and pages of a finished evaluation."""
