"""The experiment of docs/results-learned.md: which questions it asks, and what was read, off the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import RunFolder
from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.selection import PAPER, Selection
from cultural_palette.evaluation.share_data import SharesSplit, draw_rows, share_rows, split_shares
from cultural_palette.evaluation.surveys import Survey, SurveyItem, load_survey
from cultural_palette.moerges.modes import UNIFORM
from cultural_palette.training.share_questions import (
    ShareQuestion,
    Shown,
    joined,
    question_of_row,
    shown_questions,
)

HELD_OUT = ("BRA", "KEN", "THA")
TEST, CALIBRATION = 0.2, 0.1
FEWEST_COUNTRIES = 5  # of the paper's, that a drawn question was asked in
VANILLA, JOINT = "vanilla", "joint"
MOERGES = {blend: f"moerges-{blend}" for blend in (UNIFORM, "paper", "fitted")}
"""A blend of the five agents in the model -> its folder of readings."""


@dataclass(frozen=True)
class Data:
    """The survey, its split, and the questions drawn of it for the paper's countries."""

    survey: Survey
    split: SharesSplit
    test: tuple[ShareQuestion, ...]
    calibration: tuple[ShareQuestion, ...]

    def drawn(self) -> dict[str, Any]:
        """Their ids, for the records."""
        return {
            part: [one.id for one in questions]
            for part, questions in (("test", self.test), ("calibration", self.calibration))
        }


def load_data(source: str, test: int, calibration: int, seed: int = 0) -> Data:
    """`test` and `calibration`: how many questions of each are drawn, battery after battery."""
    survey = load_survey(source, Selection(options="substantive", max_options=6))
    split = split_shares(survey, TEST, CALIBRATION, HELD_OUT, seed)
    return Data(
        survey,
        split,
        _drawn(split.test, test, seed),
        _drawn(split.calibration, calibration, seed),
    )


def _drawn(items: Sequence[SurveyItem], number: int, seed: int) -> tuple[ShareQuestion, ...]:
    wanted = [item for item in items if item.country in PAPER]
    asked_in = Counter(item.question.id for item in wanted)
    rows = share_rows(
        [item for item in wanted if asked_in[item.question.id] >= FEWEST_COUNTRIES], load_map("continents")
    )
    questions = [
        question_of_row(row, some, str(row["id"]))
        for row in draw_rows(rows, number, seed)
        for some in row["shares"].values()
    ]
    return tuple(joined({"all": questions}))


def shown_of(data: Data, orders: int) -> list[Shown]:
    """What every model reads: test questions, then calibration's, in balanced orders, for all countries."""
    return [
        *shown_questions(data.test, orders, 0, 0),
        *shown_questions(data.calibration, orders, 0, 0),
    ]


def whole_rows(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Every reading of a model, one after the other."""
    for row in folder.rows():
        yield from row["readings"]


def readings_of(out: Path, name: str) -> list[dict[str, Any]] | None:
    """A model's readings; None while it is not read whole."""
    folder = RunFolder(out / "scores" / name)
    return list(whole_rows(folder)) if folder.finished else None


def back(shown: Distribution, order: Sequence[int]) -> Distribution:
    """Shares by place as shown -> by option, in the question's own order."""
    shares = [0.0] * len(order)
    for place, option in enumerate(order):
        shares[option] = shown.probabilities[place]
    return Distribution(tuple(shares))
