"""`python -m palette`: the same as the `palette` command."""

from palette.cli import main

main(prog_name="palette")
