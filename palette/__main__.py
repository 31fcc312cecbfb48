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
    finally:
        # `python -m` ends by SIGINT, whatever the exit code, where Ctrl-C fell into an exec() of text, as
        # dataclasses have it, though it was caught; CPython forgets that with the next one.
        exec("")


if __name__ == "__main__":
    run()
