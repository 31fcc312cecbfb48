"""A base model checked before anything is trained on it."""

from __future__ import annotations

from transformers import AutoConfig, AutoTokenizer

from cultural_palette.training.orpo_settings import TrainingError


def check_base(base: str) -> None:
    """Refuse a base that transformers does not know, that is no causal LM or that has no chat template.

    Raises TrainingError.
    """
    try:
        config, tokenizer = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f"base {base!r} can not be loaded: {reason}") from None
    if not any(name.endswith("ForCausalLM") for name in config.architectures or ()):
        raise TrainingError(
            f"base {base!r} is {', '.join(config.architectures or ['of no named kind'])}, no causal LM"
        )
    if not tokenizer.chat_template:
        raise TrainingError(f"base {base!r} has no chat template: take an instruction-tuned one")
