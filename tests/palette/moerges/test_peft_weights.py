"""What a LoRA's file holds against what its settings say, for every door alike: merging, serving, playing.

No torch: names and shapes are read off the header.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cultural_palette.moerges.headers import headers_of
from cultural_palette.moerges.peft_settings import AdapterError, scaling_of
from cultural_palette.moerges.peft_weights import stored_lora

UP, HEAD = "model.layers.0.mlp.up_proj", "lm_head"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


def pair(module: str = UP, rank: int = 4, name: str = "") -> dict[str, Any]:
    stem = f"base_model.model.{module}.lora_"
    sides = {"A": np.zeros((rank, 6), np.float32), "B": np.zeros((9, rank), np.float32)}
    return {f"{stem}{side}{name}.weight": tensor for side, tensor in sides.items()}


def lora(folder: Path, tensors: dict[str, Any], **config: Any) -> Any:
    save_file(tensors, folder / "adapter_model.safetensors")
    return stored_lora(folder, CONFIG | config)


READ: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, float]]] = {
    "plain": (pair(), {}, (4, 2.0)),
    "rslora": (pair(), {"use_rslora": True}, (4, 4.0)),
    "rslora with patterns": (
        pair(rank=2), {"use_rslora": True, "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"mlp.*": 6}},
        (2, 6 / 2**0.5)),
    "a pattern that begins with ^": (
        pair(rank=2), {"rank_pattern": {"^model.layers.0.mlp.up_proj": 2}}, (2, 4.0)),
    "a pattern of another module": (pair(), {"rank_pattern": {"p_proj": 2}}, (4, 2.0)),
    "the first pattern that matches": (
        pair(rank=3), {"rank_pattern": {r"layers\.\d+\.mlp\..*": 3, "up_proj": 2}}, (3, 8 / 3)),
    "the adapter's name in the keys": (pair(name=".default"), {}, (4, 2.0)),
    "a fraction for alpha": (pair(), {"lora_alpha": 0.5}, (4, 0.125)),
    "patterns that are null": (pair(), {"rank_pattern": None, "alpha_pattern": None}, (4, 2.0)),
}  # fmt: skip


@pytest.mark.parametrize("case", READ.values(), ids=READ.keys())
def test_rank_and_scaling_are_pefts(tmp_path: Path, case: Any) -> None:
    tensors, config, expected = case
    stored = lora(tmp_path, tensors, **config)
    assert stored.factors[UP].rank == expected[0] and stored.factors[UP].shape == (9, 6)
    assert scaling_of(CONFIG | config, tmp_path, UP) == pytest.approx(expected[1])


ONE = np.ones(9, np.float32)
BESIDE = "beside the factors of model.layers.0.mlp.up_proj, so W . B A is not exact"
NUMBER = "expected a positive number"
BENT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # what the file holds, whatever the settings say
    "a length of DoRA": (pair() | {f"base_model.model.{UP}.lora_magnitude_vector": ONE}, {}, BESIDE),
    "a bias of B": (pair() | {f"base_model.model.{UP}.lora_B.bias": ONE}, {}, BESIDE),
    "a bias of the base": (pair() | {f"base_model.model.{UP}.bias": ONE}, {}, BESIDE),
    "the module whole too": (pair() | {f"base_model.model.{UP}.weight": np.ones((9, 6))}, {}, BESIDE),
    "another method's vector": (pair() | {f"base_model.model.{UP}.lora_E": ONE}, {}, BESIDE),
    "two adapters": (pair(name=".x") | pair(name=".y"), {}, r"several adapters \(x, y\)"),
    "one factor": (dict(list(pair().items())[:1]), {}, "lora_A only; the file is not whole"),
    "ranks that differ": (
        pair() | {f"base_model.model.{UP}.lora_B.weight": np.zeros((9, 3))}, {}, "A .4, 6. and lora_B .9, 3"),
    "three axes": (
        pair() | {f"base_model.model.{UP}.lora_B.weight": np.zeros((9, 4, 1))}, {}, "lora_B .9, 4, 1."),
    # settings that are another adapter's, or none
    "another r": (pair(), {"r": 16}, "has rank 4 in adapter_model.safetensors and 16 in adapter_config.json"),
    "another rank by pattern": (pair(), {"rank_pattern": {"up_proj": 2}}, "has rank 4 .* and 2 in"),
    "no r": (pair(), {"r": None}, f"r of .* is None in adapter_config.json; {NUMBER}"),
    "r as a list": (pair(), {"r": [4]}, rf"r of .* is \[4\] in .*{NUMBER}"),
    "r as text": (pair(), {"r": "4"}, NUMBER),
    "r as a truth": (pair(), {"r": True}, NUMBER),
    "r a fraction": (pair(), {"r": 4.5}, "expected a whole number"),
    "r endless": (pair(), {"r": 10**400}, r"is 1000.*\.\.\. in"),
    "alpha as a list": (pair(), {"lora_alpha": [8]}, rf"lora_alpha of .*up_proj is \[8\] in .*{NUMBER}"),
    "alpha as text": (pair(), {"lora_alpha": "8"}, NUMBER),
    "no alpha": (pair(), {"lora_alpha": None}, NUMBER),
    "alpha 0": (pair(), {"lora_alpha": 0}, NUMBER),
    "alpha below 0": (pair(), {"lora_alpha": -8}, NUMBER),
    "alpha nan": (pair(), {"lora_alpha": float("nan")}, NUMBER),
    "alpha endless": (pair(), {"lora_alpha": float("inf")}, NUMBER),
    "a pattern's text": (pair(), {"alpha_pattern": {"up_proj": "8"}}, NUMBER),
    "a list of patterns": (pair(), {"alpha_pattern": ["up_proj"]}, "expected an object of names and numbers"),
    "patterns as text": (pair(), {"rank_pattern": "up_proj"}, "expected an object of names and numbers"),
    "no regular expression": (pair(), {"rank_pattern": {"(up": 4}}, "no regular expression"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "config", "said"), BENT.values(), ids=BENT.keys())
def test_what_is_not_w_plus_b_a_by_its_file_is_refused(
    tmp_path: Path, tensors: dict[str, Any], config: dict[str, Any], said: str
) -> None:
    with pytest.raises(AdapterError, match=said):
        lora(tmp_path, tensors, **config)


def test_a_head_saved_along_with_its_own_base_is_no_fault(tmp_path: Path) -> None:
    """PEFT saves the base's tensor beside the factors of a head or an embedding."""
    name = f"base_model.model.{HEAD}.base_layer.weight"
    stored = lora(tmp_path, pair() | pair(HEAD) | {name: np.ones((9, 6), np.float32)})
    assert list(stored.others.items()) == [(f"{HEAD}.base_layer.weight", name)]


def header(fields: Any, data: bytes = b"") -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


T = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
NO_FILE: dict[str, bytes] = {
    "nothing": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    "a page": b"<!DOCTYPE html><html>Sign in</html>",
    "a length beyond the file": struct.pack("<Q", 2**63),
    "a list": header([]),
    "nested without end": header(b"[" * 50_000),
    "no JSON": header(b"{"),
    "a tensor that is a list": header({"t": []}),
    "a tensor without a shape": header({"t": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234"),
    "a shape of texts": header({"t": T | {"shape": ["1"]}}, b"1234"),
    "a shape below 0": header({"t": T | {"shape": [-1]}}, b"1234"),
    "an offset too much": header({"t": T | {"data_offsets": [0, 4, 5]}}, b"1234"),
    "no dtype": header({"t": T | {"dtype": 3}}, b"1234"),
    "cut short": header({"t": T}, b"123"),
    "more than it says": header({"t": T}, b"12345"),
}


@pytest.mark.parametrize("data", NO_FILE.values(), ids=NO_FILE.keys())
def test_a_file_that_is_no_whole_safetensors_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(data)
    with pytest.raises(ValueError):
        headers_of(file)
    with pytest.raises(AdapterError, match=r"adapter_model.safetensors can not be read: .*complete"):
        stored_lora(tmp_path, CONFIG)


def test_a_header_is_read_as_safetensors_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(
        {"a": np.zeros((2, 3), np.float16), "b": np.zeros((), np.int8)}, file, metadata={"format": "pt"}
    )
    assert {name: (one.dtype, one.shape) for name, one in headers_of(file).items()} == {
        "a": ("F16", (2, 3)), "b": ("I8", ()),
    }  # fmt: skip
