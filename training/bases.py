"""A base model, and the data as its tokenizer reads it, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cultural_palette.moerges.headers import headers_of
from cultural_palette.moerges.quantised import quantised_by, why_not
from cultural_palette.training.jobs import JOINT, Job
from cultural_palette.training.orpo_settings import TrainingError
from cultural_palette.training.preferences import read_groups
from cultural_palette.training.sequences import TokenGroup, encode_group, end_token, first_line
from cultural_palette.training.share_questions import joined, read_share_questions, shown_questions
from cultural_palette.training.share_tokens import encode_shown

COUNTS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
)  # fmt: skip
MOST, MOST_LAYERS = 10**8, 10_000
"""What no model's sizes reach, and no model's layers: to build such a one would take for ever."""


def check_base(base: str) -> None:
    """Refuse a base that transformers does not know, that is no causal LM, that has no chat template or one
    that can not be rendered, whose sizes make no model or are not those of its weights.

    Raises TrainingError with the file, the field and its value.
    """
    _refuse_quantised(base, quantised_by(Path(base)))
    try:
        config, tokenizer = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    except Exception as error:  # transformers is foreign code, and a config or tokenizer may hold anything
        raise TrainingError(f"base {base!r} can not be loaded: {first_line(error)}") from None
    _refuse_quantised(base, getattr(config, "quantization_config", None))  # of the hub's
    named = config.architectures if isinstance(config.architectures, list) else []
    if not any(str(name).endswith("ForCausalLM") for name in named):
        kind = ", ".join(map(str, named)) or "of no named kind"
        raise TrainingError(f"base {base!r} is {kind}, no causal LM")
    if not tokenizer.chat_template:
        raise TrainingError(f"base {base!r} has no chat template: take an instruction-tuned one")
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or longest < 1:
        raise TrainingError(
            f"base {base!r}: model_max_length in tokenizer_config.json is {longest!r}; expected a number "
            "from 1"
        )
    try:
        end_token(tokenizer, str(tokenizer.chat_template))
    except TrainingError as error:
        raise TrainingError(f"base {base!r}: {error}") from None
    _check_sizes(base, config.get_text_config())
    _check_shares(base, config.get_text_config())
    _check_weights(base, config)


def _check_sizes(base: str, config: Any) -> None:
    for name in COUNTS:
        size = getattr(config, name, None)
        most = MOST_LAYERS if name == "num_hidden_layers" else MOST
        if size is not None and (
            isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most
        ):
            raise TrainingError(
                f"base {base!r}: {name} in config.json is {size!r}; expected a whole number from 1 to "
                f"{most:,}"
            )
    heads, shared = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    if shared and heads % shared:
        raise TrainingError(
            f"base {base!r}: num_attention_heads {heads} in config.json can not be shared out to "
            f"num_key_value_heads {shared}"
        )


def _check_shares(base: str, config: Any) -> None:
    """Dropouts are 0 to 1, what rotary positions are divided by is above 0."""
    rope = getattr(config, "rope_parameters", None)
    parts = [rope, *rope.values()] if isinstance(rope, dict) else []  # some have one for each kind of layer
    above_0 = [
        (f"rope_parameters.{name}", part.get(name))
        for part in parts
        if isinstance(part, dict)
        for name in ("rope_theta", "factor")
    ]
    dropouts = [(k, v) for k, v in config.to_dict().items() if k.endswith(("dropout", "_pdrop"))]
    for name, value in (*above_0, *dropouts):
        low, high = (0, 1) if name.endswith(("dropout", "_pdrop")) else (1e-9, 1e15)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and low <= value <= high):
            raise TrainingError(
                f"base {base!r}: {name} in config.json is {value!r}; expected "
                + ("0 to 1" if high == 1 else "a number above 0")
            )


def _check_weights(base: str, config: Any) -> None:
    """Raise TrainingError where the configuration makes no model, or one of other shapes than the weights in
    the folder (those that the hub will send are not looked at).
    """
    build: Any = AutoModelForCausalLM.from_config
    try:
        with torch.device("meta"):
            model = build(config)
    except Exception as error:  # transformers is foreign code, and a config may hold anything
        raise TrainingError(
            f"base {base!r}: config.json makes no model: {type(error).__name__}: {first_line(error)}"
        ) from None
    folder = Path(base)
    if not folder.is_dir():
        return
    files = sorted(folder.glob("model*.safetensors"))
    if not files and not any(folder.glob("pytorch_model*.bin")):
        raise TrainingError(f"base {base!r} has no weights: no model.safetensors, no model-*.safetensors")
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    for file in files:
        try:
            headers = headers_of(file)
        except (OSError, ValueError) as error:
            raise TrainingError(f"{file} can not be read: {error}. Is the download complete?") from None
        for name, header in headers.items():
            if name in shapes and shapes[name] != header.shape:
                raise TrainingError(
                    f"base {base!r}: {name} is {_times(header.shape)} in {file.name} and would be "
                    f"{_times(shapes[name])} by config.json: one of the two is another model's"
                )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


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
