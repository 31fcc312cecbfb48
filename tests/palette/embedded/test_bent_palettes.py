"""Palette folders that are bent: refused by file and field before anything is loaded or started."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from cultural_palette.cli import main
from cultural_palette.embedded.manifest import BUILT_IN, read_manifest
from cultural_palette.errors import ModelError, PaletteError
from cultural_palette.serving.devices import described_gpus
from cultural_palette.serving.manifest import ManifestError, read_palette
from cultural_palette.serving.plan import plan_servers

KEYS = ("africa", "asia")
UP = "base_model.model.model.layers.0.mlp.up_proj"
RIGHT: dict[str, Any] = {
    "name": "mine", "map": "continents", "base": "base", "router": "router.safetensors", "blend": "fitted",
    "adapters": {key: key for key in KEYS},
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "max_position_embeddings": 64,
}  # fmt: skip


def write_router(
    folder: Path, rows: tuple[int, ...] = (1, 2, 8), keys: Any = KEYS, name: str = "fitted"
) -> None:
    tensors = {f"{name}.rows": np.zeros(rows, np.float32), f"{name}.bias": np.zeros(rows[:2], np.float32)}
    save_file(tensors, folder / "router.safetensors", metadata={"communities": json.dumps(keys)})


@pytest.fixture
def palette(tmp_path: Path) -> Path:
    """Whole by its files' names and shapes, with no value that a model could be made of."""
    folder = tmp_path / "mine"
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "config.json").write_text(json.dumps(CONFIG))
    save_file({"model.norm.weight": np.zeros(8, np.float32)}, folder / "base" / "model.safetensors")
    for key in KEYS:
        (folder / key).mkdir()
        (folder / key / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
        sides = {"A": np.zeros((2, 8), np.float32), "B": np.zeros((8, 2), np.float32)}
        weights = {f"{UP}.lora_{side}.weight": tensor for side, tensor in sides.items()}
        save_file(weights, folder / key / "adapter_model.safetensors")
    write_router(folder)
    (folder / "manifest.json").write_text(json.dumps(RIGHT))
    return folder


Bend = Callable[[Path], Any]


def field(name: str, value: Any) -> Bend:
    return lambda folder: (folder / "manifest.json").write_text(json.dumps(RIGHT | {name: value}))


def without(name: str) -> Bend:
    left = {key: value for key, value in RIGHT.items() if key != name}
    return lambda folder: (folder / "manifest.json").write_text(json.dumps(left))


MANIFESTS: dict[str, tuple[Bend, str]] = {
    "no object": (lambda f: (f / "manifest.json").write_text("[]"), "expected a JSON object, found list"),
    "nothing": (lambda f: (f / "manifest.json").write_text(""), "not JSON"),
    "no name": (without("name"), "name is .*field required"),
    "no map": (without("map"), "map is .*field required"),
    "no base": (without("base"), "base: it is missing"),
    "a number for the name": (field("name", 3), "name is 3: "),
    "a path for the name": (field("name", "../x"), "name: '../x' can not name a folder"),
    "a name of escapes": (field("name", "a\x1b[31m"), "can not name a folder"),
    "a list of adapters": (field("adapters", ["a"]), r"adapters is \['a'\]: "),
    "no adapters": (field("adapters", {}), "adapters: a palette has at least 2 communities, here are 0"),
    "one adapter": (field("adapters", {"africa": "a"}), "at least 2 communities, here are 1"),
    "numbers for adapters": (field("adapters", {"africa": 1, "asia": 2}), "adapters.africa is 1: "),
    "lists for adapters": (field("adapters", {"africa": ["a"], "asia": "b"}), "adapters.africa is "),
    "a community called meta": (field("adapters", {"meta": "a", "asia": "b"}), "'meta' can be no community"),
    "a key of escapes": (field("adapters", {"\x1b[31m": "a", "asia": "b"}), "can be no community's key"),
    "a number for the router": (field("router", 3), "router is 3: "),
    "a list for the blend": (field("blend", ["paper"]), "blend is "),
    "a list for the scope": (field("scope", [1]), "scope is "),
    "a scope without words": (field("scope", {"countries": [], "options": []}), "scope.words is .*required"),
    "a number for countries": (
        field("scope", {"countries": 3, "words": [], "options": []}), "scope.countries"),
    "sampling of no role": (field("sampling", {"africa": {}}), "sampling.africa"),
    "sampling by text": (
        field("sampling", {"draft": {"max_tokens": "x"}}), "sampling.draft.max_tokens is 'x'"),
    "an unknown sampling": (
        field("sampling", {"meta": {"x": 1}}), "sampling.meta.x: a palette sets max_tokens"),
    "a list about it": (field("about", ["x"]), "about is "),
    "a task that is not there": (
        field("task", "nowhere"), "nowhere/adapter_model.safetensors can not be read"),
}  # fmt: skip


@pytest.mark.parametrize(("bend", "said"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_of_another_shape_is_refused_by_its_field(palette: Path, bend: Bend, said: str) -> None:
    assert read_manifest(str(palette)).communities == KEYS
    bend(palette)
    with pytest.raises(ModelError, match=said) as told:
        read_manifest(str(palette))
    assert "\x1b" not in str(told.value) and "Error(" not in str(told.value)
    done = CliRunner().invoke(main, ["serve", "up", str(palette), "--print"])
    assert done.exit_code in (1, 2) and isinstance(done.exception, SystemExit), done.exception


def put(file: str, data: bytes) -> Bend:
    return lambda folder: (folder / file).write_bytes(data)


def config(**changes: Any) -> Bend:
    return put("base/config.json", json.dumps(CONFIG | changes).encode())


SERVED: dict[str, tuple[Bend, str]] = {
    "an adapter's folder missing": (lambda f: shutil.rmtree(f / "asia"), "asia is not there"),
    "an adapter's weights missing": (
        lambda f: (f / "asia" / "adapter_model.safetensors").unlink(),
        "asia has no adapter_model.safetensors"),
    "an adapter's weights cut": (
        put("asia/adapter_model.safetensors", b"\x10"), "asia/adapter_model.safetensors can not be read"),
    "a pointer for weights": (
        put("asia/adapter_model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        "can not be read"),
    "a list for r": (
        put("asia/adapter_config.json", b'{"peft_type": "LORA", "r": [2]}'), r"r of .* is \[2\]"),
    "router missing": (lambda f: (f / "router.safetensors").unlink(), "router.safetensors can not be read"),
    "router cut": (put("router.safetensors", b"\x10" * 40), "router.safetensors can not be read"),
    "router of others": (
        lambda f: write_router(f, keys=["a", "b"]), "is the router of a, b; the palette has africa"),
    "router in another order": (lambda f: write_router(f, keys=KEYS[::-1]), "is the router of asia, africa"),
    "router of three": (
        lambda f: write_router(f, (1, 3, 8), []), r"'fitted' is \(1, 3, 8\) .* has 2 communities"),
    "router of another kind": (lambda f: write_router(f, keys={"a": 1}), "is the router of {'a': 1}"),
    "no such blend": (lambda f: write_router(f, name="paper"), "has no router 'fitted'; it has paper"),
    "base missing": (lambda f: shutil.rmtree(f / "base"), "base has no config.json|base is not there"),
    "heads below 0": (config(num_attention_heads=-2), "num_attention_heads is -2; expected a whole number"),
    "layers as text": (config(num_hidden_layers="1"), "num_hidden_layers is '1'; expected a whole number"),
    "a window as text": (config(max_position_embeddings="64"), "max_position_embeddings is '64'; expected"),
}  # fmt: skip


@pytest.mark.parametrize(("bend", "said"), SERVED.values(), ids=SERVED.keys())
def test_a_bent_palette_is_refused_before_a_server_is_started(palette: Path, bend: Bend, said: str) -> None:
    bend(palette)
    with pytest.raises(PaletteError, match=said):
        plan_servers(read_palette(str(palette)), described_gpus(1, 80.0))
        done = CliRunner().invoke(main, ["serve", "up", str(palette), "--print", "--device", "cpu"])
        assert isinstance(done.exception, SystemExit), done.exception
        raise ManifestError(done.output)


@pytest.mark.parametrize(
    ("bend", "said"),
    [SERVED[name] for name in SERVED if "missing" in name or "cut" in name or "of others" in name],
)
def test_a_palette_that_is_not_whole_is_not_called_ready(palette: Path, bend: Bend, said: str) -> None:
    done = CliRunner().invoke(main, ["pull", str(palette)])
    assert done.exit_code == 0 and "mine is ready" in done.output, done.output
    bend(palette)
    done = CliRunner().invoke(main, ["pull", str(palette)])
    assert isinstance(done.exception, SystemExit) and re.search(said, done.output), done.output
    assert "is ready" not in done.output


def _router_of_one_layer(folder: Path) -> None:
    write_router(folder, (1, 5, 8), ["africa", "america", "asia", "europe", "oceania"])


PLAYED: dict[str, tuple[Bend, str]] = {
    "an adapter cut": (put("adapters/asia/adapter_model.safetensors", b"\x10" * 90), "complete"),
    "a list for alpha": (
        lambda f: _change(f / "adapters/asia/adapter_config.json", lora_alpha=[8]),
        r"lora_alpha .* is \[8\]"),
    "a router of another base": (_router_of_one_layer, r"\(1, 5, 8\) \(layers, communities, width\)"),
    "base without weights": (lambda f: (f / "base/model.safetensors").unlink(), "base .*can not be loaded"),
    "base with heads below 0": (
        lambda f: _change(f / "base/config.json", num_attention_heads=-2), "base .*can not be loaded"),
}  # fmt: skip


def _change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(("bend", "said"), PLAYED.values(), ids=PLAYED.keys())
def test_a_bent_palette_is_not_played(tmp_path: Path, bend: Bend, said: str) -> None:
    pytest.importorskip("torch")
    from cultural_palette.embedded.engine import Engine

    folder = Path(shutil.copytree(BUILT_IN["nano"], tmp_path / "nano"))
    bend(folder)
    with pytest.raises(PaletteError, match=said):
        Engine(read_manifest(str(folder)))
