"""`python -m cultural_palette.cli.page`: the CLI's page, docs/cli.md, made from `--help`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from cultural_palette.cli import main

WIDTH = 100


def page() -> str:
    """Every command's help, in one Markdown page; the same on every terminal."""
    parts = ["# The command line", "Made by `make docs` from `palette --help`; a test keeps it current."]
    for path, command, context in _commands(main, None, "palette"):
        parts += [f"## {path}", f"```text\n{command.get_help(context).rstrip()}\n```"]
    parts += [
        "## Exit codes",
        "| code | meaning |\n|---|---|\n| 0 | answered |\n"
        "| 1 | failure: a server down, too few drafts, no readable answer |\n"
        "| 2 | bad input: flags, country, question, map, settings |\n| 130 | interrupted |",
    ]
    return "\n\n".join(parts) + "\n"


def _commands(
    command: click.Command, parent: click.Context | None, name: str
) -> Iterator[tuple[str, click.Command, click.Context]]:
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, parent, name, **settings)
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            child_command = command.get_command(context, child)
            assert child_command is not None
            yield from _commands(child_command, context, child)


if __name__ == "__main__":
    click.echo(page(), nl=False)
