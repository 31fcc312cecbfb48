"""Our own claims, said again, opposed and beside the point: scorers of entailment are checked on them.

Each topic has two stances, each said twice. So every sentence stands as entailed (by its own stance), as
contradicted (by the other) and as neither (by another topic's claim): nothing about the hypothesis alone
tells which. A third of the topics is held out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cultural_palette.provenance import sha256

FILE = Path(__file__).parent / "data" / "entailment" / "claims.jsonl"
HELD_OUT = 30
DRAWS, SEED = 2000, 0
Label = Literal["entailed", "beside", "opposed"]
LABELS: tuple[Label, ...] = ("entailed", "beside", "opposed")


@dataclass(frozen=True)
class ClaimPair:
    """A premise and a hypothesis, and what one says of the other."""

    topic: str
    premise: str
    hypothesis: str
    label: Label


@dataclass(frozen=True)
class Figure:
    """A mean over pairs in 0..1, with its 95 % interval by a bootstrap over topics."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def claim_pairs(*, held_out: bool) -> list[ClaimPair]:
    """The pairs of the topics that are held out, six a topic; or of the others, with two a topic more, that
    what a premise says in so many words is entailed, and that what it is silent about is not.
    """
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: sha256(row["topic"]))
    chosen = rows[:HELD_OUT] if held_out else rows[HELD_OUT:]
    pairs = [pair for n, row in enumerate(chosen) for pair in _pairs(row, chosen[(n + 1) % len(chosen)])]
    return pairs if held_out else [*pairs, *(pair for row in chosen for pair in _in_so_many_words(row))]


def _pairs(row: dict[str, str], other: dict[str, str]) -> Iterator[ClaimPair]:
    """Of a topic; `other`: the next one, which neither stance says anything about."""
    for stance, against in (("claim", "opposite"), ("opposite", "claim")):
        again = f"{stance}_again"
        yield ClaimPair(row["topic"], row[stance], row[again], "entailed")
        yield ClaimPair(row["topic"], row[stance], other[again], "beside")
        yield ClaimPair(row["topic"], row[stance], row[f"{against}_again"], "opposed")


def _in_so_many_words(row: dict[str, str]) -> Iterator[ClaimPair]:
    yield ClaimPair(row["topic"], row["claim"], row["beside"], "beside")
    yield ClaimPair(row["topic"], f"{row['claim']} {row['beside']}", row["beside"], "entailed")


def check(scores: Sequence[float], pairs: Sequence[ClaimPair]) -> dict[str, Figure]:
    """How well scores tell what is entailed: from what is beside the point and from what is opposed, each as
    the share of (entailed, other) pairs of the same topic in the right order, ties half (chance 0.5).
    """
    topics = sorted({pair.topic for pair in pairs})
    figures = {}
    for other in ("beside", "opposed"):
        rates = [_rate(scores, pairs, topic, other) for topic in topics]
        figures[f"entailed over {other}"] = bootstrap(rates)
    return figures


def _rate(scores: Sequence[float], pairs: Sequence[ClaimPair], topic: str, other: str) -> float:
    own = [(score, pair.label) for score, pair in zip(scores, pairs, strict=True) if pair.topic == topic]
    ups = [score for score, label in own if label == "entailed"]
    downs = [score for score, label in own if label == other]
    return float(np.mean([(up > down) + 0.5 * (up == down) for up in ups for down in downs]))


def bootstrap(rates: Sequence[float]) -> Figure:
    """The mean of one rate a topic, with its interval."""
    values: NDArray[Any] = np.asarray(rates, float)
    draws = np.random.default_rng(SEED).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return Figure(float(values.mean()), float(low), float(high))
