"""Log-probabilities of answers without a (tokens x vocabulary) tensor of logits.

A frozen head needs its logits for two numbers a token, the log-probability and its gradient in the hidden
state:

    d log p_t / d h = W_t - sum_v softmax(h W')_v W_v

so both are computed in the forward pass, a chunk of tokens at a time, and the logits are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from cultural_palette.errors import UsageError
from cultural_palette.training.sequences import NOT_A_TOKEN
from cultural_palette.training.share_tokens import label_logps

CHUNK_BYTES = 64 * 2**20  # of float32 logits at a time


class FrozenHeadLogps(torch.autograd.Function):
    """log p of each target under a frozen linear head; keeps (T, D) for the backward pass, never (T, V)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        """(T) float32, of `hidden` (T, D), `weight` (V, D), `bias` (V), `targets` (T), by `chunk` tokens."""
        logps = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), chunk):
            span = slice(start, start + chunk)
            logits = (hidden[span].to(weight.dtype) @ weight.T).float()
            if bias is not None:
                logits += bias
            target_logits = logits.gather(1, targets[span, None])
            normaliser = logits.logsumexp(-1, keepdim=True)
            logps[span] = (target_logits - normaliser)[:, 0]
            if slope is not None:
                probabilities = torch.exp_(logits.sub_(normaliser))
                slope[span] = (weight[targets[span]] - probabilities.to(weight.dtype) @ weight).to(
                    slope.dtype
                )
        if slope is not None:
            ctx.save_for_backward(slope)
        return logps

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        """`gradient` (T) -> (T, D)."""
        (slope,) = ctx.saved_tensors
        return (gradient[:, None] * slope).to(slope.dtype), None, None, None, None


def frozen_head_logps(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, chunk: int
) -> torch.Tensor:
    """`FrozenHeadLogps`, differentiable in `hidden`. (T) float32."""
    apply: Any = FrozenHeadLogps.apply  # torch leaves it without types
    logps: torch.Tensor = apply(hidden, weight, bias, targets, chunk)
    return logps


def head_logps(
    head: Any, hidden: torch.Tensor, targets: torch.Tensor, chunk: int | None = None
) -> torch.Tensor:
    """log p of each target token. `hidden` (T, D), `targets` (T) -> (T) float32.

    A frozen linear head goes the fused way; one that learns is computed again in the backward pass.
    `chunk`: tokens at a time; by default as many as make 64 MiB of logits.
    """
    plain = isinstance(head, torch.nn.Linear)
    if chunk is None:
        chunk = max(1, CHUNK_BYTES // (4 * (head.out_features if hasattr(head, "out_features") else 32_000)))
    if plain and not head.weight.requires_grad and (head.bias is None or not head.bias.requires_grad):
        return frozen_head_logps(hidden, head.weight, head.bias, targets, chunk)

    def chunk_logps(states: torch.Tensor, chunk_targets: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head(states).float()
        return logits.log_softmax(-1).gather(1, chunk_targets[:, None])[:, 0]

    parts = [
        checkpoint(chunk_logps, hidden[at : at + chunk], targets[at : at + chunk], use_reentrant=False)
        for at in range(0, len(targets), chunk)
    ]
    return torch.cat(parts)


def hidden_states(inner: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The last hidden states of a laid-out batch, flat: (positions, D), as `where` counts them."""
    decoder = inner.get_decoder()
    if "prompt_ids" in batch:
        return _prompt_once(inner, decoder, batch)
    if "segments" in batch:
        mask = block_mask(batch["segments"], inner.config._attn_implementation, inner.dtype)
        inputs = {"attention_mask": mask, "position_ids": batch["position_ids"]}
    else:
        inputs = {"attention_mask": batch["attention_mask"]}
    states: torch.Tensor = decoder(input_ids=batch["input_ids"], use_cache=False, **inputs).last_hidden_state
    return states.flatten(0, 1)


def _prompt_once(inner: Any, decoder: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    prompts, mask = batch["prompt_ids"], batch["prompt_mask"]
    copies = len(batch["input_ids"]) // len(prompts)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=inner.config)
    first = decoder(
        input_ids=prompts, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    cache.batch_repeat_interleave(copies)
    whole = torch.cat([mask.repeat_interleave(copies, 0), batch["attention_mask"]], 1)
    width = batch["input_ids"].shape[1]
    after = mask.sum(1).repeat_interleave(copies)[:, None] + torch.arange(width, device=mask.device)
    second = decoder(
        input_ids=batch["input_ids"],
        attention_mask=whole,
        position_ids=after,
        past_key_values=cache,
        use_cache=True,
    )
    return torch.cat([first.last_hidden_state.flatten(0, 1), second.last_hidden_state.flatten(0, 1)])


def block_mask(segments: torch.Tensor, attention: str, dtype: torch.dtype) -> Any:
    """Who sees whom in a packed group: the prompt all before it, an answer the prompt and itself so far.

    `segments` (G, L): 0 the prompt, 1.. the answers, -1 padding (which sees only itself, so that no row is
    empty). A BlockMask for flex attention; else (G, 1, L, L), boolean for sdpa, additive for eager.
    """
    if attention == "flex_attention":

        def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
            query_segment, key_segment = segments[batch, query], segments[batch, key]
            same = (query_segment != NOT_A_TOKEN) & ((key_segment == 0) | (key_segment == query_segment))
            return (query >= key) & (same | (query == key))

        count, length = segments.shape
        return create_block_mask(sees, count, None, length, length, device=str(segments.device))
    query_segment, key_segment = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
    same = (query_segment != NOT_A_TOKEN) & ((key_segment == 0) | (key_segment == query_segment))
    mask = (causal & (same | torch.eye(len(causal), dtype=torch.bool, device=segments.device)))[:, None]
    if attention == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def group_logps(
    inner: Any, batch: Mapping[str, torch.Tensor], prompt_too: bool = False
) -> dict[str, torch.Tensor]:
    """Summed log-probabilities of a laid-out batch, float32.

    `answers` (N); with `prompt_too` also `prompts` (G).
    """
    where, targets, owner = batch["where"], batch["targets"], batch["owner"]
    count, groups = len(batch["lengths"]), len(batch["prompt_lengths"])
    if not prompt_too:
        of_answers = owner < count
        where, targets, owner = where[of_answers], targets[of_answers], owner[of_answers]
    hidden = hidden_states(inner, batch).index_select(0, where)
    logps = head_logps(inner.get_output_embeddings(), hidden, targets)
    sums = torch.zeros(count + groups, device=logps.device).index_add(0, owner, logps)
    return {"answers": sums[:count]} | ({"prompts": sums[count:]} if prompt_too else {})


def share_logps(inner: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Log-probability of every label of a batch that `lay_out_shares` made, float32. (R, K)"""
    hidden = hidden_states(inner, batch).index_select(0, batch["reads"])
    return label_logps(inner.get_output_embeddings()(hidden).float().log_softmax(-1), batch)


def batch_logps(inner: Any, batch: Mapping[str, Any], prompt_too: bool) -> dict[str, torch.Tensor]:
    """What the losses need of a batch: `group_logps` of its groups, and `labels` of the questions under
    "shares"; either may be missing.
    """
    outputs = group_logps(inner, batch, prompt_too) if "where" in batch else {}
    return outputs | ({"labels": share_logps(inner, batch["shares"])} if "shares" in batch else {})


def causal_model(model: Any) -> Any:
    """The causal language model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def answering_with_logps(model: Any, prompt_too: bool) -> Iterator[None]:
    """While open, the model's forward takes `batch=` and returns `batch_logps`.

    The call still passes through every wrapper (DDP, FSDP, PEFT, autocast), which is why the forward is
    replaced and the decoder is not called from outside.
    """
    inner = causal_model(model)
    check_head(inner)

    def forward(self: Any, batch: Mapping[str, Any], **_: Any) -> dict[str, torch.Tensor]:
        return batch_logps(self, batch, prompt_too)

    original = inner.__dict__.get("forward")
    inner.forward = partial(forward, inner)
    try:
        yield
    finally:
        if original is None:
            del inner.forward
        else:
            inner.forward = original


def check_head(inner: Any) -> None:
    """Refuse models that do more than a linear map from hidden states to logits."""
    config = inner.config
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise UsageError(
                f"{config.model_type} changes its logits ({name}), which the grouped trainer does not: "
                "use --trainer trl"
            )
