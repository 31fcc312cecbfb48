"""MoErges on a tiny model with random adapters: on the disk, and as the engine puts it together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mergekit")

from cultural_palette.moerges.adapters import read_adapter  # noqa: E402
from cultural_palette.moerges.dense import router_weights, written_out  # noqa: E402
from cultural_palette.moerges.model import install  # noqa: E402
from cultural_palette.moerges.modes import Routed  # noqa: E402
from cultural_palette.moerges.router import load_routers  # noqa: E402
from cultural_palette.training.merge import merge_moerges, router_rows  # noqa: E402

KEYS = ("north", "south", "east")


@pytest.fixture(scope="module")
def merged(
    tiny: tuple[Any, Any, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Path], Path]:
    """(base, adapters, MoErges) with adapters that move the FFN by a lot."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    _, _, base = tiny
    folder = tmp_path_factory.mktemp("merged")
    adapters = {}
    for index, key in enumerate(KEYS):
        torch.manual_seed(index)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            LoraConfig(r=4, lora_alpha=8, target_modules=["gate_proj", "up_proj", "down_proj"]),
        )
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        model.save_pretrained(folder / key)
        adapters[key] = folder / key
    merge_moerges(base, adapters, {key: [key, f"the {key}"] for key in KEYS}, folder / "moerges")
    return base, adapters, folder / "moerges"


def logits(model: Any, ids: Any) -> Any:
    with torch.inference_mode():
        return model(ids).logits


def test_every_expert_is_active_and_the_base_files_come_along(
    merged: tuple[Path, dict[str, Path], Path],
) -> None:
    _, _, moerges = merged
    config = json.loads((moerges / "config.json").read_text())
    assert config["num_local_experts"] == config["num_experts_per_tok"] == len(KEYS)
    assert (moerges / "tokenizer.json").is_file() and (moerges / "mergekit_config.yaml").is_file()
    assert set(router_rows(moerges)) == {f"model.layers.{i}.block_sparse_moe.gate.weight" for i in range(2)}


def test_the_merge_is_equation_one_by_hand(merged: tuple[Path, dict[str, Path], Path]) -> None:
    """One layer's output = sum over communities of softmax(h W_g) times that community's FFN."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, adapters, moerges = merged
    moe = AutoModelForCausalLM.from_pretrained(moerges, dtype=torch.float32)
    hidden = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))
    rows = router_rows(moerges)["model.layers.1.block_sparse_moe.gate.weight"]
    weights = (hidden @ rows.float().T).softmax(-1)
    by_hand = torch.zeros_like(hidden)
    for index, key in enumerate(KEYS):
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        expert = PeftModel.from_pretrained(plain, adapters[key]).merge_and_unload().model.layers[1].mlp
        with torch.no_grad():
            by_hand += weights[:, index : index + 1] * expert(hidden)
    with torch.no_grad():
        assert torch.allclose(moe.model.layers[1].mlp(hidden[None])[0], by_hand, atol=1e-5)


def test_assembled_in_memory_is_the_checkpoint(
    merged: tuple[Path, dict[str, Path], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    base, adapters, moerges = merged
    save_file({k: v.float() for k, v in router_rows(moerges).items()}, tmp_path / "router.safetensors")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    colours = install(plain, {key: read_adapter(adapters[key]) for key in KEYS})
    router = load_routers(tmp_path / "router.safetensors")["paper"]
    colours.add_router("paper", router)
    ours = written_out(colours, router)
    theirs = AutoModelForCausalLM.from_pretrained(moerges, dtype=torch.float32)
    ids = torch.randint(
        5, 200, (1, 300), generator=torch.Generator().manual_seed(0)
    )  # beyond the original 256 too
    assert torch.allclose(logits(ours, ids), logits(theirs, ids), atol=1e-5)
    weights = router_weights(ours, {"input_ids": ids}, torch.ones_like(ids))
    assert weights.shape == (2, 3) and torch.allclose(weights.sum(1), torch.ones(2), atol=1e-5)
    with colours.use([Routed("paper")], torch.ones_like(ids)) as batch, torch.inference_mode():
        coloured = plain(input_ids=ids).logits
    assert torch.allclose(coloured, logits(theirs, ids), atol=1e-5)
    assert torch.allclose(batch.router_weights()[0], weights, atol=1e-5)


def test_identical_experts_are_the_base(
    tiny: tuple[Any, Any, Path], merged: tuple[Path, dict[str, Path], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    _, model, base = tiny
    same = dict.fromkeys(KEYS, merged[1]["north"])
    merge_moerges(base, same, {key: [key] for key in KEYS}, tmp_path / "same")
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), same["north"]
    )
    moe = AutoModelForCausalLM.from_pretrained(tmp_path / "same", dtype=torch.float32)
    ids = torch.randint(5, 200, (1, 40), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(logits(moe, ids), logits(tuned, ids), atol=1e-5)
    assert not torch.allclose(logits(model, ids), logits(tuned, ids), atol=1e-2)  # the adapter does something
