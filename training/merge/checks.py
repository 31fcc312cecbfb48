"""What a result must pass before it gets its name: members moved it, all experts are active, it loads."""

from __future__ import annotations

import importlib.util
import logging
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from cultural_palette.training.merge.checkpoint import MergeError, read_json

LOG = logging.getLogger(__name__)
WHOLE_BYTES = 2_000_000_000  # results up to this size are loaded whole; of larger ones, the first layer
PROBES = ("Hello, world!", "  two  spaces\n", "naïve 東京 🙂", "<|im_start|>user</s>")
VLLM_TIMEOUT_S = 1800
VLLM_PROBE = (
    "import sys; from vllm import LLM, SamplingParams; "
    "model = LLM(sys.argv[1], max_model_len=64, enforce_eager=True); "
    "model.generate(['hello'], SamplingParams(max_tokens=1)); print('loaded')"
)


class Moved:
    """How far tensors went: counts, and the change's size relative to the base's (Frobenius norms)."""

    def __init__(self) -> None:
        self.tensors = self.changed = self.left_out = 0
        self._change = self._size = 0.0

    def add(self, name: str, size: float, change: float) -> None:
        """Count one tensor by its norm in the base and the norm of its change; both must be finite."""
        if not math.isfinite(size + change):
            raise MergeError(
                f"{name} has values that are not finite, in the base or in one of the communities."
            )
        self.tensors += 1
        self.changed += change != 0
        self._size += size**2
        self._change += change**2

    def require(self, path: Path, what: str) -> None:
        """Raise MergeError when nothing moved."""
        if not self.changed:
            aside = f" It changes {self.left_out} others, which stay out." if self.left_out else ""
            raise MergeError(f"{path} changes no {what} of the base: it would be the base itself.{aside}")

    def figures(self) -> dict[str, Any]:
        """Tensors seen and changed, those left out (attention and the like), and the relative change."""
        relative = (self._change / self._size) ** 0.5 if self._size else 0.0
        return {
            "tensors": self.tensors, "changed": self.changed, "left_out": self.left_out,
            "relative_change": round(relative, 8),
        }  # fmt: skip


def all_active(folder: Path, count: int) -> None:
    """Raise MergeError unless the configuration has `count` experts and sends every token to all of them."""
    config = read_json(folder / "config.json")
    experts = config.get("num_local_experts", config.get("num_experts"))
    active = config.get("num_experts_per_tok")
    if (experts, active) != (count, count):
        raise MergeError(
            f"{count} communities, but the merge has {experts} experts, {active} of them active."
        )
    if config.get("norm_topk_prob") is False:
        raise MergeError("The merge's router does not normalise its weights.")


def check(
    folder: Path, base: Path, size_bytes: int, carried: Sequence[str], *, vllm: bool = False
) -> dict[str, Any]:
    """Load the result and say what was checked. Values were found finite when written.

    `vllm`: try it there too, where vLLM is installed. Raises MergeError when a tensor is missing or
    misshapen.
    """
    results: dict[str, Any] = {"finite": True, "carried": list(carried)}
    results["transformers"] = _load(folder, whole=size_bytes <= WHOLE_BYTES)
    results["tokenizer"] = _tokenizer(base, folder, carried)
    results["vllm"] = _load_in_vllm(folder) if vllm and importlib.util.find_spec("vllm") else None
    return results


def _load(folder: Path, *, whole: bool) -> str:
    """transformers takes every tensor (of the first layer, for a large model) and gives finite logits."""
    config = AutoConfig.from_pretrained(folder)
    if not whole:
        config.num_hidden_layers = 1
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:1]
    with _quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, output_loading_info=True)
    model, loading = loaded
    wrong = sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]]))
    if whole:
        wrong += sorted(map(str, loading["unexpected_keys"]))
    if wrong:
        raise MergeError(f"transformers does not take the result as it is: {', '.join(wrong[:5])}.")
    with torch.inference_mode():
        logits = model.eval()(torch.arange(1, 9)[None] % config.vocab_size).logits
    if not bool(logits.isfinite().all()):
        raise MergeError("The result's logits are not finite.")
    return "loaded whole" if whole else "first layer loaded"


def _tokenizer(base: Path, folder: Path, carried: Sequence[str]) -> str | None:
    """The result's tokenizer is the base's, though transformers goes by the model type. None without one."""
    if not any(name.startswith(("tokenizer", "vocab")) for name in carried):
        return None
    ours, theirs = (AutoTokenizer.from_pretrained(source) for source in (folder, base))
    for text in PROBES:
        if ours.encode(text) != theirs.encode(text):
            raise MergeError(f"The result's tokenizer reads {text!r} otherwise than the base's.")
    for what in ("chat_template", "eos_token_id", "pad_token_id"):
        if getattr(ours, what) != getattr(theirs, what):
            raise MergeError(f"The result's tokenizer has lost the base's {what}.")
    return "with chat template" if ours.chat_template else "without chat template"


def _load_in_vllm(folder: Path) -> str:
    """In a process of its own, since vLLM keeps what it takes."""
    command = [sys.executable, "-c", VLLM_PROBE, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=VLLM_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise MergeError(f"vLLM did not load the result within {VLLM_TIMEOUT_S} s.") from None
    if done.returncode or "loaded" not in done.stdout:
        last = done.stderr.strip().splitlines()[-3:]
        raise MergeError(f"vLLM does not load the result: {' '.join(last)}")
    return "loaded"


class _quiet:
    """transformers lists a large model's other layers as unexpected; we ask for one layer on purpose."""

    def __enter__(self) -> None:
        self.before = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self.before)
