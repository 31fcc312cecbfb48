"""What a model may learn of a survey, and what is kept from it: batteries and countries held out, both.

`train` is what is left: questions of its own batteries, answers of countries that are not held out.
`calibration` and `test` have batteries of their own, and every country: temperature, place prior and blends
are fitted on the first, results are read off the second.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.evaluation.selection import SelectionError
from cultural_palette.evaluation.surveys import Survey, SurveyItem
from cultural_palette.provenance import short_sha256

PARTS = ("train", "calibration", "test")


@dataclass(frozen=True)
class SharesSplit:
    """Items by part, in the survey's order. `held_out`: countries (ISO3) that `train` has no answer of."""

    train: tuple[SurveyItem, ...]
    calibration: tuple[SurveyItem, ...]
    test: tuple[SurveyItem, ...]
    held_out: tuple[str, ...]
    seed: int

    def as_manifest(self) -> dict[str, Any]:
        """Sizes, and for each part a hash of its items' ids, by which a split is told again."""
        parts: dict[str, Any] = {}
        for name in PARTS:
            items: Sequence[SurveyItem] = getattr(self, name)
            parts[name] = {
                "items": len(items),
                "questions": len({item.question.id for item in items}),
                "batteries": len({item.question.battery for item in items}),
                "countries": len({item.country for item in items}),
                "sha256": short_sha256("\n".join(sorted(item.id for item in items))),
            }
        return {**parts, "countries_held_out": list(self.held_out), "seed": self.seed}


def split_shares(
    survey: Survey,
    test: float,
    calibration: float,
    held_out: Collection[str] = (),
    seed: int = 0,
) -> SharesSplit:
    """Shares (0..1) of the questions for test and calibration, by whole batteries drawn by `seed`; 0: none.

    Raises SelectionError for shares that leave nothing to learn, and for a country that the survey has not.
    """
    if test < 0 or calibration < 0 or test + calibration >= 1:
        raise SelectionError(
            f"Held out {test:g} and {calibration:g}: expected 0 or more, and less than 1 in all."
        )
    there = {item.country for item in survey.items}
    if absent := [code for code in held_out if code not in there]:
        raise SelectionError(f"Country {absent[0]} has no answer in {survey.name}: it can not be held out.")
    sizes = Counter(question.battery for question in survey.questions)
    batteries = sorted(sizes)
    random.Random(seed).shuffle(batteries)
    part_of: dict[str, str] = {}
    for part, share in (("test", test), ("calibration", calibration)):
        wanted = share * len(survey.questions)
        for battery in batteries:
            if battery not in part_of and wanted >= sizes[battery] / 2:
                part_of[battery] = part
                wanted -= sizes[battery]
    items: dict[str, list[SurveyItem]] = {part: [] for part in PARTS}
    for item in survey.items:
        part = part_of.get(item.question.battery, "train")
        if part != "train" or item.country not in held_out:
            items[part].append(item)
    if not items["train"]:
        raise SelectionError(f"{survey.name} has no answer left to learn from.")
    return SharesSplit(
        tuple(items["train"]),
        tuple(items["calibration"]),
        tuple(items["test"]),
        tuple(sorted(held_out)),
        seed,
    )


def share_rows(items: Iterable[SurveyItem], cultural_map: CulturalMap) -> list[dict[str, Any]]:
    """Rows for `training.share_questions`: a question each, with the shares of every country that has a
    community on the map.
    """
    home = {code: community.key for community in cultural_map.communities for code in community.countries}
    rows: dict[str, dict[str, Any]] = {}
    for item in items:
        if item.country not in home:
            continue
        question = item.question
        row = rows.setdefault(
            question.id,
            {
                "id": question.id,
                "battery": question.battery,
                "question": question.text,
                "options": list(question.options),
                "shares": {},
            },
        )
        row["shares"].setdefault(home[item.country], {})[item.country] = list(item.gold.probabilities)
    return list(rows.values())


def draw_rows(rows: Sequence[Mapping[str, Any]], number: int | None, seed: int) -> list[Mapping[str, Any]]:
    """`number` of the questions, drawn by `seed` battery after battery, so that few batteries do not fill the
    draw; all of them for None.
    """
    if number is None or number >= len(rows):
        return list(rows)
    lot = random.Random(seed)
    shuffled = sorted(rows, key=lambda row: str(row["id"]))
    lot.shuffle(shuffled)
    rank: Counter[str] = Counter()
    placed: list[tuple[int, int, Any]] = []
    for row in shuffled:
        placed.append((rank[row["battery"]], len(placed), row["id"]))
        rank[row["battery"]] += 1
    chosen = {key for _, _, key in sorted(placed)[:number]}
    return [row for row in rows if row["id"] in chosen]


def as_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a file's text."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
