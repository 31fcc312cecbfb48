"""What the queries are about: IPTC's news topics by Kuzman and Ljubešić's classifier, a fine-tuned XLM-R.

Its authors advise texts of 75 words and more, and to trust labels from a confidence of 0.90 on. Queries are
shorter: labels below that confidence are counted apart, and so are queries below that length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import UnknownCountry, UsageError
from cultural_palette.training.pentachromatic.separation.texts import GivenAnswer
from cultural_palette.training.pentachromatic.separation.vectors import Vectors, identity_of, model_folder

IPTC = "classla/multilingual-IPTC-news-topic-classifier"
CONFIDENT = 0.90
ADVISED_WORDS = 75
MOST_TOKENS = 512
NOT_TOLD, OUTSIDE = "not_told", "outside_map"


class TopicClassifier:
    """A sequence classifier of transformers, by hub name or folder; its labels are the topics."""

    def __init__(self, model: str = IPTC, device: str | None = None, batch: int = 16) -> None:
        from transformers import AutoConfig

        self.name = model
        self.folder = model_folder(model)
        self.identity = identity_of(self.folder)
        names = AutoConfig.from_pretrained(self.folder).id2label
        self.topics = tuple(str(names[index]) for index in range(len(names)))
        if any(topic == f"LABEL_{index}" for index, topic in enumerate(self.topics)):
            raise UsageError(f"{model} names no topics (LABEL_0, ..): it is no trained topic classifier.")
        self._device, self._batch = device, batch
        self._model: Any = None
        self._tokenizer: Any = None

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, Sequence[int]]:
        """Every topic's probability, (N, topics), and lengths in tokens before cutting."""
        import torch

        self._load()
        tokens = [len(each) for each in self._tokenizer(list(texts), verbose=False)["input_ids"]]
        order = sorted(range(len(texts)), key=lambda index: -tokens[index])  # little padding in a batch
        found = np.empty((len(texts), len(self.topics)), dtype=np.float32)
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            inputs = self._tokenizer(
                [texts[index] for index in part],
                padding=True,
                truncation=True,
                max_length=MOST_TOKENS,
                return_tensors="pt",
            ).to(self._model.device)
            with torch.inference_mode():
                found[part] = self._model(**inputs).logits.float().softmax(-1).cpu().numpy()
        return found, tokens

    def _load(self) -> None:
        if self._model is None:
            import torch
            import transformers
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._tokenizer = AutoTokenizer.from_pretrained(self.folder)
            self._model = AutoModelForSequenceClassification.from_pretrained(self.folder).to(device).eval()


@dataclass(frozen=True)
class Topics:
    """Queries by topic, told apart by the `threshold`. `short`: queries below the advised length."""

    topics: tuple[str, ...]
    confident: Mapping[str, int]
    uncertain: Mapping[str, int]
    threshold: float
    short: int
    queries: int


def topics_of(
    texts: Sequence[str], probabilities: Vectors, names: Sequence[str], threshold: float = CONFIDENT
) -> Topics:
    """Counts of the likeliest topics. `probabilities`: (N, topics)."""
    if not 0 < threshold <= 1:
        raise UsageError(f"--confidence {threshold}: expected more than 0, at most 1")
    best, sure = probabilities.argmax(1), probabilities.max(1) >= threshold
    confident = Counter(names[index] for index in best[sure])
    uncertain = Counter(names[index] for index in best[~sure])
    return Topics(
        tuple(names),
        {name: confident[name] for name in names},
        {name: uncertain[name] for name in names},
        threshold,
        sum(len(text.split()) < ADVISED_WORDS for text in texts),
        len(texts),
    )


def homes_of(queries: Sequence[GivenAnswer], cultural_map: CulturalMap) -> dict[str, int]:
    """Queries by the community where their writer was born; then those not told, or outside the map."""
    counts: Counter[str] = Counter()
    for each in queries:
        try:
            iso3 = find_country(each.birth_country).iso3 if each.birth_country else None
        except UnknownCountry:
            iso3 = None
        home = cultural_map.community_of(iso3) if iso3 else None
        counts[home.key if home else OUTSIDE if each.birth_country else NOT_TOLD] += 1
    return {key: counts[key] for key in (*(c.key for c in cultural_map.communities), NOT_TOLD, OUTSIDE)}
