"""Cultural MoErges: one FFN expert a community in every layer, everything else from the base, all experts
active.

    out = sum_C G(h)_C E_C(h),  G(h) = softmax(h W_g)      (Cultural Palette, eq. 1)

A mixture of the kind that MergeKit's `mergekit-moe` makes, from the same configuration (kept beside the
result) and tensor for tensor the same (a test compares), with four differences: every expert is active
(MergeKit's default of 2 would drop three of five); experts come straight from adapters, without five full
models on the disk; names are those that vLLM and transformers both load; RoPE scaling, sliding windows and
head sizes stay the base's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from mergekit.moe.config import MoEMergeConfig

from cultural_palette.training.merge import checks, report
from cultural_palette.training.merge.checkpoint import (
    Checkpoint,
    MergeError,
    Shards,
    carry,
    dtype_of,
    unfinished,
)
from cultural_palette.training.merge.members import Member, norm, open_members, refuse_quantised
from cultural_palette.training.merge.router import (
    PLACES,
    check_prompts,
    compare,
    examine,
    read_states,
    rows_from,
    summary,
)

LOG = logging.getLogger(__name__)
PARTS = ("gate_proj", "up_proj", "down_proj")
STORED = tuple(f".mlp.{part}.weight" for part in PARTS)
SHRUNK = (
    16  # width of Qwen2-MoE's shared expert, which the architecture demands: zeros, exact in every engine
)
# The configuration's fields that hold for every architecture, copied from the base as they are.
SHARED_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "rope_parameters", "tie_word_embeddings", "attention_dropout", "bos_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """How a base becomes a mixture.

    `make`: transformers' configuration class, filled from `fields`; `block`, `named`: the FFN and its
    projections in the checkpoint; `mergekit`: MergeKit's name for it.
    """

    make: str
    block: str
    named: Mapping[str, str]
    fields: Callable[[Any, int], dict[str, Any]]
    mergekit: str
    shared_expert: bool = False

    def expert(self, layer: int, index: int, part: str) -> str:
        """An expert projection's name in the checkpoint."""
        return f"model.layers.{layer}.{self.block}.experts.{index}.{self.named[part]}.weight"

    def gate(self, layer: int) -> str:
        """The router's name in the checkpoint; its shape is (communities, hidden)."""
        return f"model.layers.{layer}.{self.block}.gate.weight"


def _mixtral(base: Any, count: int) -> dict[str, Any]:
    return {
        "num_local_experts": count, "num_experts_per_tok": count, "head_dim": _head_dim(base),
        "sliding_window": getattr(base, "sliding_window", None),
    }  # fmt: skip


def _qwen(base: Any, count: int) -> dict[str, Any]:
    return {
        "num_experts": count, "num_experts_per_tok": count, "moe_intermediate_size": base.intermediate_size,
        "decoder_sparse_step": 1, "norm_topk_prob": True, "mlp_only_layers": [], "use_sliding_window": False,
    }  # fmt: skip


def _qwen2(base: Any, count: int) -> dict[str, Any]:
    return _qwen(base, count) | {"qkv_bias": True, "shared_expert_intermediate_size": SHRUNK}


def _qwen3(base: Any, count: int) -> dict[str, Any]:
    return _qwen(base, count) | {"head_dim": _head_dim(base), "attention_bias": base.attention_bias}


SAME_NAMES = {part: part for part in PARTS}
MIXTRAL_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
ARCHITECTURES = {
    "llama": Architecture("MixtralConfig", "block_sparse_moe", MIXTRAL_NAMES, _mixtral, "mixtral"),
    "mistral": Architecture("MixtralConfig", "block_sparse_moe", MIXTRAL_NAMES, _mixtral, "mixtral"),
    "qwen2": Architecture("Qwen2MoeConfig", "mlp", SAME_NAMES, _qwen2, "qwen", shared_expert=True),
    "qwen3": Architecture("Qwen3MoeConfig", "mlp", SAME_NAMES, _qwen3, "qwen3"),
}


def merge_moerges(
    base: Path, adapters: Mapping[str, Path], prompts: Mapping[str, Sequence[str]], out: Path, *,
    against_others: bool = False, dtype: str | None = "float32", rows: str = "residual",
    router_dtype: str | None = None, any_base: bool = False, vllm_check: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The communities' mixture under `out`; returns MergeKit's configuration of it, which is kept beside it.

    `adapters`: community -> LoRA adapter or full model, in the order of the experts; of a full model, or an
    adapter on attention, only the FFN comes in (the report counts what stays out). `prompts`: what each
    router row is read from. `rows`: where, a key of PLACES. `against_others`: centre each row against the
    other communities' prompts. `dtype`: of the result, None for the base's; `router_dtype`: of the pass that
    reads the rows. Raises MergeError: an architecture without a mixture, members that do not fit, tensors
    that are not finite, a full disk. What stood at `out` stays until the new one is whole.
    """
    if rows not in PLACES:
        raise MergeError(f"Unknown router rows {rows!r}. They are {', '.join(PLACES)}.")
    if len(adapters) < 2:
        raise MergeError(f"{len(adapters)} communities: a mixture needs at least 2.")
    source = Checkpoint(Path(base))
    refuse_quantised(source.folder)
    architecture, config = mixture_config(source, len(adapters))
    check_prompts(prompts, list(adapters))
    members = open_members(source, adapters, any_base=any_base, ffn_only=True)
    out_dtype = dtype_of(dtype) or source.dtype
    dtype_name = str(out_dtype).removeprefix("torch.")
    prompts = {key: list(prompts[key]) for key in adapters}
    recipe = mergekit_config(
        source, architecture, members, prompts, against_others=against_others, dtype=dtype_name
    )
    with unfinished(Path(out), needed_bytes=_size(source, len(members), out_dtype)) as work:
        states = read_states(source.folder, prompts, router_dtype)
        gates = rows_from(states[rows], against_others=against_others)
        router, choices = summary(examine(gates, states["ffn_in"])), compare(states)
        if router["degenerate_layers"]:
            LOG.warning("The router is degenerate in layers %s; see the report.", router["degenerate_layers"])
        config.dtype = out_dtype
        config.save_pretrained(work)
        shards = Shards(work, out_dtype)
        moved = _write(source, architecture, members, gates, shards)
        shards.close()
        carried = carry(source.folder, work)
        text = (
            ""
            if rows == "residual"
            else f"# Router rows here are from {rows}; mergekit-moe reads the residual.\n"
        )
        text += yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        (work / "mergekit_config.yaml").write_text(text, encoding="utf-8")
        checks.all_active(work, len(members))
        results = checks.check(work, source.folder, shards.bytes, carried, vllm=vllm_check)
        report.write(
            work, "moerges", source, members, dtype=dtype_name, moved=moved, checks=results,
            bytes=shards.bytes,
            router={"rows": rows, "against_others": against_others, "prompts": prompts} | router
            | {"choices": choices},
        )  # fmt: skip
    return recipe


def mixture_config(source: Checkpoint, count: int) -> tuple[Architecture, Any]:
    """The architecture and transformers' configuration of a mixture of `count` experts over that base.

    Raises MergeError for what a mixture could not reproduce exactly.
    """
    if source.model_type not in ARCHITECTURES:
        known = "Llama 3.x (llama), Mistral (mistral), Qwen2.5 (qwen2), Qwen3 (qwen3)"
        raise MergeError(f"{source.folder} is a {source.model_type!r} model; MoErges knows {known}.")
    architecture = ARCHITECTURES[source.model_type]
    base = transformers.AutoConfig.from_pretrained(source.folder)
    extra = [name for name in source.files if ".mlp." in name and not name.endswith(STORED)]
    biased = source.model_type == "llama" and getattr(base, "attention_bias", False)
    sliding = source.model_type.startswith("qwen") and getattr(base, "use_sliding_window", False)
    for wrong, why in (
        (extra, f"its FFN has {extra[:1]}, which experts have no place for"),
        (biased, "its attention has biases, which Mixtral has no place for"),
        (sliding, "some of its layers have sliding windows, which the mixture would change"),
    ):
        if wrong:
            raise MergeError(f"{source.folder} can not become a MoErges: {why}.")
    fields = {name: getattr(base, name) for name in SHARED_FIELDS}
    config = getattr(transformers, architecture.make)(**fields | architecture.fields(base, count))
    config.architectures = [architecture.make.replace("Config", "ForCausalLM")]
    return architecture, config


def mergekit_config(
    source: Checkpoint, architecture: Architecture, members: Sequence[Member],
    prompts: Mapping[str, Sequence[str]], *, against_others: bool, dtype: str,
) -> dict[str, Any]:  # fmt: skip
    """What `mergekit-moe` would be given for this mixture, models by name; MergeKit's own reader takes it."""
    experts = []
    for member in members:
        expert: dict[str, Any] = {"source_model": member.key, "positive_prompts": list(prompts[member.key])}
        if against_others:
            expert["negative_prompts"] = [
                p for key, texts in prompts.items() if key != member.key for p in texts
            ]
        experts.append(expert)
    config: dict[str, Any] = {
        "base_model": source.folder.name, "gate_mode": "hidden", "architecture": architecture.mergekit,
        "dtype": dtype, "experts_per_token": len(members), "experts": experts,
    }  # fmt: skip
    if architecture.shared_expert:
        shared = {"source_model": source.folder.name, "positive_prompts": ["culture"], "residual_scale": 0.0}
        config["shared_experts"] = [shared]
    MoEMergeConfig.model_validate(config)
    return config


def router_rows(moerges: Path) -> dict[str, Any]:
    """The router's tensors, (communities, hidden) a layer, by their names in the checkpoint."""
    merged = Checkpoint(Path(moerges))
    ends = tuple(f".{architecture.block}.gate.weight" for architecture in ARCHITECTURES.values())
    return {name: merged.tensor(name) for name in merged.files if name.endswith(ends)}


def _write(
    source: Checkpoint, architecture: Architecture, members: Sequence[Member], gates: Any, shards: Shards
) -> dict[str, Any]:  # fmt: skip
    """Every tensor of the mixture; how far each community's experts are from the base's FFN."""
    moved = {member.key: checks.Moved() for member in members}
    for name in source.files:
        if ".mlp." not in name and "rotary_emb" not in name:
            shards.write(name, source.tensor(name))
    for layer in range(gates.shape[0]):
        for part in PARTS:
            name = f"model.layers.{layer}.mlp.{part}.weight"
            plain = source.tensor(name).float()
            size = norm(plain)
            for index, member in enumerate(members):
                touched = member.touches(name)
                expert = member.weight(name, plain) if touched else plain
                moved[member.key].add(name, size, member.change_norm(name, plain, expert) if touched else 0.0)
                # Each expert has storage of its own, as safetensors wants it.
                shards.write(
                    architecture.expert(layer, index, part), expert.clone() if expert is plain else expert
                )
        shards.write(architecture.gate(layer), gates[layer].contiguous())
        if architecture.shared_expert:
            hidden = gates.shape[-1]
            prefix = f"model.layers.{layer}.mlp.shared_expert"
            for part in PARTS:
                shape = (hidden, SHRUNK) if part == "down_proj" else (SHRUNK, hidden)
                shards.write(f"{prefix}.{part}.weight", torch.zeros(shape))
            shards.write(f"{prefix}_gate.weight", torch.zeros(1, hidden))
    for member in members:
        moved[member.key].left_out = sum(not name.endswith(STORED) for name in member.changed())
        moved[member.key].require(member.path, "FFN projection")
    return {key: member_moved.figures() for key, member_moved in moved.items()}


def _size(source: Checkpoint, count: int, dtype: Any) -> int:
    """Bytes that the mixture takes on the disk, a little over."""
    values = source.count() + (count - 1) * source.count(".mlp.")
    return int(values * dtype.itemsize * 1.02) + 50_000_000


def _head_dim(base: Any) -> int:
    return int(getattr(base, "head_dim", None) or base.hidden_size // base.num_attention_heads)
