"""Does training text hold the questions of the surveys that it will be evaluated on? A gate.

Two measures, for each pair of a survey's question and a training text (a query or an answer):

- `jaccard`: of their runs of 5 characters, 0..1. Near-copies, small changes of wording. MinHash LSH
  (datasketch) finds the candidates, every candidate is then compared exactly.
- `containment`: share of the question's runs of 3 words that the text has, 0..1. A question quoted in a
  longer text. Exact, by an index of the questions. A question of fewer than 8 words counts when it is quoted
  whole, one of fewer than 5 has no containment: ordinary speech holds them.

Both are taken of the texts as they stand and of their stems, without the options in them, each with each; the
highest counts. A pair that reaches either threshold is a leak. Neither measure sees a free paraphrase or a
translation.
docs/separation.md says how the thresholds were chosen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cultural_palette.errors import PaletteError, UsageError
from cultural_palette.training.pentachromatic.separation.stems import forms_of
from cultural_palette.training.pentachromatic.separation.surveys import (
    SurveyQuestion,
    SurveyQuestions,
    words_of,
)
from cultural_palette.training.pentachromatic.separation.texts import Answers

PERMUTATIONS = 128
MOST_MISSED = 1e-3
SHOWN = 20


class LeakageFound(PaletteError):
    """The gate is shut: training text holds questions of a survey."""


@dataclass(frozen=True)
class Thresholds:
    """From where on a pair is a leak, and what is compared."""

    jaccard: float = 0.5
    containment: float = 0.6
    characters: int = 5
    words: int = 3
    fewest_words: int = 5
    fewest_words_in_part: int = 8

    def __post_init__(self) -> None:
        for name in ("jaccard", "containment"):
            if not 0.3 <= (value := getattr(self, name)) <= 1:
                raise UsageError(f"--{name} {value}: expected 0.3 to 1")


@dataclass(frozen=True)
class TrainingText:
    """A text that a model is trained on, with the queries that it stands under.

    `community`: whose answer it is, None for a query.
    """

    text: str
    community: str | None
    query_ids: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Whether it is a query or an answer."""
        return "query" if self.community is None else "answer"


@dataclass(frozen=True)
class Pair:
    """A survey's question and a training text too much alike. `containment`: None for short questions."""

    survey: str
    question: SurveyQuestion
    text: TrainingText
    jaccard: float
    containment: float | None

    @property
    def score(self) -> float:
        """The higher of the two."""
        return max(self.jaccard, self.containment or 0.0)

    def row(self) -> dict[str, Any]:
        """For JSON, with both texts."""
        return {
            "survey": self.survey,
            "question_id": self.question.id,
            "question": self.question.text,
            "kind": self.text.kind,
            "community": self.text.community,
            "query_ids": list(self.text.query_ids),
            "text": self.text.text,
            "jaccard": round(self.jaccard, 4),
            "containment": None if self.containment is None else round(self.containment, 4),
        }


@dataclass(frozen=True)
class Leakage:
    """What was found, likest first."""

    thresholds: Thresholds
    surveys: tuple[SurveyQuestions, ...]
    pairs: tuple[Pair, ...]
    queries: int
    answers: int
    chance_missed: float

    @property
    def passed(self) -> bool:
        """Whether the gate is open."""
        return not self.pairs

    def query_ids(self) -> dict[str, list[Pair]]:
        """Every query that leaks, itself or by an answer, with its pairs."""
        pairs_by_query: dict[str, list[Pair]] = defaultdict(list)
        for pair in self.pairs:
            for query_id in pair.text.query_ids:
                pairs_by_query[query_id].append(pair)
        return dict(pairs_by_query)


def training_texts(answers: Answers) -> list[TrainingText]:
    """Every query and every answer, equal texts once."""
    places: dict[tuple[str, str | None], dict[str, None]] = defaultdict(dict)
    for answer in answers.items:
        places[answer.query, None][answer.query_id] = None
        places[answer.response, answer.community][answer.query_id] = None
    return [TrainingText(text, community, tuple(ids)) for (text, community), ids in places.items()]


def leakage(
    texts: Sequence[TrainingText], surveys: Sequence[SurveyQuestions], thresholds: Thresholds = Thresholds()
) -> Leakage:
    """Compare every text with every question of every survey."""
    if not surveys:
        raise UsageError("No survey to compare with: name at least one file with --survey.")
    index = _Index(surveys, thresholds)
    pairs = [pair for text in texts for pair in index.pairs(text)]
    pairs.sort(key=lambda pair: (-pair.score, pair.survey, pair.question.id, pair.text.query_ids))
    counts = Counter(text.kind for text in texts)
    return Leakage(
        thresholds, tuple(surveys), tuple(pairs), counts["query"], counts["answer"], index.chance_missed
    )


def report(result: Leakage, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """`leakage.json`. `dataset`: which file was measured, with its hash."""
    rows = []
    for survey in result.surveys:
        pairs = [pair for pair in result.pairs if pair.survey == survey.name]
        kinds = Counter(pair.text.kind for pair in pairs)
        rows.append(
            {
                "name": survey.name,
                "questions": len(survey.questions),
                "repeated": survey.repeated,
                "empty": survey.empty,
                "sha256": survey.sha256,
                "pairs": len(pairs),
                "pairs_with_queries": kinds["query"],
                "pairs_with_answers": kinds["answer"],
                "questions_leaked": len({pair.question for pair in pairs}),
            }
        )
    return {
        "passed": result.passed,
        "threshold": result.thresholds.jaccard,
        "containment_threshold": result.thresholds.containment,
        "pairs": len(result.pairs),
        "queries_leaking": len(result.query_ids()),
        "queries_compared": result.queries,
        "answers_compared": result.answers,
        "thresholds": asdict(result.thresholds),
        "lsh": {"permutations": PERMUTATIONS, "chance_missed_at_threshold": result.chance_missed},
        "dataset": dict(dataset),
        "surveys": rows,
        "examples": [pair.row() for pair in result.pairs[:SHOWN]],
    }


def exclusions(result: Leakage) -> Iterator[dict[str, Any]]:
    """A row for each query to leave out, with its reason."""
    for query_id, pairs in result.query_ids().items():
        best = max(pairs, key=lambda pair: pair.score)
        yield {
            "query_id": query_id,
            "reason": f"its {best.text.kind} is near question {best.question.id} of {best.survey}",
            "score": round(best.score, 4),
            "pairs": len(pairs),
        }


def bands(threshold: float, permutations: int = PERMUTATIONS) -> tuple[int, int, float]:
    """LSH's bands and rows, and the chance that they miss a pair at the threshold: `MOST_MISSED` at most.

    A pair of Jaccard s shares a band with probability 1 - (1 - s^rows)^bands. More rows: fewer candidates.
    """
    for rows in range(permutations // 2, 0, -1):
        count = permutations // rows
        if (missed := (1 - threshold**rows) ** count) <= MOST_MISSED:
            return count, rows, missed
    raise UsageError(f"--jaccard {threshold} is too low for {permutations} permutations.")


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """|A and B| / |A or B|, 0..1; 0 for empty sets."""
    both = len(first & second)
    return both / (len(first) + len(second) - both) if both else 0.0


def character_shingles(words: Sequence[str], size: int) -> frozenset[str]:
    """Every run of `size` characters of the folded text; a shorter text is its own."""
    text = " ".join(words)
    return frozenset(text[start : start + size] for start in range(max(1, len(text) - size + 1))) - {""}


def word_shingles(words: Sequence[str], size: int) -> frozenset[str]:
    """Every run of `size` words; none in a shorter text."""
    return frozenset(" ".join(words[start : start + size]) for start in range(len(words) - size + 1))


class _Index:
    """The surveys' questions, ready for one training text after the other."""

    def __init__(self, surveys: Iterable[SurveyQuestions], thresholds: Thresholds) -> None:
        from datasketch import MinHashLSH

        self.thresholds = thresholds
        forms = [
            (survey.name, question, form)
            for survey in surveys
            for question in survey.questions
            for form in forms_of(question.text)
        ]
        self.questions = [(name, question) for name, question, _ in forms]
        texts = [words_of(form) for _, _, form in forms]
        self.characters = [character_shingles(words, thresholds.characters) for words in texts]
        long = [words if len(words) >= thresholds.fewest_words else () for words in texts]
        self.words = [word_shingles(words, thresholds.words) for words in long]
        self.quoted_from = [
            thresholds.containment if len(words) >= thresholds.fewest_words_in_part else 1.0
            for words in texts
        ]
        count, rows, self.chance_missed = bands(thresholds.jaccard)
        self.lsh = MinHashLSH(num_perm=PERMUTATIONS, params=(count, rows))
        for number, signature in enumerate(_signatures(self.characters)):
            self.lsh.insert(number, signature)
        self.holders: dict[str, list[int]] = defaultdict(list)
        for number, shingles in enumerate(self.words):
            for shingle in shingles:
                self.holders[shingle].append(number)
        sizes = [len(characters) for characters in self.characters]
        # A Jaccard of t needs sizes within a factor of t: a long answer is no near-copy of a question.
        self.sizes = (min(sizes) * thresholds.jaccard, max(sizes) / thresholds.jaccard)

    def pairs(self, text: TrainingText) -> list[Pair]:
        """A pair for each question that is too like any form of the text; the likest of its forms."""
        best: dict[tuple[str, SurveyQuestion], Pair] = {}
        for form in forms_of(text.text):
            for pair in self._pairs(text, words_of(form)):
                known = best.setdefault((pair.survey, pair.question), pair)
                if pair.score > known.score:
                    best[pair.survey, pair.question] = pair
        return list(best.values())

    def _pairs(self, text: TrainingText, words: Sequence[str]) -> Iterator[Pair]:
        characters = character_shingles(words, self.thresholds.characters)
        shared = Counter(
            number
            for shingle in word_shingles(words, self.thresholds.words)
            for number in self.holders.get(shingle, ())
        )
        quoted = {
            number
            for number, count in shared.items()
            if count / len(self.words[number]) >= self.quoted_from[number]
        }
        near: set[int] = set()
        if characters and self.sizes[0] <= len(characters) <= self.sizes[1]:
            near.update(self.lsh.query(next(_signatures([characters]))))
        for number in sorted(near | quoted):
            likeness = jaccard(self.characters[number], characters)
            if number in quoted or likeness >= self.thresholds.jaccard:
                name, question = self.questions[number]
                whole = len(self.words[number])
                yield Pair(name, question, text, likeness, shared[number] / whole if whole else None)


def _signatures(shingles: Iterable[frozenset[str]]) -> Iterator[Any]:
    from datasketch import MinHash

    encoded = (
        [shingle.encode("utf-8", "surrogatepass") for shingle in text_shingles] for text_shingles in shingles
    )
    yield from MinHash.generator(encoded, num_perm=PERMUTATIONS)
