"""Modular Pluralism's JSON (Feng et al. 2024): a list of {"question", "options", "attribute",
"gold_distribution"}.

`question` holds the whole prompt ("Question: ...", "Options: A. ...", "Answer:"); we take the question out
of it. VITAL's `vital_distributional_*.json` (health; MIT) are of the same form. `attribute` is the country.
Its other test sets (moral choices) have attributes that are none: set aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cultural_palette.evaluation.survey_formats import Answer, Aside, option_text, read_json_list, shares_of

PROMPT = re.compile(r"\s*Question:\s*(.*?)\s*\n\s*Options:.*Answer:\s*", re.DOTALL)
FIELDS = ("question", "options", "attribute", "gold_distribution")


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every entry, as one country's answer."""
    for line, entry in read_json_list(path):
        yield _answer(entry, f"{path.name}:{line}")


def _answer(entry: Any, where: str) -> Answer | Aside:
    if not isinstance(entry, dict) or any(field not in entry for field in FIELDS):
        return Aside(where, "corrupt row", f"expected {', '.join(FIELDS)}")
    question, options, label = entry["question"], entry["options"], entry["attribute"]
    if not isinstance(question, str) or not isinstance(label, str) or not isinstance(options, list):
        return Aside(where, "corrupt row", "question and attribute are texts, options a list")
    texts = [option_text(option) for option in options]
    if None in texts:
        return Aside(where, "corrupt row", "an option is neither text nor number")
    named = tuple(text for text in texts if text is not None)
    shares = shares_of(entry["gold_distribution"], named)
    if isinstance(shares, str):
        return Aside(where, "corrupt row", shares)
    prompt = PROMPT.fullmatch(question)
    return Answer(prompt[1] if prompt else question, named, label, shares, "modular-pluralism", where)
