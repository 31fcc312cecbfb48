"""The nano base: a byte-level BPE tokenizer and a Llama of about 4.5 million parameters, tuned on dialogues.

There is no pre-training on other text: the model has read nothing but the atlas' dialogues.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from cultural_palette.training.seeding import seeded
from cultural_palette.training.sequences import IGNORED, encode, pad

VOCABULARY = 4096
last_checkpoint: Any = get_last_checkpoint  # transformers leaves these three without types
generation_config: Any = GenerationConfig
fast_tokenizer: Any = PreTrainedTokenizerFast
WINDOW = 2048  # positions; RoPE, trained on up to about 700
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def train_tokenizer(texts: Iterable[str], out: Path) -> Any:
    """Byte-level BPE over the dialogues' own text, saved with the chat template. Any text can be written."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = fast_tokenizer(
        tokenizer_object=bpe,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(SPECIAL[2:]),
        model_max_length=WINDOW,
        padding_side="left",
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(out)
    return tokenizer


def new_model(tokenizer: Any) -> Any:
    """A fresh Llama at the nano's shape, from torch's generator. `head_dim` 32 is vLLM's least on the CPU."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


class ReplyTrainer(Trainer):
    """Cross-entropy of the replies; the head runs on reply positions only."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean nats a token of the replies, scalar. `inputs`: input_ids, labels, attention_mask (B, L)."""
        states = model.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]
        targets = inputs["labels"][:, 1:]
        of_reply = targets != IGNORED
        return F.cross_entropy(model.lm_head(states[:, :-1][of_reply]).float(), targets[of_reply])


def training_row(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A dialogue's tokens, its labels over the last message, and its length, by which batches are drawn."""
    row = encode(tokenizer, messages[:-1], messages[-1]["content"], WINDOW)
    return {**row, "length": len(row["input_ids"])}


def tune(
    dialogues: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    out: Path,
    *,
    start: Path | None = None,
    seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 2.5e-3,
    epochs: float = 1,
) -> dict[str, float]:
    """Train a fresh model, or the one in `start`, on the dialogues' replies; saved to `out` in float16.

    Resumes from the last checkpoint under `out/checkpoints`; a finished model replaces them.
    """
    rows = [training_row(tokenizer, dialogue["messages"]) for dialogue in dialogues]
    checkpoints = out / "checkpoints"
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        learning_rate=learning_rate,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        warmup_steps=0.03,
        lr_scheduler_type="cosine",
        weight_decay=0.05,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        logging_steps=20,
        save_steps=200,
        save_total_limit=1,
        report_to=[],
        seed=seed,
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    with seeded(seed):
        model: Any = (
            AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
            if start
            else new_model(tokenizer)
        )
        trainer = ReplyTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda batch: pad(batch, tokenizer.pad_token_id),
        )
        trainer.model_accepts_loss_kwargs = False
        last = last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
        result = trainer.train(resume_from_checkpoint=last)
    model.generation_config = generation_config(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=160
    )
    tokenizer.save_pretrained(out)
    model.to(torch.float16).save_pretrained(out)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return {"loss": result.training_loss, "tokens": float(sum(row["length"] for row in rows))}
