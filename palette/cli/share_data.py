"""`palette train --survey`: what of a survey is learned from, and what is held out, as files of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from cultural_palette.cultural_map import CulturalMap

SHARES, SPLIT = "shares.jsonl", "split.json"
MAX_OPTIONS = 6
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class HeldOut:
    """What is kept from training: shares (0..1) of the questions, by battery, and countries by a list."""

    test: float = 0.2
    calibration: float = 0.0
    countries: str | None = None
    seed: int = 0


def share_options(command: Command) -> Command:
    """The flags of what is learned from a survey."""
    options = (
        click.option("--survey", metavar="FILE", help="Shares to learn: any survey of 'evaluate surveys'."),
        click.option("--hold-out-countries", metavar="LIST", help="Countries never learned from, by commas."),
        click.option(
            "--hold-out", type=click.FloatRange(0, 1), default=0.2, show_default=True,
            help="Share of the survey's questions held out for tests, by battery.",
        ),
        click.option(
            "--calibration", type=click.FloatRange(0, 1), default=0.0, show_default=True,
            help="Share held out beside it, to fit temperature, place prior and blends on.",
        ),
        click.option(
            "--split-seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is held out."
        ),
        click.option(
            "--survey-questions", type=click.IntRange(1), metavar="N",
            help="Learn from so many questions, drawn by the split's seed.",
        ),
        click.option(
            "--max-options", type=click.IntRange(2), default=MAX_OPTIONS, show_default=True,
            help="Leave out a survey's questions with more.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def write_share_data(
    source: str,
    cultural_map: CulturalMap,
    out: Path,
    held_out: HeldOut,
    questions: int | None = None,
    max_options: int | None = MAX_OPTIONS,
) -> str:
    """`shares.jsonl` and `split.json` of a run, the same again for the same flags; returns what to say.

    The dataset's leakage gate is shut for training questions near a held-out one: they are left out, counted.
    """
    import json

    from cultural_palette.artifacts import write_whole
    from cultural_palette.errors import ArtifactError
    from cultural_palette.evaluation.selection import Selection, resolve_countries
    from cultural_palette.evaluation.share_data import as_jsonl, draw_rows, share_rows, split_shares
    from cultural_palette.evaluation.surveys import load_survey
    from cultural_palette.training.share_gate import without_leaks

    survey = load_survey(source, Selection(options="substantive", max_options=max_options))
    names = held_out.countries
    countries = resolve_countries(names, cultural_map) if names else ()
    split = split_shares(survey, held_out.test, held_out.calibration, countries, held_out.seed)
    apart = {item.question.id: item.question.text for item in (*split.calibration, *split.test)}
    rows, leaks = without_leaks(share_rows(split.train, cultural_map), apart)
    sample = draw_rows(rows, questions, held_out.seed)
    manifest: Mapping[str, Any] = {
        "survey": survey.as_manifest() | {"set_aside": len(survey.set_aside)},
        "split": split.as_manifest(),
        "leaking_questions_left_out": leaks,
        "questions": len(sample),
        "test_items": sorted(item.id for item in split.test),
        "calibration_items": sorted(item.id for item in split.calibration),
    }
    learned, file = as_jsonl(sample), out / SHARES
    there = file.read_bytes() if any(out.glob("run-*")) and file.is_file() else None
    if there not in (None, learned.encode("utf-8", "backslashreplace")):
        raise ArtifactError(
            f"{file} is what jobs in {out} learn from, and these flags or this survey give something else. "
            "Use the same, or take another --out."
        )
    write_whole(file, learned)
    write_whole(out / SPLIT, json.dumps(manifest, indent=1) + "\n")
    answers = sum(len(some) for row in sample for some in row["shares"].values())
    return (
        f"{source}: {len(sample):,} questions with {answers:,} countries' answers to learn from; held out "
        f"{len(split.test):,} answers for tests and {len(split.calibration):,} for calibration, and "
        f"{', '.join(countries) or 'no country'}; {len(leaks)} questions left out as too like a held-out one"
    )
