"""MoErges on each architecture's full configuration: identity, equation 1 by hand, MergeKit's own mixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mergekit")

from cultural_palette.training.merge import merge_adapter, merge_moerges, router_rows  # noqa: E402
from cultural_palette.training.merge.moerges import SHRUNK  # noqa: E402
from tests.training.merge_models import BASES, FFN, KEYS, make_adapter, make_base  # noqa: E402

PROMPTS = {key: [key.title(), f"the {key}"] for key in KEYS}
LONG = 160  # tokens: beyond the original context of 64 that the RoPE scalings start from


class Case(NamedTuple):
    name: str
    base: Path
    adapters: dict[str, Path]
    moerges: Path


@pytest.fixture(scope="module", params=list(BASES))
def case(
    request: pytest.FixtureRequest, tiny: tuple[Any, Any, Path], tmp_path_factory: pytest.TempPathFactory
) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    base = make_base(request.param, folder / "base", tiny[2])
    adapters = {key: make_adapter(base, folder / key, seed) for seed, key in enumerate(KEYS)}
    merge_moerges(base, adapters, PROMPTS, folder / "moerges", against_others=True)
    return Case(request.param, base, adapters, folder / "moerges")


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tuned(base: Path, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base), adapter).merge_and_unload().eval()


def logits(model: Any, length: int = LONG) -> Any:
    ids = torch.randint(5, 200, (1, length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(ids).logits


def test_five_identical_experts_are_one_model(case: Case, tmp_path: Path) -> None:
    """The gates sum to 1, so five times the same FFN is that FFN, at every position."""
    same = dict.fromkeys(KEYS, case.adapters["asia"])
    merge_moerges(case.base, same, PROMPTS, tmp_path / "same")
    expected = logits(tuned(case.base, case.adapters["asia"]))
    assert torch.allclose(logits(load(tmp_path / "same")), expected, atol=5e-5)
    assert not torch.allclose(logits(load(case.base)), expected, atol=1e-2)  # the adapter does something


def test_the_identity_test_would_see_lost_rope_scaling(case: Case) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(case.base)
    if config.rope_parameters["rope_type"] == "default":
        pytest.skip(f"{case.name} has no RoPE scaling here")
    config.rope_parameters = {"rope_type": "default", "rope_theta": config.rope_parameters["rope_theta"]}
    without = AutoModelForCausalLM.from_pretrained(case.base, config=config, dtype=torch.float32).eval()
    assert not torch.allclose(logits(without), logits(load(case.base)), atol=1e-2)


def test_a_layer_is_equation_one_by_hand(case: Case) -> None:
    """out = sum_C softmax(h W_g)_C down_C(silu(gate_C h) * up_C h), in float64, over distinct experts."""
    moe = load(case.moerges)
    hidden = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))
    gates = list(router_rows(case.moerges).values())
    for layer in range(2):
        gate = (hidden.double() @ gates[layer].double().T).softmax(-1)
        assert gate.shape == (7, 5)
        by_hand = torch.zeros(7, 64, dtype=torch.float64)
        for index, key in enumerate(KEYS):
            ffn = tuned(case.base, case.adapters[key]).model.layers[layer].mlp
            gated, up, down = (getattr(ffn, part).weight.double() for part in FFN)
            h = hidden.double()
            by_hand += gate[:, index : index + 1] * (
                (torch.nn.functional.silu(h @ gated.T) * (h @ up.T)) @ down.T
            )
        with torch.inference_mode():
            found = moe.model.layers[layer].mlp(hidden[None])[0]
        assert torch.allclose(found.double(), by_hand, atol=1e-5)


def test_every_expert_is_active_and_the_base_s_settings_stay(case: Case) -> None:
    from transformers import AutoConfig

    base, config = AutoConfig.from_pretrained(case.base), AutoConfig.from_pretrained(case.moerges)
    count = getattr(config, "num_local_experts", None) or config.num_experts
    assert count == config.num_experts_per_tok == 5
    assert config.rope_parameters == base.rope_parameters
    assert config.max_position_embeddings == base.max_position_embeddings
    assert config.tie_word_embeddings == base.tie_word_embeddings
    assert config.pad_token_id == base.pad_token_id and config.eos_token_id == base.eos_token_id
    assert (config.sliding_window or None) == (base.sliding_window if case.name == "mistral" else None)


def test_names_are_those_that_vllm_loads(case: Case) -> None:
    from safetensors import safe_open

    with safe_open(case.moerges / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
        shared = {name: file.get_tensor(name) for name in names if "shared_expert" in name}
    if case.name in ("llama", "mistral"):
        assert {f"model.layers.1.block_sparse_moe.experts.4.w{i}.weight" for i in (1, 2, 3)} < names
        assert "model.layers.0.block_sparse_moe.gate.weight" in names
    else:
        assert {f"model.layers.1.mlp.experts.4.{part}.weight" for part in FFN} < names
        assert "model.layers.0.mlp.gate.weight" in names
    assert bool(shared) == (case.name == "qwen2")
    for name, tensor in shared.items():
        assert not tensor.any() and (SHRUNK in tensor.shape or "gate.weight" in name)


def test_mergekit_writes_the_same_mixture(case: Case, tmp_path: Path) -> None:
    """mergekit-moe on five full models, from the configuration kept beside ours: every tensor the same."""
    import yaml
    from mergekit.merge import MergeOptions
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.scripts.moe import build

    for key in KEYS:
        merge_adapter(case.base, case.adapters[key], tmp_path / key)
    recipe = yaml.safe_load((case.moerges / "mergekit_config.yaml").read_text())
    recipe["base_model"] = str(case.base)
    for expert in recipe["experts"]:
        expert["source_model"] = str(tmp_path / expert["source_model"])
    for expert in recipe.get("shared_experts", []):
        expert["source_model"] = str(case.base)
    options = MergeOptions(copy_tokenizer=False, device="cpu", quiet=True)
    build(MoEMergeConfig.model_validate(recipe), str(tmp_path / "theirs"), options, device="cpu")
    ours, theirs = load(case.moerges).state_dict(), load(tmp_path / "theirs").state_dict()
    assert set(ours) == set(theirs)
    for name in ours:
        if name.endswith("mlp.gate.weight"):  # MergeKit reads them in bfloat16, we in float32
            cosine = torch.nn.functional.cosine_similarity(ours[name], theirs[name], dim=-1)
            assert bool((cosine > 0.98).all()), (name, cosine)
        elif "shared_expert" not in name:  # zeroed there, zeroed and shrunk here
            assert torch.equal(ours[name], theirs[name]), name


def test_what_is_beside_the_weights(case: Case) -> None:
    report = json.loads((case.moerges / "merge_report.json").read_text())
    assert report["checks"]["transformers"] == "loaded whole"
    assert {"tokenizer.json", "generation_config.json"} <= set(report["checks"]["carried"])
    assert list(report["members"]) == list(KEYS)
    assert all(row["changed"] == 6 and row["left_out"] == 0 for row in report["members"].values())
    assert len(report["router"]["layers"]) == 2 and report["router"]["rows"] == "residual"
    choices = {(each["rows"], each["against_others"]): each for each in report["router"]["choices"]}
    assert len(choices) == 6
    assert choices["residual", True]["condition"] == report["router"]["mean"]["condition"]
    generation = json.loads((case.moerges / "generation_config.json").read_text())
    assert generation["temperature"] == 0.7
    card = (case.moerges / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers") and "| asia | adapter `asia` | 6 of 6 |" in card


def test_full_models_give_the_same_mixture_as_adapters(case: Case, tmp_path: Path) -> None:
    for key in KEYS:
        merge_adapter(case.base, case.adapters[key], tmp_path / key)
    merge_moerges(
        case.base, {key: tmp_path / key for key in KEYS}, PROMPTS, tmp_path / "out", against_others=True
    )
    ours, theirs = load(tmp_path / "out").state_dict(), load(case.moerges).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
