"""What `values-retrieval` looks up: a country's answers to a survey's other questions, the nearest by
words first.

Questions of the item's own battery are never retrieved: they are so alike that their answers would be its
own.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict

from cultural_palette.evaluation.surveys import Survey, SurveyItem

NEAREST = 5
SHOWN = 2
"""Options of a statement: those that most people took."""


class ValueLibrary:
    """Statements of a survey's whole file, by country. Words weigh by how few questions have them."""

    def __init__(self, survey: Survey) -> None:
        self._of_country: defaultdict[str, list[SurveyItem]] = defaultdict(list)
        for item in survey.everywhere:
            if not item.labelled:
                self._of_country[item.country].append(item)
        questions = {item.question.id: item.question for item in (*survey.everywhere, *survey.items)}
        self._words = {key: Counter(_words(question.text)) for key, question in questions.items()}
        seen = Counter(word for words in self._words.values() for word in words)
        self._weight = {word: math.log((1 + len(questions)) / count) for word, count in seen.items()}
        self._battery = {item.text_and_options[0].strip(): item.question.battery for item in survey.items}

    def __call__(self, country: str, question: str) -> tuple[str, ...]:
        """The nearest questions' answers in that country, without those of the question's own battery."""
        wanted, battery = Counter(_words(question)), self._battery.get(question.strip())
        ranked = sorted(
            (
                (-self._likeness(wanted, self._words[item.question.id]), item.question.id, item)
                for item in self._of_country[country]
                if item.question.battery != battery and item.question.text.strip() != question.strip()
            ),
            key=lambda row: row[:2],
        )
        return tuple(statement(item) for _, _, item in ranked[:NEAREST])

    def _likeness(self, a: Counter[str], b: Counter[str]) -> float:
        """Cosine of the weighted words (0..1)."""
        common = sum(a[word] * b[word] * self._weight.get(word, 0.0) ** 2 for word in a.keys() & b.keys())
        lengths = [
            math.sqrt(sum((count * self._weight.get(word, 0.0)) ** 2 for word, count in words.items()))
            for words in (a, b)
        ]
        return common / (lengths[0] * lengths[1]) if all(lengths) else 0.0


def statement(item: SurveyItem) -> str:
    """An item's answer in a sentence."""
    pairs = sorted(
        zip(item.gold.probabilities, item.question.options, strict=True), key=lambda pair: -pair[0]
    )
    sentence = ", ".join(f'{100 * share:.0f} % said "{option}"' for share, option in pairs[:SHOWN])
    return f"Asked: {item.question.text} {sentence[0].upper()}{sentence[1:]}."


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
