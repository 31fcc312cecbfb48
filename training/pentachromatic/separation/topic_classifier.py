"""IPTC's news topics by Kuzman and Ljubešić's classifier, a fine-tuned XLM-R, or by one like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from cultural_palette.embedded.quiet import hide_progress_bars
from cultural_palette.errors import UsageError
from cultural_palette.training.pentachromatic.separation.vectors import Vectors, identity_of, model_folder

IPTC = "classla/multilingual-IPTC-news-topic-classifier"
MOST_TOKENS = 512


class TopicClassifier:
    """A sequence classifier of transformers, by hub name or folder; its labels are the topics."""

    def __init__(self, model: str = IPTC, device: str | None = None, batch: int = 16) -> None:
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
        self._load()
        tokens = [len(ids) for ids in self._tokenizer(list(texts), verbose=False)["input_ids"]]
        order = sorted(range(len(texts)), key=lambda index: -tokens[index])  # little padding in a batch
        probabilities = np.empty((len(texts), len(self.topics)), dtype=np.float32)
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
                probabilities[part] = self._model(**inputs).logits.float().softmax(-1).cpu().numpy()
        return probabilities, tokens

    def _load(self) -> None:
        if self._model is None:
            hide_progress_bars()
            device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._tokenizer = AutoTokenizer.from_pretrained(self.folder)
            self._model = AutoModelForSequenceClassification.from_pretrained(self.folder).to(device).eval()
