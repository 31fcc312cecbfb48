"""The paper's numbers, as printed: its Table 1, and what its text quotes of Figure 4.

"Cultural Palette: Pluralising Culture Alignment via Multi-agent Palette". One figure per cell, no spread
over its five runs.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).parent
SOURCE = "Cultural Palette: Pluralising Culture Alignment via Multi-agent Palette, Table 1"
Show = Literal["auto", "always", "never"]
# Slips of the print that bear on a comparison, each found by reading the table against itself.
SLIPS: Mapping[str, str] = {
    "Qwen2.5-7B-Instruct": "The paper's Qwen row 'joint' repeats its Llama row 'prompting', all 19 figures.",
    "": (
        "The paper gives no spread over its five runs, no number of questions and no intervals; its eq. 5 "
        "prints 1 - divergence, but only 1 - distance in nats fits its range, so it is compared with that "
        "metric. It does not say which of the three modular forms its row is."
    ),
}


@dataclass(frozen=True)
class PaperRow:
    """A printed row: country -> value 0..100, and the average as printed."""

    base_model: str
    method: str
    by_country: Mapping[str, float]
    average: float


@dataclass(frozen=True)
class Quoted:
    """A value of Figure 4 that the text quotes; a range over all communities has `community` ""."""

    base_model: str
    method: str
    community: str
    low: float
    high: float


@dataclass(frozen=True)
class PaperBlock:
    """The paper's rows for one base model, and whether that is the run's own."""

    base_model: str
    same_base: bool
    rows: tuple[PaperRow, ...]

    @property
    def slips(self) -> tuple[str, ...]:
        """What to know before comparing."""
        return tuple(SLIPS[key] for key in (self.base_model, "") if key in SLIPS)


@cache
def paper_rows() -> tuple[PaperRow, ...]:
    """Every row of Table 1, as printed."""
    with (FOLDER / "paper_table1.csv").open(encoding="utf-8", newline="") as file:
        rows = []
        for row in csv.DictReader(file):
            base, method, mean = row.pop("base_model"), row.pop("method"), float(row.pop("average"))
            rows.append(PaperRow(base, method, {code: float(value) for code, value in row.items()}, mean))
    return tuple(rows)


@cache
def quoted_values() -> tuple[Quoted, ...]:
    """What the text quotes of Figure 4."""
    with (FOLDER / "paper_figure4.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Quoted(row["base_model"], row["method"], row["community"], float(row["low"]), float(row["high"]))
            for row in csv.DictReader(file)
        )


def same_base(name: str) -> str | None:
    """The paper's base model that a model's reference names ("Qwen/Qwen2.5-7B-Instruct"); None for any other.

    A longer name ("...-Instruct-AWQ") is another model.
    """
    parts = {_plain(part).removeprefix("meta") for part in re.split(r"[/:@]|--", name)}
    bases = dict.fromkeys(row.base_model for row in paper_rows())
    return next((base for base in bases if _plain(base) in parts), None)


def paper_blocks(base_name: str | None, show: Show) -> tuple[PaperBlock, ...]:
    """The paper's rows to show beside a run whose base model is `base_name`.

    "auto": only where the base model is the same; "always": else all of them, as another base model's.
    """
    own = same_base(base_name) if base_name else None
    if show == "never" or (show == "auto" and own is None):
        return ()
    bases = [own] if own else list(dict.fromkeys(row.base_model for row in paper_rows()))
    return tuple(
        PaperBlock(base, base == own, tuple(row for row in paper_rows() if row.base_model == base))
        for base in bases
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
