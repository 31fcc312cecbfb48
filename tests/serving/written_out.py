"""MoErges as it is defined, from a palette's files alone: nothing of our layer or plug-in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file  # noqa: E402
from torch.nn.functional import linear  # noqa: E402

PARTS = ("gate", "up", "down")


class WrittenOut(torch.nn.Module):
    """Whole FFNs, W + s B A each, summed under the router's softmax; `weights` of the last pass stay."""

    def __init__(self, base: Any, rows: Any, bias: Any, deltas: list[dict[str, Any]]) -> None:
        super().__init__()
        self.base, self.rows, self.bias, self.deltas = base, rows, bias, deltas

    def forward(self, x: Any) -> Any:
        self.weights = (x.float() @ self.rows.T + self.bias).softmax(-1)
        out = 0
        for index, delta in enumerate(self.deltas):
            gate, up = (self._through(x, part, delta) for part in ("gate", "up"))
            expert = self._through(self.base.act_fn(gate) * up, "down", delta)
            out = out + expert * self.weights[..., index : index + 1]
        return out

    def _through(self, x: Any, part: str, delta: dict[str, Any]) -> Any:
        base = getattr(self.base, f"{part}_proj")
        return linear(x, base.weight + delta[part] if part in delta else base.weight, base.bias)


def written_out(base: Path, adapters: Mapping[str, Path], rows_LCH: Any, bias_LC: Any) -> Any:
    """The mixture as a transformers model, float32. Rows and biases: a layer, a community."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    stored = [
        (
            load_file(folder / "adapter_model.safetensors"),
            json.loads((folder / "adapter_config.json").read_text()),
        )
        for folder in adapters.values()
    ]
    for number, layer in enumerate(model.model.layers):
        deltas = []
        for tensors, config in stored:
            delta = {}
            for part in PARTS:
                name = f"base_model.model.model.layers.{number}.mlp.{part}_proj.lora_"
                if f"{name}A.weight" in tensors:
                    a, b = tensors[f"{name}A.weight"].float(), tensors[f"{name}B.weight"].float()
                    delta[part] = b @ a * (config["lora_alpha"] / a.shape[0])
            deltas.append(delta)
        layer.mlp = WrittenOut(layer.mlp, rows_LCH[number].float(), bias_LC[number].float(), deltas)
    return model


def nano_written_out(router: str | None = None) -> Any:
    """The nano palette's, under a router by name; None: the one that it goes by."""
    from cultural_palette.embedded.manifest import read_manifest

    nano = read_manifest("nano")
    stored, name = load_file(nano.router), router or nano.blend
    return written_out(nano.base, nano.adapters, stored[f"{name}.rows"], stored[f"{name}.bias"])
