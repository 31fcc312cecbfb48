"""Sentence embeddings by the sentence-transformers library; multilingual MiniLM unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer

from cultural_palette.embedded.quiet import hide_progress_bars
from cultural_palette.training.pentachromatic.separation.vectors import Vectors, identity_of, model_folder

MINILM = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"


class SentenceEncoder:
    """A sentence-transformers model, by hub name or folder. Loads only when there is something to encode.

    `limit`: tokens it reads of a text; the rest is cut off (128 for the default model).
    """

    def __init__(self, model: str = MINILM, device: str | None = None, batch: int = 64) -> None:
        self.name = model
        self.folder = model_folder(model)
        self.identity = identity_of(self.folder)
        self._device, self._batch = device, batch
        self._model: SentenceTransformer | None = None

    @property
    def limit(self) -> int | None:
        """Tokens it reads of a text; None when the model sets no limit."""
        return self._loaded().max_seq_length

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, Sequence[int]]:
        """(N, D) embeddings as the model gives them, not normalised, and lengths in tokens."""
        model = self._loaded()
        vectors = model.encode(
            list(texts), batch_size=self._batch, convert_to_numpy=True, show_progress_bar=False
        )
        tokens = model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return np.asarray(vectors, dtype=np.float32), [len(ids) for ids in tokens]

    def _loaded(self) -> SentenceTransformer:
        if self._model is None:
            hide_progress_bars()
            self._model = SentenceTransformer(str(self.folder), device=self._device)
        return self._model
