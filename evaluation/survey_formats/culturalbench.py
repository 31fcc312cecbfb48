"""CulturalBench (Chiu et al. 2024), CC-BY-4.0, CSV: questions on a country's customs with one right answer.

Easy: question_idx, prompt_question, prompt_option_a to d, answer (a letter), country. Hard: the same
questions cut into four judgements, prompt_option and answer (true or false); a question is known where all
four are right, so the four are one battery.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cultural_palette.evaluation.survey_formats import Answer, Aside, csv_rows

EASY = ("prompt_question", *(f"prompt_option_{letter}" for letter in "abcd"), "answer", "country")
HARD = ("prompt_question", "prompt_option", "answer", "country")
TRUTHS = {
    "true": True,
    "1": True,
    "1.0": True,
    "yes": True,
    "false": False,
    "0": False,
    "0.0": False,
    "no": False,
}


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every row, as its country's right answer."""
    for row, place in csv_rows(path):
        yield _hard(row, place) if "prompt_option" in row else _easy(row, place)


def _easy(row: Mapping[str, str | None], where: str) -> Answer | Aside:
    options = tuple((row.get(f"prompt_option_{letter}") or "").strip() for letter in "abcd")
    place = "ABCD".find((row.get("answer") or "").strip().upper() or "-")
    if place < 0:
        return Aside(where, "corrupt row", f"answer {row.get('answer')!r}, expected A to D")
    shares = tuple(float(number == place) for number in range(4))
    return Answer(
        (row.get("prompt_question") or "").strip(), options, row.get("country") or "", shares,
        "CulturalBench-Easy", where, battery=_battery(row), ordered=False, labelled=True,
    )  # fmt: skip


def _hard(row: Mapping[str, str | None], where: str) -> Answer | Aside:
    truth = TRUTHS.get((row.get("answer") or "").strip().casefold())
    if truth is None:
        return Aside(where, "corrupt row", f"answer {row.get('answer')!r}, expected true or false")
    text = (
        f"{(row.get('prompt_question') or '').strip()}\nIs this the answer: {row.get('prompt_option') or ''}?"
    )
    return Answer(
        text, ("True", "False"), row.get("country") or "", (float(truth), float(not truth)),
        "CulturalBench-Hard", where, battery=_battery(row), ordered=False, labelled=True,
    )  # fmt: skip


def _battery(row: Mapping[str, str | None]) -> str | None:
    return f"culturalbench-{row['question_idx']}" if row.get("question_idx") else None
