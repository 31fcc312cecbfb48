"""The coloured layers in a transformers model, and what each row of a batch is.

    colours = install(model, {"africa": read_adapter(...), ...})
    colours.add_router("paper", rows)
    with colours.use([Base(), Agent("africa"), Routed("paper")], tokens=mask) as batch:
        model(input_ids=..., attention_mask=mask)
    batch.router_weights()          # (rows, layers, communities)

No PEFT is needed, and the model is the one that was given: its FFNs, and the attention projections that some
adapter changes, are replaced in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cultural_palette.moerges.adapters import Adapter, LowRank, check_fits
from cultural_palette.moerges.layer import AgentLinear, Batch, ColouredFFN, Switch, plan
from cultural_palette.moerges.modes import Agent, Blend, BlendError, Mode, Routed
from cultural_palette.moerges.peft_settings import AdapterError
from cultural_palette.moerges.router import Router, RouterError

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
PROJECTIONS = ("gate", "up", "down")


class Colours:
    """The communities of a model whose layers are coloured, and the modes of its next batch.

    `communities`: keys, in the order of the routers' rows. Not for several threads at a time.
    """

    def __init__(self, model: Any, communities: tuple[str, ...], switch: Switch) -> None:
        self.model, self.communities = model, communities
        self.routers: dict[str, Router] = {}
        self._switch = switch
        self._layers: list[ColouredFFN] = [layer.mlp for layer in model.model.layers]

    @property
    def bytes(self) -> int:
        """Memory of what is held beside the base: changes and routers."""
        modules = (m for m in self.model.modules() if isinstance(m, ColouredFFN | AgentLinear))
        return sum(b.numel() * b.element_size() for m in modules for b in m.buffers(recurse=False))

    def add_router(self, name: str, router: Router) -> None:
        """A router by name. Raises RouterError when it has other communities, layers or another width."""
        expected = (len(self._layers), len(self.communities), self.model.config.hidden_size)
        if router.communities and router.communities != self.communities:
            raise RouterError(
                f"The router {name!r} is for {', '.join(router.communities)}; the palette has "
                f"{', '.join(self.communities)}, in this order."
            )
        if tuple(router.rows.shape) != expected:
            raise RouterError(
                f"The router {name!r} has {tuple(router.rows.shape)} (layers, communities, width); this base "
                f"and map need {expected}."
            )
        for layer, rows, bias in zip(self._layers, router.rows, router.bias, strict=True):
            layer.add_router(name, rows, bias)
        self.routers[name] = router

    @contextmanager
    def use(self, modes: Sequence[Mode], tokens: Tensor | None = None) -> Iterator[Batch]:
        """Forward passes inside are about rows of these modes. The batch gathers the router's weights.

        `tokens`: (rows, length), true where a token's weights count; its length is that of the pass to come.
        Raises BlendError for a community or router that is not there.
        """
        for mode in dict.fromkeys(modes):
            self._check(mode)
        batch = plan(modes, self.communities, self._layers[0].gate_a.device)
        batch.tokens = None if tokens is None else tokens.bool()
        before, self._switch.batch = self._switch.batch, batch
        try:
            yield batch
        finally:
            self._switch.batch = before

    def _check(self, mode: Mode) -> None:
        keys = ", ".join(self.communities)
        named = [mode.community] if isinstance(mode, Agent) else []
        named += [key for key, _ in mode.weights] if isinstance(mode, Blend) else []
        if wrong := [key for key in named if key not in self.communities]:
            raise BlendError(f"No community {wrong[0]!r}; the palette has {keys}.")
        if isinstance(mode, Routed) and mode.router not in self.routers:
            known = ", ".join(self.routers) or "none"
            raise BlendError(f"No router {mode.router!r}; the palette has {known}.")


def install(model: Any, adapters: Mapping[str, Adapter]) -> Colours:
    """Colour a model in place. `adapters`: community -> adapter, in the order of the routers' rows.

    Raises AdapterError: an architecture whose FFN is not known, adapters for another base.
    """
    base = str(getattr(model.config, "_name_or_path", "") or model.config.model_type)
    if model.config.model_type not in ARCHITECTURES:
        raise AdapterError(
            f"{base} is a {model.config.model_type!r} model; MoErges knows {', '.join(ARCHITECTURES)}."
        )
    if not adapters:
        raise AdapterError("No adapters: a palette needs at least one community.")
    if any(isinstance(layer.mlp, ColouredFFN) for layer in model.model.layers):
        raise AdapterError(f"{base} has coloured layers already: load the base anew.")
    shapes = {name: shape for name, module in model.named_modules() if (shape := _shape(module)) is not None}
    for adapter in adapters.values():
        check_fits(adapter, shapes, base)
    switch = Switch()
    for number, layer in enumerate(model.model.layers):
        prefix = f"model.layers.{number}"
        names = {part: f"{prefix}.mlp.{part}_proj" for part in PROJECTIONS}
        missing = [name for name in names.values() if name not in shapes]
        if missing or not hasattr(layer.mlp, "act_fn"):
            raise AdapterError(f"{base} has no gated FFN in layer {number}: no {(missing or ['act_fn'])[0]}.")
        norm: Tensor = layer.post_attention_layernorm.weight
        changes: dict[str, list[LowRank | None]] = {
            part: [adapter.ffn.get(name) for adapter in adapters.values()] for part, name in names.items()
        }
        layer.mlp = ColouredFFN(
            layer.mlp, number, switch, changes, {part: shapes[name] for part, name in names.items()},
            norm.dtype, norm.device,
        )  # fmt: skip
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            own = [a.attention.get(f"{prefix}.self_attn.{part}") for a in adapters.values()]
            if any(change is not None for change in own):
                linear = getattr(layer.self_attn, part)
                setattr(layer.self_attn, part, AgentLinear(linear, switch, own, norm.dtype, norm.device))
    return Colours(model, tuple(adapters), switch)


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear layer, also of a quantised one, which stores its weight otherwise."""
    out, into = getattr(module, "out_features", None), getattr(module, "in_features", None)
    return (int(out), int(into)) if isinstance(out, int) and isinstance(into, int) else None


def same_base(trained_on: str | None, base: str) -> bool:
    """Whether an adapter's `base_model_name_or_path` may name that base: by its last part, or not at all."""
    if not trained_on:
        return True
    return trained_on.rstrip("/").rpartition("/")[2] == base.rstrip("/").rpartition("/")[2]


@torch.inference_mode()
def dense_expert(ffn: ColouredFFN, community: int, part: str) -> Tensor:
    """A community's projection written out, W + B A, float32. (out, in)"""
    linear = getattr(ffn, f"{part}_proj")
    a, b = getattr(ffn, f"{part}_a")[community], getattr(ffn, f"{part}_b")[community]
    weight: Tensor = linear.weight.float() + b.float().T @ a.float()
    return weight
