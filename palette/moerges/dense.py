"""A MoErges written out: a Mixtral whose experts are the base's FFN plus each community's change to it.

For engines that know no low-rank colours, and as the other side of the exactness tests. It is the model that
`training.merge` writes to disk (a test compares the two): attention, embeddings and norms of the base; in
each layer one expert a community; a router whose softmax runs over all of them, every expert active
(Cultural Palette, eq. 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from cultural_palette.moerges.layer import ColouredFFN
from cultural_palette.moerges.model import Colours, dense_expert
from cultural_palette.moerges.router import PAPER, Router, RouterError


@torch.no_grad()
def written_out(colours: Colours, router: Router) -> Any:
    """A MixtralForCausalLM of a coloured Llama under one router. Weights are copied; float32 in, float32 out.

    Raises RouterError for a router with biases, for which a Mixtral has no place.
    """
    if bool(router.bias.any()):
        raise RouterError("A router with biases can not be written out: a Mixtral has no place for them.")
    base, count = colours.model, len(colours.communities)
    with torch.device("meta"):
        model = MixtralForCausalLM(mixtral_config(base.config, count))
    model = model.to_empty(device="cpu")
    plain: dict[str, Any] = dict(base.state_dict())
    inner = model.model
    inner.embed_tokens.weight.copy_(plain["model.embed_tokens.weight"])
    inner.norm.weight.copy_(plain["model.norm.weight"])
    model.lm_head.weight.copy_(plain["lm_head.weight"])
    for index, layer in enumerate(inner.layers):
        prefix = f"model.layers.{index}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            getattr(layer, norm).weight.copy_(plain[f"{prefix}{norm}.weight"])
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            linear = f"{prefix}self_attn.{name}"
            weight = plain.get(f"{linear}.weight", plain.get(f"{linear}.base_layer.weight"))
            getattr(layer.self_attn, name).weight.copy_(weight)
        ffn: ColouredFFN = base.model.layers[index].mlp
        for expert in range(count):
            gate, up, down = (dense_expert(ffn, expert, part) for part in ("gate", "up", "down"))
            layer.mlp.experts.gate_up_proj[expert].copy_(torch.cat([gate, up]))
            layer.mlp.experts.down_proj[expert].copy_(down)
        layer.mlp.gate.weight.copy_(router.rows[index])
    theirs = dict(base.named_buffers())
    for name, buffer in model.named_buffers():  # rotary frequencies, which no checkpoint holds
        buffer.copy_(theirs[name])
    model.generation_config = base.generation_config
    return model.train(False)


def router_without_biases(colours: Colours, wanted: str) -> Router:
    """The router by which a palette is written out: the one that is wanted, or the paper's where that one has
    biases. Raises RouterError when there is none.
    """
    for name in (wanted, PAPER):
        if name in colours.routers and not bool(colours.routers[name].bias.any()):
            return colours.routers[name]
    raise RouterError(
        f"None of the routers {', '.join(colours.routers)} can be written out: a Mixtral has no place for "
        "biases."
    )


def mixtral_config(base: Any, experts: int) -> Any:
    """Mixtral's configuration around a Llama base's, all experts active."""
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
    states: list[Any] = []
    hooks = [
        layer.mlp.gate.register_forward_pre_hook(lambda module, args: states.append((module, args[0])))
        for layer in model.model.layers
    ]
    try:
        with torch.inference_mode():
            model(**inputs, attention_mask=mask, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    counted = mask.reshape(-1).bool()
    with torch.inference_mode():
        logits = [
            hidden.reshape(-1, hidden.shape[-1])[counted] @ module.weight.T for module, hidden in states
        ]
        return torch.stack([layer.float().softmax(-1).mean(0) for layer in logits])
