"""Eight ways to read a distribution off a model, on the same questions, orders and prompt: one harness.

    labels       exact log-probability of each option's letter, all tokenisations
    prefilled    the same after the beginning of a reply, "The answer is", put into the model's mouth
    text-sum     log-likelihood of the option's own text as the reply, summed over its tokens
    text-mean    the same, a token
    text-pmi     the same, summed, less that of the text after a prompt without the question (Holtzman 2021)
    verbalised   the model writes the shares itself: "A: 40%"
    sampling     replies drawn at temperature 1, strictly parsed and counted
    embedding    a free answer without the options; cosine of its vector to each option's, the anchors

Each gives log-weights by place, so each can be calibrated alike (`calibrate`): a temperature and what places
are worth, fitted on other batteries. What can not be read is None and counted, never a guess.

It reads palettes in this process, whose tokens and states are at hand. Vectors are means of the base's own
last hidden states, less the mean of the question's anchors.
"""

from __future__ import annotations

import math
import queue
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cultural_palette.countries import find_country
from cultural_palette.distributions import Distribution
from cultural_palette.embedded.engine import Engine, Generation
from cultural_palette.embedded.parts import Part
from cultural_palette.messages import role_pairs
from cultural_palette.models.readout import option_in
from cultural_palette.prompts import render
from cultural_palette.questions import Question

PREFIX = " The answer is"
SAMPLES, SAMPLE_TOKENS = 10, 12
SHARES_TOKENS, FREE_TOKENS = 48, 32
SMOOTHING = 0.5  # of counts of a sample: an option not drawn is rare, not impossible
LEAST_SHARE = 1e-3  # of a share that the model writes
SHARE = re.compile(r"\b(?P<label>[A-Z])\b[^0-9A-Z%]{0,12}(?P<share>\d{1,3}(?:\.\d+)?)\s*%?")
EMPTY = "-"
"""What stands in the place of the question for PMI."""


@dataclass(frozen=True)
class Elicited:
    """`weights`: log, by place as shown, up to a constant; None where nothing could be read. `tokens`: read
    and written; `seconds`: by the clock.
    """

    weights: tuple[float, ...] | None
    tokens: int
    seconds: float


class Elicitor:
    """One part of an embedded palette ("base", "africa", "meta") and how it is read. Blocks."""

    def __init__(self, engine: Engine, part: str, prompt: str, seed: int = 0, samples: int = SAMPLES) -> None:
        self.engine, self.part, self.prompt = engine, part, prompt
        self.seed, self.samples = seed, samples
        self.tokens = 0
        self._vectors: dict[str, Any] = {}

    def elicit(self, readout: str, question: Question, country: str) -> Elicited:
        """One reading by the readout of that name. `country`: ISO3."""
        before, started = self.tokens, time.perf_counter()
        weights = READOUTS[readout](self, question, country)
        return Elicited(weights, self.tokens - before, time.perf_counter() - started)

    def encoded(self, question: Question, country: str, options: bool = True, room: int = 64) -> list[int]:
        """The prompt's tokens, up to where the reply begins."""
        shown = question.lettered() if options else ""
        name = find_country(country).name
        messages = render(self.prompt, country=name, question=question.text, options=shown)
        return self.engine.encode(role_pairs(messages), room)

    def label_weights(self, prompt: list[int], labels: Sequence[str]) -> tuple[float, ...]:
        """Log-probability of every label after the tokens."""
        self.tokens += len(prompt)
        return tuple(self.engine.option_logprobs(self.part, prompt, labels).result().logprobs)

    def text_logps(self, prompt: list[int], texts: Sequence[str]) -> list[tuple[float, int]]:
        """Of each text as the reply: summed log-probability, and its tokens."""
        scores = []
        for text in texts:
            ids = self.engine.tokenizer(text, add_special_tokens=False)["input_ids"]
            self.tokens += len(prompt) + len(ids)
            scores.append(self.engine.sequence_logprob(self.part, [*prompt, *ids], len(prompt)).result())
        return scores

    def reply(self, prompt: list[int], temperature: float, most: int, seed: int) -> str:
        """A reply of at most so many tokens. Raises what the engine raises."""
        pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.engine.generate(Generation(self.part, prompt, temperature, most, seed, pieces.put, alone=True))
        text, count = [], 0
        while True:
            piece = pieces.get()
            if piece.error is not None:
                raise piece.error
            text.append(piece.text)
            count += 1
            if piece.finish_reason:
                self.tokens += len(prompt) + count
                return "".join(text)

    @torch.inference_mode()
    def vector(self, text: str) -> Any:
        """Mean of the base's last hidden states over a text's tokens, kept. (hidden)"""
        if text not in self._vectors:
            ids = self.engine.tokenizer(text or EMPTY, add_special_tokens=False)["input_ids"]
            self.tokens += len(ids)
            base = Part.parse("base", self.engine.manifest)
            with self.engine.colours.use([base.mode]):
                states = self.engine.model.model(input_ids=torch.tensor([ids])).last_hidden_state
            self._vectors[text] = states[0].mean(0).numpy()
        return self._vectors[text]


def labels(elicitor: Elicitor, question: Question, country: str) -> tuple[float, ...] | None:
    """Exact labels."""
    return elicitor.label_weights(elicitor.encoded(question, country), question.labels)


def prefilled(elicitor: Elicitor, question: Question, country: str) -> tuple[float, ...] | None:
    """Labels after `PREFIX`."""
    begun = elicitor.engine.tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
    return elicitor.label_weights([*elicitor.encoded(question, country), *begun], question.labels)


def text_sum(elicitor: Elicitor, question: Question, country: str) -> tuple[float, ...] | None:
    """Likelihood of the options' texts."""
    scores = elicitor.text_logps(elicitor.encoded(question, country), question.options)
    return tuple(total for total, _ in scores)


def text_mean(elicitor: Elicitor, question: Question, country: str) -> tuple[float, ...] | None:
    """The same, a token."""
    scores = elicitor.text_logps(elicitor.encoded(question, country), question.options)
    return tuple(total / count for total, count in scores)


def text_pmi(elicitor: Elicitor, question: Question, country: str) -> tuple[float, ...] | None:
    """The same, against the text's likelihood without the question."""
    scores = elicitor.text_logps(elicitor.encoded(question, country), question.options)
    empty = elicitor.encoded(Question(EMPTY, question.options), country, options=False)
    alone = elicitor.text_logps(empty, question.options)
    return tuple(total - without for (total, _), (without, _) in zip(scores, alone, strict=True))


def verbalised(elicitor: Elicitor, question: Question, country: str) -> tuple[float, ...] | None:
    """Shares as the model writes them; None unless every option has one and they are not all 0."""
    request = Question(
        f"{question.text}\nWrite the share of people for every letter, such as A: 40%, B: 60%.",
        question.options,
    )
    prompt = elicitor.encoded(request, country, room=SHARES_TOKENS)
    return written_shares(elicitor.reply(prompt, 0.0, SHARES_TOKENS, elicitor.seed), question.labels)


def written_shares(reply: str, names: Sequence[str]) -> tuple[float, ...] | None:
    """Log-shares out of a text: each letter's first number; None unless all are there and some is above 0."""
    by_label: dict[str, float] = {}
    for match in SHARE.finditer(reply):
        by_label.setdefault(match["label"], float(match["share"]))
    shares = [by_label[name] for name in names if name in by_label]
    if len(shares) < len(names) or not sum(shares):
        return None
    return tuple(math.log(max(share / sum(shares), LEAST_SHARE)) for share in shares)


def sampling(elicitor: Elicitor, question: Question, country: str) -> tuple[float, ...] | None:
    """Counts of replies that name an option; None when none does."""
    prompt = elicitor.encoded(question, country, room=SAMPLE_TOKENS)
    counts = [0] * len(question.options)
    for number in range(elicitor.samples):
        place = option_in(elicitor.reply(prompt, 1.0, SAMPLE_TOKENS, elicitor.seed + number), question)
        if place is not None:
            counts[place] += 1
    return tuple(math.log(count + SMOOTHING) for count in counts) if any(counts) else None


def embedding(elicitor: Elicitor, question: Question, country: str) -> tuple[float, ...] | None:
    """Cosine of a free answer to the options; None for an empty answer. A temperature must make it shares."""
    prompt = elicitor.encoded(Question(question.text), country, options=False, room=FREE_TOKENS)
    answer = elicitor.reply(prompt, 0.0, FREE_TOKENS, elicitor.seed).strip()
    if not answer:
        return None
    anchors = np.array([elicitor.vector(option) for option in question.options])
    centre = anchors.mean(0)
    towards = elicitor.vector(answer) - centre
    sides = anchors - centre
    norms = np.linalg.norm(sides, axis=1) * np.linalg.norm(towards)
    return tuple((sides @ towards / np.maximum(norms, 1e-12)).tolist())


READOUTS: Mapping[str, Callable[[Elicitor, Question, str], tuple[float, ...] | None]] = {
    "labels": labels,
    "prefilled": prefilled,
    "text-sum": text_sum,
    "text-mean": text_mean,
    "text-pmi": text_pmi,
    "verbalised": verbalised,
    "sampling": sampling,
    "embedding": embedding,
}


def as_distribution(weights: Sequence[float]) -> Distribution:
    """Log-weights, normalised: the reading as it is."""
    top = max(weights)
    return Distribution.from_counts([math.exp(max(weight - top, -60)) for weight in weights])
