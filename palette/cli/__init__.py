"""`palette ...`: thin commands. Each imports what it needs when it runs, so `--help` is instant."""

from __future__ import annotations

import atexit
import gc
from typing import Any

import click

from cultural_palette.cli.ask import ask
from cultural_palette.cli.dataset import dataset
from cultural_palette.cli.doctor import doctor
from cultural_palette.cli.evaluate import evaluate
from cultural_palette.cli.fit_blend import fit_blend
from cultural_palette.cli.lookup import countries, graph, maps
from cultural_palette.cli.merge import merge
from cultural_palette.cli.pull import examples, pull
from cultural_palette.cli.rectify import rectify
from cultural_palette.cli.report import report
from cultural_palette.cli.review import review
from cultural_palette.cli.serve import serve
from cultural_palette.cli.studio import mcp, studio
from cultural_palette.cli.synthesize import synthesize
from cultural_palette.cli.text import echo
from cultural_palette.cli.train import train
from cultural_palette.cli.ui import ui
from cultural_palette.errors import PaletteError, of_the_disk
from cultural_palette.version import __version__

INTERRUPTED = 130  # 128 + SIGINT, as shells count


class Door(click.Group):
    """Prints what a person can mend, bare, and exits with its code; everything else keeps its traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As ever; and a process that ends looks for no garbage among torch's modules (1.5 s otherwise)."""
        atexit.register(gc.freeze)
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; 2: bad input, 1: failure, 130: interrupted."""
        try:
            return super().invoke(ctx)
        except PaletteError as error:
            echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if (told := of_the_disk(error)) is None:
                raise
            echo(f"Error: {told}", err=True)
            ctx.exit(told.exit_code)
        except KeyboardInterrupt:
            echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="palette")
def main() -> None:
    """Ask what a country would say: five cultural communities draft, a merged model decides.

    Settings come from flags, then PALETTE_* variables and .env, then palette.toml.
    """


for command in (
    *(ask, ui, examples, pull, countries, maps, graph),
    *(synthesize, review, dataset, train, merge, fit_blend, serve),
    *(evaluate, report, rectify, studio, mcp, doctor),
):
    main.add_command(command)
