"""S_semantic: how far a gold answer entails a model's answer, by a natural language inference model (0..100).

    S_semantic(gold, answer) = 100 * P(entailment | premise = gold, hypothesis = answer)

A pair that fits the model's context is one call. A longer one is read in windows: the answer is cut into
runs of whole sentences of at most HYPOTHESIS_TOKENS tokens, the gold answer into such runs that fill the
rest of the context, each beginning half a window after the last. Each window of the answer counts with its
best window of the gold answer (what is said somewhere in the gold answer is entailed), and the windows are
averaged by their number of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cultural_palette.errors import ModelError
from cultural_palette.provenance import model_sha256

DEFAULT_NLI = "sileod/deberta-v3-large-tasksource-nli"
HYPOTHESIS_TOKENS = 160
SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+")
ENTAILMENT = ("entailment", "entail", "entails", "entailed")  # as models for inference name it


@dataclass(frozen=True)
class Entailment:
    """A loaded model. `revision`: its commit on the hub, or a hash of its folder's files; `label`: its output
    for entailment; `context`: most tokens of a pair with its separators.
    """

    name: str
    revision: str | None
    label: int
    context: int
    batch_size: int
    tokenizer: Any = field(repr=False)
    model: Any = field(repr=False)

    def as_manifest(self) -> dict[str, Any]:
        """What a run's manifest says of the metric."""
        return {
            "model": self.name,
            "revision": self.revision,
            "definition": "100 * P(entailment | premise = gold answer, hypothesis = model's answer)",
            "context_tokens": self.context,
            "hypothesis_tokens": self._hypothesis_tokens,
        }

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """S_semantic of each (gold answer, model's answer), 0..100. Raises ValueError for an empty text."""
        scored: dict[tuple[str, str], float] = {}
        plans: list[list[tuple[int, list[tuple[str, str]]]]] = []
        for gold, answer in pairs:
            if not gold.strip() or not answer.strip():
                raise ValueError("nothing to compare: an answer is empty; a missing answer has no score")
            plan = self._windows(gold, answer)
            plans.append(plan)
            scored.update((pair, 0.0) for _, some in plan for pair in some)
        scored = dict(zip(scored, self.probabilities(list(scored)), strict=True))
        return [
            100
            * sum(weight * max(scored[pair] for pair in some) for weight, some in plan)
            / sum(weight for weight, _ in plan)
            for plan in plans
        ]

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """P(entailment) of each (premise, hypothesis), each within the context, in batches of like length."""
        lengths = [self._length(*pair) for pair in pairs]
        order = sorted(range(len(pairs)), key=lambda place: (lengths[place], pairs[place]))
        probabilities = [0.0] * len(pairs)
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            batch = self.tokenizer(
                [pairs[place][0] for place in places],
                [pairs[place][1] for place in places],
                padding=True,
                truncation=False,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.inference_mode():
                shares = self.model(**batch).logits.float().softmax(-1)[:, self.label].tolist()
            for place, share in zip(places, shares, strict=True):
                probabilities[place] = share
        return probabilities

    def _windows(self, gold: str, answer: str) -> list[tuple[int, list[tuple[str, str]]]]:
        """For each window of the answer its tokens, and the pairs of which the best counts."""
        if self._length(gold, answer) <= self.context:
            return [(1, [(gold, answer)])]
        hypotheses = self._cut(answer, self._hypothesis_tokens)
        longest = max(self._tokens(text) for text in hypotheses)
        room = self.context - self._separators - longest
        premises = list(self._overlapping(gold, room))
        return [(self._tokens(text), [(premise, text) for premise in premises]) for text in hypotheses]

    def _overlapping(self, gold: str, room: int) -> Iterator[str]:
        """Runs of at most `room` tokens, each beginning half a run after the last."""
        halves = [gold] if self._tokens(gold) <= room else self._cut(gold, max(1, room // 2))
        if len(halves) == 1:
            yield halves[0]
        for two in pairwise(halves):
            joined = " ".join(two)
            yield from (joined,) if self._tokens(joined) <= room else two

    def _cut(self, text: str, most: int) -> list[str]:
        """Runs of whole sentences of at most `most` tokens; a longer sentence is cut between words."""
        runs: list[str] = []
        for sentence in (part.strip() for part in SENTENCE_END.split(text)):
            for piece in self._pieces(sentence, most) if sentence else ():
                joined = f"{runs[-1]} {piece}" if runs else piece
                if runs and self._tokens(joined) <= most:
                    runs[-1] = joined
                else:
                    runs.append(piece)
        return runs

    def _pieces(self, sentence: str, most: int) -> list[str]:
        if self._tokens(sentence) <= most or len(sentence) < 2:
            return [sentence]
        words = sentence.split()
        middle = len(words) // 2
        halves = (
            (" ".join(words[:middle]), " ".join(words[middle:]))
            if middle
            else (sentence[: len(sentence) // 2], sentence[len(sentence) // 2 :])  # one endless word
        )
        return [piece for half in halves for piece in self._pieces(half, most)]

    @property
    def _hypothesis_tokens(self) -> int:
        return min(HYPOTHESIS_TOKENS, (self.context - self._separators) // 2)

    @property
    def _separators(self) -> int:
        return int(self.tokenizer.num_special_tokens_to_add(pair=True))

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"])

    def _length(self, premise: str, hypothesis: str) -> int:
        return self._tokens(premise) + self._tokens(hypothesis) + self._separators


def load_entailment(
    name: str = DEFAULT_NLI, *, revision: str | None = None, batch_size: int = 16, device: str | None = None
) -> Entailment:
    """The model of that folder or hub name, in float32, on the GPU where there is one.

    Raises ModelError when it is not to be had, or when none of its labels says entailment.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = AutoModelForSequenceClassification.from_pretrained(
            name, revision=revision, dtype=torch.float32
        )
    except (
        OSError,
        ValueError,
    ) as error:  # no such folder, not on the hub, no network, another kind of model
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"The entailment model {name!r} can not be loaded: {reason} Give a folder or a hub name to --nli."
        ) from None
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    return Entailment(
        name=Path(name).name if Path(name).is_dir() else name,
        revision=f"sha256:{model_sha256(Path(name))[:16]}"
        if Path(name).is_dir()
        else revision or getattr(model.config, "_commit_hash", None),
        label=entailment_label(model.config.id2label, name),
        context=min(int(limit) for limit in limits if limit),
        batch_size=batch_size,
        tokenizer=tokenizer,
        model=model.eval().to(place),
    )


def entailment_label(id2label: dict[int, str], name: str) -> int:
    """The index of the label that says entailment."""
    indices = [int(index) for index, label in id2label.items() if label.casefold().strip() in ENTAILMENT]
    if len(indices) != 1:
        labels = ", ".join(map(repr, id2label.values()))
        raise ModelError(
            f"The labels of {name!r} are {labels}: none, or not only one, is 'entailment'. Give --nli a "
            "model "
            f"for natural language inference, such as {DEFAULT_NLI}."
        )
    return indices[0]
