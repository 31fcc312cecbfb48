"""The dataset's leakage gate, for survey questions that are trained on: none near one that is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cultural_palette.provenance import short_sha256
from cultural_palette.training.pentachromatic.separation.leakage import TrainingText, leakage
from cultural_palette.training.pentachromatic.separation.surveys import SurveyQuestion, SurveyQuestions

Row = Mapping[str, Any]


def without_leaks(rows: Sequence[Row], held_out: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    """The rows without those whose question is near one held out (id -> text), and the ids of those."""
    if not held_out:
        return list(rows), []
    questions = tuple(SurveyQuestion(key, text) for key, text in held_out.items())
    survey = SurveyQuestions("held out", short_sha256(repr(questions)), questions)
    texts = [TrainingText(row["question"], None, (row["id"],)) for row in rows]
    leaking = leakage(texts, [survey]).query_ids()
    return [row for row in rows if row["id"] not in leaking], sorted(leaking)
