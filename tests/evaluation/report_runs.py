"""Run folders made up by code, with known effects: what a report is tested on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cultural_palette.artifacts import RunFolder, write_whole
from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.floors import FLOORS, score_floors
from cultural_palette.evaluation.predictions import Prediction, row_of
from cultural_palette.evaluation.selection import Selection
from cultural_palette.evaluation.surveys import Survey, SurveyItem, SurveyQuestion

WORDS = ("Very important", "Rather important", "Not very important", "Not at all important", "Don't know")
COMMUNITIES = ("africa", "america", "asia", "europe", "oceania")
# Share of the survey's own distribution in a method's guess: the known effect.
SKILL = {"vanilla": 0.2, "prompting": 0.35, "cultural-palette": 0.8, "without-draft": 0.5}


def made_up_items(countries: Sequence[str], questions: int, seed: int = 0) -> tuple[SurveyItem, ...]:
    rng = np.random.default_rng(seed)
    items = []
    for number in range(questions):
        size = int(rng.integers(2, 6))
        question = SurveyQuestion(
            f"q{number:03d}",
            f"How important is thing {number} to you?",
            WORDS[:size],
            "made up",
            f"b{number}",
        )
        base = rng.dirichlet(np.ones(size))
        for code in countries:
            gold = 0.6 * base + 0.4 * rng.dirichlet(np.ones(size))
            items.append(SurveyItem(question, code, _whole(gold), code))
    return tuple(items)


def made_up_run(
    path: Path,
    skill: Mapping[str, float] = SKILL,
    *,
    countries: Sequence[str] = ("USA", "GBR", "CHN", "KEN", "NZL"),
    questions: int = 20,
    runs: int = 2,
    failing: Mapping[str, float] | None = None,
    models: Mapping[str, str] | None = None,
    finish: bool = True,
    seed: int = 0,
) -> Path:
    """A finished survey run. `failing`: method -> share of its rows that fail, half of them unreadable."""
    items = made_up_items(countries, questions, seed)
    rng = np.random.default_rng(seed + 1)
    folder = RunFolder(path)
    lines, outcomes = [], {method: {"ok": 0, "unreadable": 0, "failed": 0} for method in skill}
    for run in range(runs):
        for item in items:
            for method, share in skill.items():
                row = _row(rng, method, run, item, share, (failing or {}).get(method, 0.0))
                outcomes[method][row["status"]] += 1
                lines.append(json.dumps(row, ensure_ascii=False))
    write_whole(path / "rows.jsonl", "\n".join(lines) + "\n")
    survey = Survey(
        "made up", "made-up.jsonl", "0" * 64, items, Selection(tuple(countries)), {"rows": len(items)}
    )
    per_item = score_floors(survey).per_item
    floors = {key: {"title": FLOORS[key], "per_item": dict(per_item[key])} for key in per_item}
    write_whole(path / "floors.json", json.dumps(floors))
    if finish:
        folder.finish(
            {
                "kind": "survey-evaluation",
                "survey": survey.as_manifest(),
                "methods": list(skill),
                "countries": list(countries),
                "models": dict(models or {"decide": "embedded:nano", "africa": "embedded:nano"}),
                "runs": runs,
                "seed": seed,
                "items": len(items),
                "calls": {"needed": 900, "asked": 400, "saved": 500},
                "outcomes": outcomes,
                "versions": {"cultural-palette": "0.1.0"},
            }
        )
    return path


def made_up_semantics(path: Path, *, queries: int = 12, models: Mapping[str, str] | None = None) -> Path:
    """A finished semantic run: later methods score higher, one answer failed."""
    rng = np.random.default_rng(3)
    lines = []
    for level, method in zip((55, 62, 66, 72), ("prompting", "joint", "ties", "moerges"), strict=True):
        for community in COMMUNITIES:
            for number in range(queries):
                ok = not (method == "ties" and number == 0)
                score = float(np.clip(level + rng.normal(0, 6), 0, 100)) if ok else None
                lines.append(
                    {"method": method, "community": community, "query_id": f"p{number}", "s_semantic": score,
                     "s_elsewhere": None if score is None else score / 2, "status": "ok" if ok else "failed"}
                )  # fmt: skip
    write_whole(path / "rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    floors = {
        floor: {f"p{n}/{key}": level + n for key in COMMUNITIES for n in range(queries)}
        for floor, level in (("other-community", 40.0), ("other-query", 20.0), ("itself", 80.0))
    }
    write_whole(path / "floors.json", json.dumps(floors))
    RunFolder(path).finish(
        {
            "kind": "semantic-evaluation",
            "methods": ["prompting", "joint", "ties", "moerges"],
            "models": dict(models or {}),
            "nli": {"model": "words", "caution": "Words are no model of inference."},
        }
    )
    return path


def _row(
    rng: np.random.Generator, method: str, run: int, item: SurveyItem, share: float, failing: float
) -> dict[str, Any]:
    guess = share * np.array(item.gold.probabilities) + (1 - share) * rng.dirichlet(np.ones(len(item.gold)))
    seconds = float(rng.uniform(0.1, 2.0))
    lot = rng.uniform()
    if lot < failing / 2:
        return row_of(method, run, item, None, error="ModelError: the server hung up", seconds=seconds)
    if lot < failing:
        return row_of(method, run, item, Prediction(None, answer=None), seconds=seconds)
    predicted = _whole(guess)
    staged = method == "cultural-palette"
    weights = rng.dirichlet(np.ones(len(COMMUNITIES)))
    prediction = Prediction(
        predicted,
        answer=item.question.options[predicted.mode_index],
        option_mass=float(rng.uniform(0.8, 1.0)),
        readout="exact",
        blend=dict(zip(COMMUNITIES, weights.tolist(), strict=True)) if staged else None,
        drafts={
            key: None if key == "asia" and item.question.id == "q001" else f"A draft from {key}. " * 12
            for key in COMMUNITIES
        }
        if staged
        else {},
        regulated="People there value this in their own way, <b>and</b> it shows. " * 5 if staged else None,
        degraded=("asia: timed out",) if staged and item.question.id == "q001" else (),
        usage={"input_tokens": 100, "output_tokens": 20},
    )
    return row_of(method, run, item, prediction, seconds=seconds)


def _whole(shares: Any) -> Distribution:
    return Distribution.from_counts([float(x) for x in shares])
