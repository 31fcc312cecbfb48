"""MoErges, agents and base in one batch of a real vLLM engine: each family of bases, compiled, in two ranks.

Small random models, made here; one process of vLLM's for all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from cultural_palette.moerges.router import Router, save_routers
from cultural_palette.serving.devices import core_list, find_device
from cultural_palette.serving.plan import SITE
from cultural_palette.serving.vllm_plugin import ARCHITECTURE
from cultural_palette.serving.vllm_plugin.config import PluginConfig
from tests.serving.written_out import written_out

KEYS = ("north", "east", "south")
LAYERS, HIDDEN, WIDTH, VOCABULARY = 2, 64, 160, 320
SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
BASES: dict[str, Any] = {
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZE, attention_bias=True, mlp_bias=True)
    ),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SIZE, sliding_window=None)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZE)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZE)),
}
EXACT = 2e-5
NO_CHANGE = SITE.parent / "no_change"


def cores() -> tuple[int, ...]:
    return find_device("cpu").cores


def make_base(family: str, home: Path) -> Path:
    torch.manual_seed(len(family))
    model = BASES[family]()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.25)  # biases as well, and far from linear
    folder = home / family
    model.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, rank: int, targets: list[str]) -> Path:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(rank)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Family -> its palette, and "llama, compiled" and "llama, two ranks"."""
    home = tmp_path_factory.mktemp("families")
    found: dict[str, Any] = {}
    ffn = ["gate_proj", "up_proj", "down_proj"]
    for family in BASES:
        base = make_base(family, home)
        # Ranks differ, one leaves a projection alone, one changes attention too, which stays out of MoErges.
        targets = {"north": ffn, "east": ["up_proj", "down_proj"], "south": [*ffn, "q_proj", "o_proj"]}
        adapters = {
            key: make_adapter(base, home / f"{family}-{key}", rank, targets[key])
            for rank, key in zip((4, 8, 2), KEYS, strict=True)
        }
        torch.manual_seed(1)
        router = Router(torch.randn(LAYERS, 3, HIDDEN), torch.randn(LAYERS, 3), KEYS)
        save_routers(home / f"{family}.safetensors", {"fitted": router}, KEYS)
        config = PluginConfig(
            family, {key: str(folder) for key, folder in adapters.items()},
            str(home / f"{family}.safetensors"), "fitted",
        )  # fmt: skip
        folders = [str(folder) for folder in adapters.values()] + [str(NO_CHANGE)]
        generator = torch.Generator().manual_seed(7)
        prompts = []
        for length, folder in zip(
            (5, 40, 300, 9, 33, 7, 61), (None, *folders, None, folders[2]), strict=True
        ):
            tokens = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
            prompts.append([tokens, folder])
        engine = {
            "model": str(base), "dtype": "float32", "enforce_eager": True, "max_model_len": 512,
            "kv_cache_memory_bytes": 64 * 2**20, "skip_tokenizer_init": True, "enable_lora": True,
            "max_loras": 5, "max_lora_rank": 8, "hf_overrides": {"architectures": [ARCHITECTURE]},
            "additional_config": config.as_flag(), "generation_config": "vllm", "seed": 0,
        }  # fmt: skip
        found[family] = {
            "engine": engine, "cores": core_list(cores()[:1]), "adapters": folders, "prompts": prompts,
            "parts": {"base": base, "adapters": adapters, "router": router},
        }  # fmt: skip
    llama = found["llama"]
    found["llama, compiled"] = {**llama, "engine": {**llama["engine"], "enforce_eager": False}}
    two = {**llama["engine"], "tensor_parallel_size": 2}
    found["llama, two ranks"] = {
        **llama,
        "engine": two,
        "cores": "|".join(core_list([c]) for c in cores()[:2]),
    }
    found |= spoilt(found["qwen2"], home)
    return found


def spoilt(job: dict[str, Any], home: Path) -> dict[str, Any]:
    """What does not belong together, by what is wrong."""
    told = job["engine"]["additional_config"]["cultural_palette"]
    narrow = home / "narrow"
    shutil.copytree(told["adapters"]["north"], narrow)
    tensors = load_file(narrow / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    save_file(tensors | {name: tensors[name][:, :32].clone()}, narrow / "adapter_model.safetensors")
    dora = home / "dora"
    shutil.copytree(told["adapters"]["north"], dora)
    config = json.loads((dora / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    reversed_map = dict(reversed(told["adapters"].items()))
    wrong: dict[str, Any] = {
        "another base": told | {"adapters": told["adapters"] | {"north": str(narrow)}},
        "no plain LoRA": told | {"adapters": told["adapters"] | {"north": str(dora)}},
        "another map": told | {"adapters": reversed_map},
        "no such router": told | {"use": "paper"},
        "no file": told | {"router": str(home / "gone.safetensors")},
        "nothing told": None,
    }
    return {
        name: {
            **job,
            "engine": {**job["engine"], "additional_config": {"cultural_palette": value} if value else {}},
        }
        for name, value in wrong.items()
    }


REFUSED = {
    "another base": "narrow is for another base: its model.layers.0.mlp.up_proj is (160, 32)",
    "no plain LoRA": "dora has use_dora = True",
    "another map": "is for north, east, south; the palette has south, east, north",
    "no such router": "has no router 'paper'; it has fitted",
    "no file": "gone.safetensors",
    "nothing told": "--additional-config has no 'cultural_palette'",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_belong_together_is_not_served(name: str, replies: dict[str, Any]) -> None:
    assert REFUSED[name] in replies[name]["refused"]


@pytest.fixture(scope="module")
def replies(
    jobs: dict[str, Any], vllm_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What vLLM wrote for each job's prompts, with its log-probabilities."""
    home = tmp_path_factory.mktemp("replies")
    sent = [{key: job[key] for key in ("engine", "cores", "adapters", "prompts")} for job in jobs.values()]
    (home / "jobs.json").write_text(json.dumps(sent))
    script = Path(__file__).with_name("generate_in_vllm.py")
    environment = {
        **os.environ, "PYTHONPATH": str(SITE), "VLLM_PLUGINS": "cultural_palette", "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CACHE_ROOT": str(home / "cache"),
    }  # fmt: skip
    done = subprocess.run(
        [str(vllm_python), str(script), str(home / "jobs.json"), str(home / "replies.json")],
        capture_output=True, text=True, timeout=1200, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return dict(zip(jobs, json.loads((home / "replies.json").read_text()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BASES, "llama, compiled", "llama, two ranks"])
def test_a_mixed_batch_is_exact(name: str, jobs: dict[str, Any], replies: dict[str, Any]) -> None:
    parts = jobs[name]["parts"]
    base = transformers.AutoModelForCausalLM.from_pretrained(parts["base"], dtype=torch.float32).eval()
    mixed = written_out(parts["base"], parts["adapters"], parts["router"].rows, parts["router"].bias)
    worst: dict[str, float] = {}
    for (prompt, folder), reply in zip(jobs[name]["prompts"], replies[name], strict=True):
        if folder is None:
            model, part = mixed, "moerges"
        elif Path(folder) == NO_CHANGE:
            model, part = base, "base"
        else:
            fresh = transformers.AutoModelForCausalLM.from_pretrained(parts["base"], dtype=torch.float32)
            model, part = peft.PeftModel.from_pretrained(fresh, folder).eval(), "agent"
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + reply["tokens"]])).logits[0, len(prompt) - 1 : -1]
        theirs = logits.log_softmax(-1).gather(1, torch.tensor(reply["tokens"])[:, None])[:, 0]
        off = (theirs - torch.tensor(reply["logprobs"])).abs().max().item()
        worst[part] = max(worst.get(part, 0.0), off)
    assert set(worst) == {"moerges", "base", "agent"}
    assert max(worst.values()) < EXACT, worst
