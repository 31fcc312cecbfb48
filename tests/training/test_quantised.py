"""Weights stored quantised are refused by name, in everything that would calculate on them.

A TIES merge over FP8 tensors without their scales came out with 95 % of its values as the base's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mergekit")

from safetensors.torch import load_file, save_file  # noqa: E402

from cultural_palette.cultural_map import load_map  # noqa: E402
from cultural_palette.embedded import smollm2  # noqa: E402
from cultural_palette.embedded.engine import Engine  # noqa: E402
from cultural_palette.embedded.manifest import BUILT_IN, read_manifest  # noqa: E402
from cultural_palette.errors import PaletteError  # noqa: E402
from cultural_palette.moerges.quantised import quantised_by  # noqa: E402
from cultural_palette.training.bases import check_base  # noqa: E402
from cultural_palette.training.merge import merge_flat, merge_moerges  # noqa: E402
from cultural_palette.training.merge.flat import merge_adapter  # noqa: E402
from cultural_palette.training.merge.palette_folder import write_palette  # noqa: E402
from tests.training.merge_models import change_config  # noqa: E402

CONTINENTS = load_map("continents")
NANO = BUILT_IN["nano"]
ADAPTERS = {c.key: NANO / "adapters" / c.key for c in CONTINENTS.communities}
PROMPTS = {key: [key] for key in ADAPTERS}


def _stored(base: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file = base / "model.safetensors"
    save_file(change(load_file(file)), file)


def _as_fp8(tensors: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to(torch.float8_e4m3fn) if "mlp" in k else v for k, v in tensors.items()}


def _with(base: Path, name: str) -> None:
    _stored(base, lambda tensors: tensors | {f"model.layers.0.mlp.up_proj{name}": torch.ones(1)})


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "FP8, as transformers says it": (
        lambda b: change_config(b, quantization_config={"quant_method": "fp8"}), "(fp8)"),
    "bitsandbytes": (
        lambda b: change_config(b, quantization_config={"quant_method": "bitsandbytes"}), "(bitsandbytes)"),
    "a method that is not named": (
        lambda b: change_config(b, quantization_config={"bits": 4}), "(quantization_config)"),
    "a text, no object": (lambda b: change_config(b, quantization_config="awq"), "(awq)"),
    "compressed-tensors, older": (
        lambda b: change_config(b, compression_config={"quant_method": "compressed-tensors"}),
        "(compressed-tensors)"),
    "MLX": (lambda b: change_config(b, quantization={"bits": 4, "group_size": 64}), "(quantization)"),
    "under text_config": (
        lambda b: change_config(b, text_config={"quantization_config": {"quant_method": "gptq"}}), "(gptq)"),
    "ModelOpt, beside the config": (
        lambda b: (b / "hf_quant_config.json").write_text("{}") and None, "(hf_quant_config.json)"),
    "AutoGPTQ, beside the config": (
        lambda b: (b / "quantize_config.json").write_text("{}") and None, "(quantize_config.json)"),
    "FP8 tensors, the config's word taken out": (lambda b: _stored(b, _as_fp8), "is F8_E4M3)"),
    "scales, the config's word taken out": (lambda b: _with(b, ".weight_scale_inv"), "weight_scale_inv)"),
    "packed weights, the config's word taken out": (lambda b: _with(b, ".qweight"), "qweight)"),
}  # fmt: skip


def _engine(base: Path) -> None:
    folder = base.parent / "palette"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("base"))
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(raw | {"base": str(base)}))
    Engine(read_manifest(str(folder)))


Way = Callable[[Path], Any]
WAYS: dict[str, Way] = {
    "TIES": lambda b: merge_flat("ties", b, ADAPTERS, b.parent / "out"),
    "Model Stock": lambda b: merge_flat("model_stock", b, ADAPTERS, b.parent / "out"),
    "a full model among the members": lambda b: merge_flat(
        "ties", NANO / "base", {**ADAPTERS, "asia": b}, b.parent / "out", any_base=True),
    "MoErges written out": lambda b: merge_moerges(b, ADAPTERS, PROMPTS, b.parent / "out"),
    "MoErges as a palette folder": lambda b: write_palette(
        b, ADAPTERS, CONTINENTS, PROMPTS, b.parent / "out", map_name="continents"),
    "one adapter merged": lambda b: merge_adapter(b, ADAPTERS["asia"], b.parent / "out"),
    "the task adapter of small": lambda b: smollm2.merge_adapter(b, ADAPTERS["asia"], b.parent / "out"),
    "training, task adapter and agents": lambda b: check_base(str(b)),
    "the embedded engine": _engine,
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(NANO / "base", tmp_path / "base"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_quantised_weights_are_refused_by_name(base: Path, way: str, kind: str) -> None:
    spoil, named = KINDS[kind]
    spoil(base)
    with pytest.raises(PaletteError) as refused:
        WAYS[way](base)
    assert f"{base} is quantised (" in str(refused.value) and named in str(refused.value)
    assert "dequantise it with the library that made it" in str(refused.value)
    assert not (base.parent / "out").exists()


def test_plain_weights_are_none_of_that(base: Path) -> None:
    assert quantised_by(base) is None
    change_config(base, quantization_config=None)  # as some tools write it
    assert quantised_by(base) is None
    assert quantised_by(base / "nowhere") is None
