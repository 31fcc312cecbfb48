"""A base model, and the data as its tokenizer reads it, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from cultural_palette.moerges.quantised import quantised_by, why_not
from cultural_palette.training.jobs import JOINT, Job
from cultural_palette.training.orpo_settings import TrainingError
from cultural_palette.training.preferences import read_groups
from cultural_palette.training.sequences import TokenGroup, encode_group
from cultural_palette.training.share_questions import joined, read_share_questions, shown_questions
from cultural_palette.training.share_tokens import encode_shown

LONGEST_REASON = 300


def check_base(base: str) -> None:
    """Refuse a base that transformers does not know, that is no causal LM or that has no chat template.

    Raises TrainingError.
    """
    _refuse_quantised(base, quantised_by(Path(base)))
    try:
        config, tokenizer = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    except Exception as error:  # transformers is foreign code, and a config or tokenizer may hold anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST_REASON]
        raise TrainingError(f"base {base!r} can not be loaded: {reason}") from None
    _refuse_quantised(base, getattr(config, "quantization_config", None))  # of the hub's
    named = config.architectures if isinstance(config.architectures, list) else []
    if not any(str(name).endswith("ForCausalLM") for name in named):
        kind = ", ".join(map(str, named)) or "of no named kind"
        raise TrainingError(f"base {base!r} is {kind}, no causal LM")
    if not tokenizer.chat_template:
        raise TrainingError(f"base {base!r} has no chat template: take an instruction-tuned one")


def _refuse_quantised(base: str, method: Any) -> None:
    """Raise TrainingError for a base stored quantised: adapters of it would be merged over plain weights."""
    if method:
        named = method.get("quant_method") if isinstance(method, dict) else method
        raise TrainingError(why_not(base, str(named), "an adapter trained on them"))


def check_tokens(jobs: Sequence[Job]) -> None:
    """Tokenise every group and question of these jobs once, as training will, and refuse what would stop a
    job later.

    Raises PreferenceRowError with file and line: a prompt that the chat template refuses, an answer that is
    nothing but end tokens, a frame longer than max_length allows; TrainingError for a token that the base's
    embedding has not.
    """
    if not jobs:
        return
    job = jobs[0]
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    embedded = AutoConfig.from_pretrained(job.base).get_text_config().vocab_size
    agents = {job.agent for job in jobs}
    checked: set[tuple[str, tuple[str, ...]]] = set()  # one group of a row that has every community's answer
    for community, groups in (read_groups(job.data, job.communities) if job.data else {}).items():
        if not agents & {community, JOINT}:
            continue
        for group in groups:
            key = repr(group["prompt"]), tuple(sorted((group["chosen"], *group["rejected"])))
            if key not in checked:
                checked.add(key)
                tokens = encode_group(tokenizer, group, job.settings.max_length)
                _check_embedded(tokenizer, tokens, group.get("place", "row"), embedded, job.base)
    if job.shares:
        for question in joined(read_share_questions(job.shares, job.communities)):
            for shown in shown_questions([question], 1, 0, 0):
                tokens = encode_shown(tokenizer, shown, job.settings.max_length).group
                _check_embedded(tokenizer, tokens, question.place, embedded, job.base)


def _check_embedded(tokenizer: Any, tokens: TokenGroup, place: str, embedded: int, base: str) -> None:
    highest = max(tokens.prompt + sum(tokens.answers, ()))
    if highest >= embedded:
        raise TrainingError(
            f"{place}: token {highest} ({tokenizer.decode([highest])!r}) of the tokenizer of {base!r} is not "
            f"among the {embedded:,} that the model embeds: take the tokenizer that belongs to it, or resize "
            "the embedding"
        )
