"""`python -m cultural_palette`: the same as the `palette` command."""

from cultural_palette.cli import main

main(prog_name="palette")
