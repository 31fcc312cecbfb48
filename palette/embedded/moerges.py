"""Putting a MoErges together in memory from its parts: base, adapters, router.

The same model that `training.merge` writes to disk (a test compares the two): attention,
embeddings and norms of the base; in each layer one expert a community, the base's FFN plus the adapter's
change to it; a router whose softmax runs over all of them, every expert active (Cultural Palette, eq. 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def assemble(base: Any, agents: Any, communities: tuple[str, ...], router: Path) -> Any:
    """A MixtralForCausalLM from `base` (LlamaForCausalLM), `agents` (PeftModel with those adapters) and
    router rows.

    `base` must be the plain model, not wrapped by PEFT. Weights are copied; float32 in, float32 out.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import MixtralForCausalLM

    with torch.device("meta"):
        model = MixtralForCausalLM(mixtral_config(base.config, len(communities)))
    model = model.to_empty(device="cpu")
    rows = load_file(router)
    plain: dict[str, Any] = dict(base.state_dict())
    inner, source = model.model, "model."
    with torch.no_grad():
        _copy(inner.embed_tokens.weight, plain[source + "embed_tokens.weight"])
        _copy(inner.norm.weight, plain[source + "norm.weight"])
        _copy(model.lm_head.weight, plain["lm_head.weight"])
        for index, layer in enumerate(inner.layers):
            prefix = f"{source}layers.{index}."
            for norm in ("input_layernorm", "post_attention_layernorm"):
                _copy(getattr(layer, norm).weight, plain[f"{prefix}{norm}.weight"])
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                _copy(getattr(layer.self_attn, name).weight, plain[f"{prefix}self_attn.{name}.weight"])
            mlp = agents.base_model.model.model.layers[index].mlp
            for expert, community in enumerate(communities):
                gate, up, down = (
                    _tuned(getattr(mlp, f"{name}_proj"), community) for name in ("gate", "up", "down")
                )
                _copy(layer.mlp.experts.gate_up_proj[expert], torch.cat([gate, up]))
                _copy(layer.mlp.experts.down_proj[expert], down)
            _copy(layer.mlp.gate.weight, rows[f"model.layers.{index}.block_sparse_moe.gate.weight"])
        _copy_buffers(base, model)
    model.generation_config = base.generation_config
    return model.train(False)


def mixtral_config(base: Any, experts: int) -> Any:
    """Mixtral's configuration around a Llama base's, all experts active."""
    from transformers import MixtralConfig

    return MixtralConfig(
        vocab_size=base.vocab_size,
        hidden_size=base.hidden_size,
        intermediate_size=base.intermediate_size,
        num_hidden_layers=base.num_hidden_layers,
        num_attention_heads=base.num_attention_heads,
        num_key_value_heads=base.num_key_value_heads,
        head_dim=base.head_dim,
        max_position_embeddings=base.max_position_embeddings,
        rms_norm_eps=base.rms_norm_eps,
        rope_parameters=base.rope_parameters,
        tie_word_embeddings=base.tie_word_embeddings,
        sliding_window=None,
        num_local_experts=experts,
        num_experts_per_tok=experts,
        bos_token_id=base.bos_token_id,
        eos_token_id=base.eos_token_id,
        pad_token_id=base.pad_token_id,
    )


def router_weights(model: Any, inputs: Mapping[str, Any], mask: Any) -> Any:
    """What the router gives each expert, averaged over the prompt's tokens. (layers, experts), rows sum
    to 1.

    Read from the router's own input by a hook, so it does not depend on what the model returns. `mask`: (1,
    L).
    """
    import torch

    seen: list[Any] = []
    hooks = [
        layer.mlp.gate.register_forward_pre_hook(lambda module, args: seen.append((module, args[0])))
        for layer in model.model.layers
    ]
    try:
        with torch.inference_mode():
            model(**inputs, attention_mask=mask, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    kept = mask.reshape(-1).bool()
    with torch.inference_mode():
        logits = [hidden.reshape(-1, hidden.shape[-1])[kept] @ module.weight.T for module, hidden in seen]
        return torch.stack([layer.float().softmax(-1).mean(0) for layer in logits])


def _tuned(layer: Any, community: str) -> Any:
    """An FFN projection with the community's adapter merged in."""
    return layer.base_layer.weight + layer.get_delta_weight(community)


def _copy(target: Any, value: Any) -> None:
    target.copy_(value)


def _copy_buffers(base: Any, model: Any) -> None:
    """Rotary frequencies are buffers that no checkpoint holds; made on the meta device they are empty."""
    theirs = dict(base.named_buffers())
    for name, buffer in model.named_buffers():
        buffer.copy_(theirs[name])
