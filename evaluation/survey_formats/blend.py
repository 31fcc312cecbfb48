"""BLEnD's short answers (Myung et al. 2024): `data/annotations/COUNTRY_data.json`, CC-BY-SA-4.0.

{ID: {"question", "en_question", "annotations": [{"answers", "en_answers", "count"}], "idks"}}: what people
of a place answered in their own words, with how many gave each answer. Votes are shares over the answers
that were given; those given to one question are its options, in alphabetical order (the file has the most
frequent first, which would give the answer away). The question names the place, so every place has
questions of its own, and the file's name says which; "I don't know" is no answer. Regions ("Assam", "West
Java", "Northern Nigeria") are groups of their country.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cultural_palette.evaluation.survey_formats import Answer, Aside, Population, SurveyError, read_json

ANNOTATIONS = "annotations"
REGIONS = {"assam": ("India", "Assam"), "west java": ("Indonesia", "West Java"),
           "northern nigeria": ("Nigeria", "Northern Nigeria")}  # fmt: skip
MOST, MOST_VOTES = 40, 1e12


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every question, as the answer of the place that the file is of."""
    whole = read_json(path)
    if not isinstance(whole, dict):
        raise SurveyError(f"{path}: expected an object of questions.")
    place = path.stem.removesuffix("_data").replace("_", " ")
    country, region = REGIONS.get(place.casefold(), (place, None))
    for key, entry in whole.items():
        yield _answer(key, entry, country, region, f"{path.name}: {key}")


def _answer(key: str, entry: Any, country: str, region: str | None, where: str) -> Answer | Aside:
    if not isinstance(entry, dict) or not isinstance(entry.get(ANNOTATIONS), list):
        return Aside(where, "corrupt row", f"expected a question and {ANNOTATIONS}")
    text = entry.get("en_question") or entry.get("question")
    votes: dict[str, tuple[str, str, float]] = {}
    for annotation in entry[ANNOTATIONS]:
        read_one = _vote(annotation)
        if read_one is None:
            return Aside(where, "corrupt row", "an annotation without answers and count")
        english, local, count = read_one
        folded = " ".join(english.casefold().split())
        known = votes.get(folded, (english, local, 0.0))
        votes[folded] = (known[0], known[1], known[2] + count)
    if not isinstance(text, str) or len(votes) < 2:
        return Aside(where, "fewer than two different answers")
    if len(votes) > MOST:
        return Aside(where, "more answers than a question can show", f"{len(votes)}")
    total = sum(count for *_, count in votes.values())
    rows = [votes[folded] for folded in sorted(votes)]
    question = entry.get("question")
    return Answer(
        text, tuple(english for english, _, _ in rows), country, tuple(count / total for *_, count in rows),
        "BLEnD", where, battery=f"blend-{key}", ordered=False, population=Population(region),
        respondents=total,
        local=(question, tuple(local for _, local, _ in rows)) if isinstance(question, str) else None,
    )  # fmt: skip


def _vote(annotation: Any) -> tuple[str, str, float] | None:
    """English answer, local answer, votes."""
    if not isinstance(annotation, Mapping):
        return None
    english, local, count = (annotation.get(name) for name in ("en_answers", "answers", "count"))
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 < count < MOST_VOTES:
        return None
    first, own = _first(english) or _first(local), _first(local) or _first(english)
    return (first, own, float(count)) if first and own else None


def _first(answers: Any) -> str | None:
    if isinstance(answers, list):
        return next((text for text in answers if isinstance(text, str) and text.strip()), None)
    return answers if isinstance(answers, str) and answers.strip() else None
