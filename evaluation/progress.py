"""How far a long run is: rows done, by outcome, and the time left; on standard error, for people only."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TextIO

from cultural_palette.safe_text import visible

EVERY_S = 15.0
ON_A_TERMINAL_S = 0.5


class Progress:
    """A line now and then; on a terminal one that is written over. `done` rows stood there already."""

    def __init__(self, total: int, done: int, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.total, self.done, self._at_start = total, done, done
        self.outcomes: Counter[str] = Counter()
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._started = self._shown = time.monotonic()

    def advance(self, outcome: str) -> None:
        """One row more."""
        self.done += 1
        self.outcomes[outcome] += 1
        now = time.monotonic()
        if now - self._shown >= (ON_A_TERMINAL_S if self._stream.isatty() else EVERY_S):
            self._shown = now
            self._write(self.line(now))

    def line(self, now: float) -> str:
        """Rows, outcomes that are not ok, and the time left at this process' pace so far."""
        fresh = self.done - self._at_start
        left_s = (self.total - self.done) * (now - self._started) / fresh if fresh else None
        wrong = [f"{count} {name}" for name, count in sorted(self.outcomes.items()) if name != "ok"]
        left = f"{_clock(left_s)} left" if left_s is not None else "no pace yet"
        share = f"{self.done / self.total:.0%}" if self.total else "100%"
        return ", ".join([f"{self.done:,} of {self.total:,} rows ({share})", *wrong, left])

    def note(self, text: str) -> None:
        """A line of its own."""
        if not self._quiet:
            start = "\r\033[K" if self._stream.isatty() else ""
            print(f"{start}{visible(text)}", file=self._stream, flush=True)

    def close(self) -> None:
        """The last line, which stays."""
        self._write(self.line(time.monotonic()))
        if self._stream.isatty() and not self._quiet:
            print(file=self._stream, flush=True)

    def _write(self, text: str) -> None:
        if self._quiet:
            return
        if self._stream.isatty():
            print(f"\r\033[K{visible(text)}", end="", file=self._stream, flush=True)
        else:
            print(visible(text), file=self._stream, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
