"""`python -m cultural_palette`, and the `palette` command. Whoever interrupts it while its commands are still
being imported is told the same as later.
"""

import sys


def run() -> None:
    """The command line; 130 when interrupted."""
    try:
        from cultural_palette.cli import main

        main(prog_name="palette")
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    run()
