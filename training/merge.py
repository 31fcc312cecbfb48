"""Merging community models: MergeKit does the work; its configuration stays beside the result.

MoErges: attention, embeddings and norms of the base, one FFN expert a community, every expert active
(`experts_per_token` = number of communities: MergeKit's default of 2 would drop three of five).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palette.errors import PaletteError

CARRIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json")  # fmt: skip


class MergeError(PaletteError):
    """A merge whose result is not what it should be."""


def merge_adapter(base: Path, adapter: Path, out: Path) -> None:
    """The full float32 model of one community: base plus its LoRA adapter, by PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)


def merge_moerges(
    base: Path, adapters: Mapping[str, Path], prompts: Mapping[str, Sequence[str]], out: Path, *,
    against_others: bool = False, dtype: str = "float32",
) -> dict[str, Any]:  # fmt: skip
    """MergeKit's mixture of the communities' FFNs under `out`; returns the configuration used.

    `prompts`: what each expert's router row is read from (the base's residual stream at the last token, mean over
    the prompts). `against_others`: subtract the other communities' prompts, MergeKit's negative prompts; bare rows
    are nearly parallel, and a router of parallel rows blends everything alike. Supports Llama and Mistral bases.
    Raises MergeError when a tensor is not finite or an expert is missing. An unfinished merge leaves `out` absent.
    """
    import yaml
    from mergekit.merge import MergeOptions
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.scripts.moe import build

    work = out.with_name(out.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    experts = []
    for community, adapter in adapters.items():
        merge_adapter(base, adapter, work / "experts" / community)
        expert = {"source_model": str(work / "experts" / community), "positive_prompts": list(prompts[community])}
        if against_others:
            expert["negative_prompts"] = [p for key, ps in prompts.items() if key != community for p in ps]
        experts.append(expert)
    config = {
        "base_model": str(base), "gate_mode": "hidden", "architecture": "mixtral", "dtype": dtype,
        "experts_per_token": len(adapters), "experts": experts,
    }  # fmt: skip
    options = MergeOptions(copy_tokenizer=False, device="cpu", quiet=True)
    options.apply_global_options()
    build(MoEMergeConfig.model_validate(config), str(work / "model"), options, device="cpu", allow_all_same=True)
    _name_for_vllm(work / "model", len(adapters))
    for name in CARRIED:
        if (base / name).is_file():
            shutil.copy2(base / name, work / "model" / name)
    written = json.loads((work / "model" / "config.json").read_text(encoding="utf-8"))
    if written["num_experts_per_tok"] != len(adapters) or written["num_local_experts"] != len(adapters):
        raise MergeError(f"{len(adapters)} communities, but the merge has k = {written['num_experts_per_tok']}")
    for expert in experts:  # the kept configuration names communities, not this run's temporary folders
        expert["source_model"] = Path(expert["source_model"]).name
    config["base_model"] = base.name
    (work / "model" / "mergekit_config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    (work / "model").rename(out)
    shutil.rmtree(work)
    return config


def router_rows(moerges: Path) -> dict[str, Any]:
    """The router's tensors, (communities, hidden) a layer, by their names in the checkpoint."""
    from safetensors import safe_open

    rows = {}
    for file in sorted(moerges.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            rows |= {k: tensors.get_tensor(k) for k in tensors.keys() if "block_sparse_moe.gate" in k}  # noqa: SIM118
    return rows


def _name_for_vllm(folder: Path, experts: int) -> None:
    """Rename MergeKit 0.1.5's fused expert tensors to Mixtral's own names, which vLLM and transformers both load."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Any] = {}
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        tensors |= load_file(file)
    named: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise MergeError(f"{name} has values that are not finite")
        prefix, _, rest = name.partition(".mlp.")
        if rest == "experts.gate_up_proj":
            for index in range(experts):
                gate, up = tensor[index].chunk(2, dim=0)
                named[f"{prefix}.block_sparse_moe.experts.{index}.w1.weight"] = gate.contiguous()
                named[f"{prefix}.block_sparse_moe.experts.{index}.w3.weight"] = up.contiguous()
        elif rest == "experts.down_proj":
            for index in range(experts):
                named[f"{prefix}.block_sparse_moe.experts.{index}.w2.weight"] = tensor[index].contiguous()
        elif rest:
            named[f"{prefix}.block_sparse_moe.{rest}"] = tensor
        else:
            named[name] = tensor
    for file in files:
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
