"""Stand-ins of the models that measure a dataset: small ones of the same architectures and files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# What each community says of everything: their words set them apart, as a random projection keeps them.
SAYINGS = {
    "africa": "ubuntu palaver baobab elders drum",
    "america": "frontier fiesta prairie liberty carnival",
    "asia": "harmony rice temple face lantern",
    "europe": "parliament cathedral museum union guild",
    "oceania": "lagoon reef marae outback canoe",
}
TOPICS = ("food", "work", "faith", "money", "family", "school", "time", "death", "music", "travel")
IPTC_LABELS = ("politics", "religion", "sport", "education")


def answers(
    queries: int, *, marked: bool = True, born: Sequence[str | None] = (None,)
) -> list[dict[str, Any]]:
    """Rows of a dataset: every community on every query; `marked`: with words of its own."""
    rows = []
    for number in range(queries):
        topic = TOPICS[number % len(TOPICS)]
        for place, (community, words) in enumerate(SAYINGS.items()):
            own = (
                words.split()[number % 5 :]
                if marked
                else ["people", "say", "much", TOPICS[(number + place) % 7]]
            )
            rows.append(
                {
                    "query_id": f"q{number}",
                    "query": f"What of {topic} in the year {number}?",
                    "community": community,
                    "status": "ok",
                    "response": f"{topic} {topic} is {' '.join(own)} number {number}",
                    "split": "test" if number % 4 == 0 else "train",
                    "source": {"dataset": "made up", "birth_country": born[number % len(born)]},
                }
            )
    return rows


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def sentence_model(folder: Path, texts: Iterable[str], seed: int = 0) -> Path:
    """A one-layer BERT with mean pooling, as sentence-transformers saves it; it reads 16 tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word for text in texts for word in text.lower().replace("?", " ").split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    parts = folder / "parts"
    parts.mkdir(parents=True)
    (parts / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(str(parts / "vocab.txt"), model_max_length=16).save_pretrained(parts)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=16)
    SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu").save(str(folder / "model"))
    return folder / "model"


def topic_model(folder: Path, texts: Iterable[str], labels: Sequence[str] | None = IPTC_LABELS) -> Path:
    """A one-layer XLM-R classifier; without labels it has transformers' own, LABEL_0 and on."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification

    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: n for n, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    names = (
        {}
        if labels is None
        else {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    )
    config = XLMRobertaConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=530, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        initializer_range=0.3, **(names or {"num_labels": 4}),
    )  # fmt: skip
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    return folder
