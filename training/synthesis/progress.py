"""How far a run is, how fast, how long to go, and what it has cost and will cost."""

from __future__ import annotations

import time

from cultural_palette.training.durations import duration_words
from cultural_palette.training.synthesis.run import Tally
from cultural_palette.training.synthesis.teacher import Ledger


def progress_line(tally: Tally, ledger: Ledger, seconds: float | None = None) -> str:
    """One line for people. `seconds`: since this sitting began; measured when None."""
    elapsed = seconds if seconds is not None else time.perf_counter() - tally.started
    rows = tally.written - tally.before
    rate = rows / elapsed if elapsed > 0 else 0.0
    parts = [
        f"{tally.written:,} of {tally.wanted:,} answers ({tally.ok:,} ok, {tally.set_aside:,} set aside"
        + (f", {tally.failed:,} without reply)" if tally.failed else ")"),
        f"{ledger.calls_made / elapsed if elapsed > 0 else 0.0:.1f} calls/s",
    ]
    left = tally.wanted - tally.written - tally.failed
    if left > 0:
        parts.append(f"{duration_words(left / rate)} left" if rate else "time left unknown yet")
    parts.append(f"{_short(ledger.input_tokens)} tokens read, {_short(ledger.output_tokens)} written")
    parts.append(cost_words(tally, ledger))
    return " · ".join(parts)


def cost_words(tally: Tally, ledger: Ledger) -> str:
    """Dollars so far and, once rows have come, for the whole run."""
    cost = ledger.cost
    if cost is None:
        return "cost unknown (no price)"
    at_least = "at least " if ledger.uncounted else ""
    so_far = f"{at_least}{cost:,.2f} USD so far"
    if tally.written and tally.written < tally.wanted:
        return f"{so_far}, {cost * tally.wanted / tally.written:,.2f} projected"
    return so_far


def _short(number: int) -> str:
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if number >= size:
            return f"{number / (1000 if letter == 'k' else size):.1f}{letter}"
    return f"{number:,}"
