"""A two-layer model with a tokenizer of its own, made in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """(tokenizer, model, folder): a Llama of two layers at head size 32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from cultural_palette.training.nano.base import train_tokenizer

    folder: Path = tmp_path_factory.mktemp("tiny")
    tokenizer = train_tokenizer(["hello good day bad night a b c d word yes indeed"] * 10, folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return tokenizer, model, folder
