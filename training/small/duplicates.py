"""Does any line of the small palette's data stand in a survey or in PRISM? Printed, and kept for the page.

Every text of `data/` is compared: queries, reviewed answers, worked drafts, accounts, answers and options,
profiles' sentences and neutral paragraphs. Two measures: the gate of `palette dataset measure leakage`, and
the longest run of words that a text shares with any of a source's. Nothing of a source is kept or printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cultural_palette.errors import ArtifactError
from cultural_palette.jsonl import read_rows, refuse
from cultural_palette.provenance import file_sha256
from cultural_palette.training.pentachromatic.separation.leakage import TrainingText, leakage
from cultural_palette.training.pentachromatic.separation.surveys import read_survey
from cultural_palette.training.small.build import DATA, reviewed_answers, worked

LONGEST = 12
"""Words of the longest runs that are told apart."""


def our_texts(work: Path) -> dict[str, list[str]]:
    """Every text of ours by its kind; `work`: where the stage `data` was run."""
    answers, _ = reviewed_answers(work)
    rows = worked()
    profiles = [row for row, _ in read_rows(DATA / "profiles.jsonl", refuse(ArtifactError))]
    return {
        "queries": [row["query"] for row in rows],
        "answers": [text for texts in answers.values() for text in texts.values()],
        "worked drafts, accounts and answers": [
            text for row in rows for text in (row["draft"]["text"], row["account"], row["answer"])
        ],
        "options": sorted({option for row in rows for option in row["options"] or ()}),
        "sentences of profiles": [
            row[key] for row in profiles for key in row if key not in ("iso3", "name", "community")
        ],
        "neutral paragraphs": (DATA / "neutral.txt").read_text(encoding="utf-8").strip().split("\n\n"),
    }


def duplicates(work: Path, sources: Sequence[Path]) -> dict[str, Any]:
    """For each source and kind of text: how many, pairs at the gate's thresholds, and the longest run of
    words shared with a text of the source; and how many texts of ours are equal to one of the source's."""
    ours = our_texts(work)
    by_source: dict[str, Any] = {}
    for path in sources:
        survey = read_survey(path)
        theirs = [question.text for question in survey.questions]
        runs = runs_of(theirs)
        whole = {_plain(text) for text in theirs}
        rows = {}
        for kind, texts in ours.items():
            compared = [TrainingText(text, None, (kind,)) for text in dict.fromkeys(texts)]
            pairs = leakage(compared, [survey]).pairs
            rows[kind] = {
                "texts": len(texts),
                "equal": sum(_plain(text) in whole for text in texts),
                "pairs": len(pairs),
                "longest_run": max(longest_run(text, runs) for text in texts),
            }
        by_source[path.name] = {"texts": len(theirs), "sha256": file_sha256(path), "kinds": rows}
    return by_source


def runs_of(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """Every run of up to LONGEST words in the texts."""
    runs: set[tuple[str, ...]] = set()
    for text in texts:
        words = _words(text)
        for length in range(1, min(LONGEST, len(words)) + 1):
            runs |= {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}
    return runs


def longest_run(text: str, runs: set[tuple[str, ...]]) -> int:
    """Words of the longest run of the text that is among `runs`; LONGEST for any longer one."""
    words = _words(text)
    best = 0
    for at in range(len(words)):
        while best < LONGEST and at + best < len(words) and tuple(words[at : at + best + 1]) in runs:
            best += 1
    return best


def lines(by_source: Mapping[str, Any]) -> list[str]:
    """What is printed: a line a source and kind."""
    return [
        f"{name} ({source['texts']} texts): {kind}: {row['texts']} compared, {row['equal']} equal, "
        f"{row['pairs']} near-duplicates, longest shared run {row['longest_run']} words"
        for name, source in by_source.items()
        for kind, row in source["kinds"].items()
    ]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _plain(text: str) -> str:
    return " ".join(_words(text))
