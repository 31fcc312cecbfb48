"""Whether a model folder's weights are stored quantised. Read off JSON and headers; no torch is needed.

Over such weights no arithmetic of ours is right: without their scales the numbers mean nothing. Servers read
them with the library that made them; merging, training and the embedded engine want the plain model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cultural_palette.jsonl import JsonFault, read_object
from cultural_palette.moerges.headers import Header, headers_of

SETTINGS = ("quantization_config", "compression_config", "quantization")
"""Fields of config.json: transformers', compressed-tensors' older one, MLX's."""
OWN_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")
"""Of ModelOpt, AutoGPTQ, AutoAWQ and torchao, which may stand beside a config that says nothing."""
STORED = (
    *(".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".weight_packed", ".input_scale", ".qweight"),
    *(".qzeros", ".scales", ".weight.absmax", ".weight.quant_state", ".SCB", ".codebooks"),
)
"""Ends of tensors' names that hold scales or packed weights."""
PLAIN = ("BF16", "F16", "F32", "F64")


def quantised_by(folder: Path) -> str | None:
    """What quantised the weights in a model folder: a method's name, the file or the tensor that tells it;
    None for plain weights. What can not be read tells nothing.
    """
    return _by_config(_object(folder / "config.json")) or _by_file(folder) or _by_tensors(folder)


def why_not(folder: Path | str, method: str, what: str) -> str:
    """The refusal, with the way out. `what`: what its weights can not be used for."""
    return (
        f"{folder} is quantised ({method}): its tensors are no weights without their scales, so {what} would "
        "give another model. Take the model as it was before, or dequantise it with the library that made it "
        "(transformers: model.dequantize()) and save that."
    )


def _by_config(config: Mapping[str, Any]) -> str | None:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name in SETTINGS:
            if value := part.get(name):
                method = value
                if isinstance(value, dict):
                    method = value.get("quant_method") or value.get("quant_algo") or name
                return str(method)
    return None


def _by_file(folder: Path) -> str | None:
    return next((name for name in OWN_FILES if (folder / name).is_file()), None)


def _by_tensors(folder: Path) -> str | None:
    for file in sorted(folder.glob("*.safetensors")):
        try:
            headers = headers_of(file)
        except (OSError, ValueError):
            continue
        if method := _method_of(headers):
            return method
    return None


def _method_of(headers: Mapping[str, Header]) -> str | None:
    """The tensor that tells it: by its name, or as a weight that is no plain float."""
    for name, header in headers.items():
        if name.endswith(STORED):
            return f"it holds {name}"
        if name.endswith(".weight") and header.dtype not in PLAIN:
            return f"{name} is {header.dtype}"
    return None


def _object(file: Path) -> Mapping[str, Any]:
    try:
        return read_object(file, nan=True)
    except (OSError, JsonFault):
        return {}
