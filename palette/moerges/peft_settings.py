"""Which settings of a PEFT LoRA leave the adapted weight W + B A exactly, and what rank and scaling they say.

An allowlist: a setting that is not known here to leave that form exact is refused by name with the way out,
and so is one that a later PEFT invents. No torch is needed, so whoever merges, serves or plays an adapter can
ask before anything is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cultural_palette.errors import PaletteError
from cultural_palette.jsonl import parse_json

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
FFN = re.compile(r"model\.layers\.\d+\.mlp\.(gate|up|down)_proj")
WITHIN_FFN = re.compile(r"model\.layers\.\d+\.mlp\.")
FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<name>(?!weight$|bias$)[^.]+))?(?:\.weight)?"
)
"""A stored factor's name. PEFT leaves the adapter's name out; some tools save it as it is in memory."""

LARGEST, LONGEST_SHOWN = 1e9, 80
"""What no rank and no alpha reaches; characters of a value in a message."""

# Settings that say where, how and by whom was trained, and change nothing about W + B A. Rank, scaling and
# patterns are read; the sub-configurations of an initialisation count only under `init_lora_weights`.
FREE = frozenset(
    [
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
        "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config",
        "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version",
        "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type",
    ]
)  # fmt: skip
# Settings that must have one of these values. Initialisations: those that leave the base's weights alone.
EXACT: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
    "peft_type": ("LORA",),
    "use_rslora": (True, False, None),
}
# Settings of modules outside the FFN: a MoErges can do without them, an agent can not.
OUTSIDE = frozenset(["modules_to_save", "trainable_token_indices", "ensure_weight_tying"])
FULL_MODEL = (
    "merge it with PEFT (merge_and_unload) and give the full model, which the dense way (--dense) takes"
)
CONVERT = (
    "save it again as a plain LoRA (PEFT: save_pretrained with path_initial_model_for_weight_conversion), "
    f"or {FULL_MODEL}"
)
REASONS: dict[str, tuple[str, str]] = {
    "use_dora": ("DoRA scales each weight column by a learned length, which does not factor", FULL_MODEL),
    "alora_invocation_tokens": (
        "an activated LoRA acts only after its invocation tokens, so no weights of a model equal it",
        "train the adapter without them",
    ),
    "lora_bias": ("B has a bias of its own", "train it without lora_bias, or, if PEFT can, " + FULL_MODEL),
    "bias": ("it trains the base's biases too", FULL_MODEL),
    "fan_in_fan_out": ("its weights are stored transposed, for Conv1D layers", FULL_MODEL),
    "layer_replication": (
        "its layers are copies of the base's, so their numbers are not the base's",
        "build the replicated model, save it as a base, and train on that",
    ),
    "modules_to_save": ("whole modules were trained beside the low-rank ones", FULL_MODEL),
    "trainable_token_indices": ("rows of the embedding were trained too", FULL_MODEL),
    "target_parameters": ("it changes bare parameters, such as those of experts", FULL_MODEL),
    "init_lora_weights": ("that initialisation takes B A off the base's weights before training", CONVERT),
    "peft_type": ("only LoRA is a low-rank change of this form", FULL_MODEL),
    "use_rslora": ("it is true or false", f"write in {CONFIG} what the adapter was trained with"),
}
LOFTQ = (
    "LoftQ trains over a quantised base of its own",
    f"save that base with PEFT and give it as the base, or {FULL_MODEL}",
)


class AdapterError(PaletteError):
    """An adapter that is not whole, is for another base, or is not W + B A."""


def read_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json`. Raises AdapterError: not there, not readable, not an object."""
    path = folder / CONFIG
    try:
        raw = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise AdapterError(f"{folder} has no {CONFIG}; is it an adapter's folder?") from None
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} can not be read: {error}") from None
    if not isinstance(raw, dict):
        raise AdapterError(f"{path}: expected a JSON object, found {type(raw).__name__}.")
    return raw


def check_settings(
    config: Mapping[str, Any], folder: Path, *, tolerated: frozenset[str] = frozenset()
) -> None:
    """Raise AdapterError when a setting is not known to leave W + B A exact. `tolerated`: passed."""
    for setting, value in config.items():
        if setting in tolerated or setting in FREE - EXACT.keys():
            continue
        if setting in EXACT:
            if any(type(value) is type(fine) and value == fine for fine in EXACT[setting]):
                continue
        elif value is None or value is False or value in ({}, []):
            continue
        why, way_out = REASONS.get(
            setting, ("a setting of PEFT that is not known here, so W + B A may not be exact", FULL_MODEL)
        )
        if setting == "init_lora_weights" and value == "loftq":
            why, way_out = LOFTQ
        raise AdapterError(f"{folder} has {setting} = {_shown(value)}: {why}. The way out: {way_out}.")
    for setting in ("base_model_name_or_path", "revision"):
        if not isinstance(named := config.get(setting), str | None):
            raise AdapterError(f"{folder}: {setting} is {_shown(named)} in {CONFIG}; expected a text.")
    targets = config.get("target_modules")
    if isinstance(targets, bool) or not isinstance(targets, list | set | str | None):
        raise AdapterError(f"{folder}: target_modules is {_shown(targets)} in {CONFIG}; expected names.")
    if config.get("peft_type") is None:
        raise AdapterError(f"{folder}: {CONFIG} has no peft_type; only LoRA adapters are read.")


def rank_of(config: Mapping[str, Any], folder: Path, module: str) -> int:
    """The rank that the settings say for a module ("model.layers.0.mlp.up_proj"). Raises AdapterError."""
    rank = _setting(config, folder, "rank_pattern", "r", module)
    if rank != int(rank):
        raise AdapterError(f"{folder}: r of {module} is {rank!r} in {CONFIG}; expected a whole number.")
    return int(rank)


def scaling_of(config: Mapping[str, Any], folder: Path, module: str) -> float:
    """What B A is multiplied with: alpha / rank, or alpha / sqrt(rank) by rsLoRA. Raises AdapterError."""
    rank, alpha = (
        rank_of(config, folder, module),
        _setting(config, folder, "alpha_pattern", "lora_alpha", module),
    )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _setting(config: Mapping[str, Any], folder: Path, pattern: str, default: str, module: str) -> float:
    """PEFT's rule: the first pattern that matches the module's name at its end, else the default."""
    patterns = config.get(pattern) or {}
    setting = config.get(default)
    if not isinstance(patterns, dict):
        raise AdapterError(f"{folder}: {pattern} is {patterns!r}; expected an object of names and numbers.")
    for key, value in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({key})$", module)
        except (re.error, OverflowError) as error:
            raise AdapterError(f"{folder}: {pattern} has {key!r}, no regular expression: {error}.") from None
        if matches:
            setting = value
            break
    if isinstance(setting, bool) or not isinstance(setting, int | float) or not 0 < setting < LARGEST:
        raise AdapterError(
            f"{folder}: {default} of {module} is {_shown(setting)} in {CONFIG}; expected a positive number."
        )
    return float(setting)


def _shown(value: object) -> str:
    """A value of a configuration, short enough for a line."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def find_weights(folder: Path) -> Path:
    """The adapter's weights. Raises AdapterError when they are not there, or are a pickle."""
    path = folder / WEIGHTS
    if not path.is_file():
        if (folder / PICKLED).is_file():
            raise AdapterError(
                f"{folder} has {PICKLED}, a pickle file, which can run code and is not read: load it with "
                f"PEFT where you trust it and save it again as {WEIGHTS}."
            )
        raise AdapterError(f"{folder} has no {WEIGHTS}.")
    return path
