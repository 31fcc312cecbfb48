"""Tiny random bases with each architecture's full configuration, and adapters that move them by a lot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KEYS = ("africa", "america", "asia", "europe", "oceania")
FFN = ("gate_proj", "up_proj", "down_proj")
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
# name: (configuration class, model type, what makes the architecture itself)
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"rope_parameters": LLAMA3, "max_position_embeddings": 512, "head_dim": 32}),
    "mistral": ("MistralConfig", {"sliding_window": 24, "head_dim": 32, "max_position_embeddings": 512}),
    "qwen2": ("Qwen2Config", {"rope_parameters": YARN, "max_position_embeddings": 256}),
    "qwen3": ("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True, "max_position_embeddings": 256}),
}


def make_base(name: str, folder: Path, tokenizer_from: Path) -> Path:
    """A random base of that architecture, biases and norms too, with a tokenizer and generation settings."""
    import torch
    import transformers

    kind, own = BASES[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_from)
    torch.manual_seed(11)
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer), num_key_value_heads=2, bos_token_id=None, rms_norm_eps=1e-5,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **SIZES | own,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # as made, biases are 0 and norms 1: a merge that lost them would not be seen
        for key, weight in model.named_parameters():
            if "norm" in key or "bias" in key:
                weight.add_(torch.randn_like(weight) * 0.2)
            elif "self_attn" in key:  # attention that looks at something: lost RoPE scaling then shows
                weight.mul_(10)
    model.generation_config.temperature, model.generation_config.do_sample = 0.7, True
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer_from / file).is_file():
            shutil.copy2(tokenizer_from / file, folder / file)
    return folder


def make_adapter(base: Path, out: Path, seed: int, targets: Sequence[str] = FFN, **settings: Any) -> Path:
    """A random LoRA adapter over `base`, as PEFT saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": list(targets)} | settings)
    model = get_peft_model(plain, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(out)
    return out


def change_config(folder: Path, file: str = "config.json", **changes: Any) -> None:
    """Overwrite fields of a JSON file."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
