"""LoRA folders as low-rank changes: equal to PEFT where they are read, refused by name where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402

from cultural_palette.moerges.adapters import read_adapter, stack  # noqa: E402
from cultural_palette.moerges.peft_settings import AdapterError, check_settings  # noqa: E402
from tests.training.merge_models import FFN, change_config, make_adapter, make_base  # noqa: E402

ATTENTION = ("q_proj", "o_proj")


@pytest.fixture(scope="module")
def base(tiny: tuple[Any, Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base("llama", tmp_path_factory.mktemp("adapters") / "base", tiny[2])


def merged(base: Path, adapter: Path) -> dict[str, Any]:
    """The weights as PEFT merges them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return dict(PeftModel.from_pretrained(plain, adapter).merge_and_unload().state_dict())


def plain(base: Path) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    return dict(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict())


READ: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"up_proj": 2, r"layers\.1\.mlp\.down_proj": 7},
        "alpha_pattern": {r"model.layers.0.mlp.gate_proj": 32},
    },
    "some layers": {"layers_to_transform": [1]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "B not zero at first": {"init_lora_weights": False},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "dropout": {"lora_dropout": 0.5},
}


@pytest.mark.parametrize("settings", READ.values(), ids=READ.keys())
def test_what_is_read_is_what_peft_merges(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = make_adapter(base, tmp_path / "a", 1, [*FFN, *ATTENTION], **settings)
    adapter, before, after = read_adapter(folder), plain(base), merged(base, folder)
    changes = {**adapter.ffn, **adapter.attention}
    assert changes and any("q_proj" in name for name in changes)
    for name, weight in before.items():
        expected = after[name] - weight
        change = changes.get(name.removesuffix(".weight"))
        delta = torch.zeros_like(weight) if change is None else change.delta()
        assert torch.allclose(delta, expected, atol=1e-6), name


def test_eva_s_ranks_and_scaling_are_read(base: Path, tmp_path: Path) -> None:
    """EVA chooses A from data and leaves the base alone, so its adapters are W + B A like any other."""
    folder = make_adapter(base, tmp_path / "a", 1, rank_pattern={"up_proj": 6}, alpha_pattern={"up_proj": 12})
    change_config(folder, "adapter_config.json", init_lora_weights="eva", eva_config={"rho": 2.0})
    delta = read_adapter(folder).ffn["model.layers.0.mlp.up_proj"].delta()
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.allclose(delta, merged(base, folder)[name] - plain(base)[name], atol=1e-6)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_initialisations_that_change_the_base_are_refused(base: Path, tmp_path: Path, init: str) -> None:
    folder = make_adapter(base, tmp_path / "a", 1, init_lora_weights=init)
    with pytest.raises(AdapterError, match=f"init_lora_weights = '{init}'.*path_initial_model_for_weight"):
        read_adapter(folder)


def test_pissa_as_plain_w_plus_b_a_would_be_wrong(base: Path, tmp_path: Path) -> None:
    """What the refusal saves from: on this adapter W + B A is off by a third of the change and more."""
    folder = make_adapter(base, tmp_path / "a", 1, init_lora_weights="pissa")
    expected = merged(base, folder)["model.layers.0.mlp.up_proj.weight"]
    change_config(folder, "adapter_config.json", init_lora_weights=True)
    before = plain(base)["model.layers.0.mlp.up_proj.weight"]
    got = before + read_adapter(folder).ffn["model.layers.0.mlp.up_proj"].delta()
    assert (got - expected).norm() > 0.3 * (expected - before).norm()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pissa": ({"init_lora_weights": "pissa"}, "plain LoRA"),
    "olora": ({"init_lora_weights": "olora"}, "plain LoRA"),
    "corda": ({"init_lora_weights": "corda"}, "plain LoRA"),
    "lora_ga": ({"init_lora_weights": "lora_ga"}, "plain LoRA"),
    "loftq": ({"init_lora_weights": "loftq"}, "give it as the base"),
    "an initialisation to come": ({"init_lora_weights": "tomorrow"}, "plain LoRA"),
    "dora": ({"use_dora": True}, "--dense"),
    "alora": ({"alora_invocation_tokens": [1, 2]}, "train the adapter without"),
    "lora_bias": ({"lora_bias": True}, "bias of its own"),
    "bias": ({"bias": "all"}, "biases"),
    "trainable tokens": ({"trainable_token_indices": [5]}, "embedding"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "whole modules"),
    "layer replication": ({"layer_replication": [[0, 2], [1, 2]]}, "replicated model"),
    "fan_in_fan_out": ({"fan_in_fan_out": True}, "transposed"),
    "bare parameters": ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "bare parameters"),
    "qalora": ({"use_qalora": True}, "not known here"),
    "a setting to come": ({"use_tomorrow": {"a": 1}}, "not known here"),
    "another method": ({"peft_type": "IA3"}, "only LoRA"),
    "a number for a flag": ({"init_lora_weights": 1}, "init_lora_weights = 1"),
    "text for rslora": ({"use_rslora": "false"}, "it is true or false"),
    "an initialisation in capitals": ({"init_lora_weights": "PiSSA"}, "plain LoRA"),
    "velora": ({"velora_config": {"rank": 1}}, "not known here"),
    "monteclora": ({"monteclora_config": {"n": 1}}, "not known here"),
    "block-diagonal": ({"use_bdlora": {"n": 2}}, "not known here"),
    "arrow": ({"arrow_config": {"k": 1}}, "not known here"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_name_the_setting_and_the_way_out(changes: dict[str, Any], words: str) -> None:
    config = {"peft_type": "LORA", "init_lora_weights": True, "use_dora": False, "qalora_group_size": 16}
    (setting,) = changes
    with pytest.raises(AdapterError, match=f"(?s)some/folder has {setting} = .*{words}.*The way out|{words}"):
        check_settings(config | changes, Path("some/folder"))


def test_every_setting_that_peft_writes_today_is_known(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=4, target_modules=["up_proj"], task_type="CAUSAL_LM").to_dict()
    config["peft_type"] = "LORA"
    check_settings(config, tmp_path)


def test_an_agent_needs_all_of_its_adapter_and_a_moerges_only_the_ffn(base: Path, tmp_path: Path) -> None:
    folder = make_adapter(base, tmp_path / "a", 1, [*FFN, "q_proj", "lm_head"])
    with pytest.raises(AdapterError, match=r"changes lm_head too"):
        read_adapter(folder)
    adapter = read_adapter(folder, ffn_only=True)
    assert "lm_head" in adapter.left_out
    attention = {f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)}
    assert set(adapter.stays_out_of_moerges) == attention | set(adapter.left_out)
    saved = make_adapter(base, tmp_path / "b", 1, modules_to_save=["lm_head"])
    with pytest.raises(AdapterError, match="modules_to_save"):
        read_adapter(saved)
    assert read_adapter(saved, ffn_only=True).left_out == ("lm_head.weight",)
    without = make_adapter(base, tmp_path / "c", 1, ["q_proj"])
    assert read_adapter(without).ffn == {}
    with pytest.raises(AdapterError, match="changes no FFN projection"):
        read_adapter(without, ffn_only=True)


def test_keys_with_the_adapter_s_name_are_read(base: Path, tmp_path: Path) -> None:
    """Some tools save PEFT's state dict as it is in memory: `lora_A.default.weight`."""
    folder = make_adapter(base, tmp_path / "a", 1)
    before = read_adapter(folder)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({k.replace(".weight", ".default.weight"): v for k, v in tensors.items()}, file)
    after = read_adapter(folder)
    assert before.ffn.keys() == after.ffn.keys()
    assert all(torch.equal(before.ffn[name].delta(), after.ffn[name].delta()) for name in before.ffn)
    both = {k.replace(".weight", f".{name}.weight"): v.clone() for k, v in tensors.items() for name in "xy"}
    save_file(both, file)
    with pytest.raises(AdapterError, match=r"several adapters \(x, y\)"):
        read_adapter(folder)


def test_files_that_are_not_whole(base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"has no adapter_config\.json"):
        read_adapter(tmp_path)
    folder = make_adapter(base, tmp_path / "a", 1)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(name for name in tensors if "lora_B" in name)
    save_file({k: v for k, v in tensors.items() if k != first}, file)
    with pytest.raises(AdapterError, match="lora_A only; the file is not whole"):
        read_adapter(folder)
    save_file(tensors | {first: tensors[first] * float("nan")}, file)
    with pytest.raises(AdapterError, match="not finite"):
        read_adapter(folder)
    save_file(tensors, file)
    change_config(folder, "adapter_config.json", r=16)
    with pytest.raises(AdapterError, match=r"has rank 4 in adapter_model\.safetensors and 16"):
        read_adapter(folder)
    change_config(folder, "adapter_config.json", r=4, lora_alpha=[])
    with pytest.raises(AdapterError, match=r"lora_alpha of .* is \[\]"):
        read_adapter(folder)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(AdapterError, match="Is the download complete"):
        read_adapter(folder)
    file.rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match="pickle"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(AdapterError, match="can not be read"):
        read_adapter(folder)


def test_stacked_changes_are_padded_with_nothing(base: Path, tmp_path: Path) -> None:
    folder = make_adapter(base, tmp_path / "a", 1)
    change = read_adapter(folder).ffn["model.layers.0.mlp.up_proj"]
    a, b = stack([None, change], 96, 64)
    assert a.shape == (2, 4, 64) and b.shape == (2, 4, 96)
    assert torch.equal(b[1].T @ a[1], change.delta()) and not a[0].any()
