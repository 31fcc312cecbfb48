"""The base's own model with a coloured FFN in each layer: MoErges where a request names no adapter.

The base's weights, its quantised linear layers, vLLM's LoRA and its attention stay what they are. Each FFN is
replaced by one that holds the base's two projections under their own names; the communities' changes and the
router's rows are buffers beside them, read from the palette when the model is made.

    token's adapter    gate and up             hidden activation         down
    none (MoErges)     the base's              sum_C G_C h_C             the base's + sum_C G_C (B A)_C h_C
    a blend            the same, with G by another router, or given
    any other          the base's + its own    act(gate) * up            the base's + its own (vLLM's LoRA)

A blend beside the palette's own bears the name of an adapter that changes nothing (`no_change/`), so vLLM
keeps its work in the prefix cache apart; what its slot means to the FFNs stands in `Slots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)
from vllm.lora.utils import get_adapter_absolute_path
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.model_executor.models.utils import PPMissingLayer
from vllm.utils.torch_utils import direct_register_custom_op

from cultural_palette.moerges.adapters import Adapter, LowRank, read_adapter, stack
from cultural_palette.moerges.mixture import LowRanks, enable_fused, mixture
from cultural_palette.moerges.peft_settings import AdapterError
from cultural_palette.moerges.router import Router, RouterError, load_routers
from cultural_palette.serving.vllm_plugin.config import PluginConfig, PluginError

PROJECTIONS = ("gate", "up", "down")


def colour(
    x: Tensor,
    gate_up: Tensor,
    slots: Tensor | None,
    meaning: list[Tensor],
    routers: Tensor,
    biases: Tensor,
    low_ranks: list[Tensor],
    recorded: Tensor,
    layer: int,
) -> tuple[Tensor, Tensor]:
    """Hidden activations, and the low-rank part of the output, of a batch that may mix MoErges and adapters.

    `slots`: (tokens,), the slot of each token's adapter, -1 for none; None: no token has one. `meaning`: the
    tensors of `Slots`. `routers`: (routers, communities, hidden), `biases`: (routers, communities).
    `recorded`: (layers, tokens at most, communities), takes the router's weights of this layer's tokens, zero
    for those with an adapter.
    """
    router, given, blends = meaning
    place = x.new_zeros(len(x), dtype=torch.long) if slots is None else slots.long() + 1
    logits = torch.addmm(biases.flatten(), x.float(), routers.flatten(0, 1).T).view(len(x), *biases.shape)
    which = router[place]
    chosen = logits.gather(1, which.clamp(min=0)[:, None, None].expand(-1, 1, logits.shape[2]))[:, 0]
    weights = torch.where(which[:, None] >= 0, chosen.softmax(-1), given[place])
    recorded[layer, : len(x)] = weights
    low = LowRanks(*low_ranks)
    gate, up = gate_up.chunk(2, -1)
    if slots is None:
        return mixture(x, gate, up, weights, low)
    routed = blends[place]
    if x.is_cuda:  # the host can not ask for rows here: a CUDA graph holds the same work for any batch
        h, y = mixture(x, gate, up, weights, low)
        return torch.where(routed[:, None], h, nn.functional.silu(gate) * up), y
    rows = routed.nonzero()[:, 0]
    if len(rows) == len(x):
        return mixture(x, gate, up, weights, low)
    h, y = nn.functional.silu(gate).mul_(up), torch.zeros_like(x)
    if len(rows):
        h[rows], y[rows] = mixture(x[rows], gate[rows], up[rows], weights[rows], low)
    return h, y


def _shapes_of_colour(
    x: Tensor,
    gate_up: Tensor,
    slots: Tensor | None,
    meaning: list[Tensor],
    routers: Tensor,
    biases: Tensor,
    low_ranks: list[Tensor],
    recorded: Tensor,
    layer: int,
) -> tuple[Tensor, Tensor]:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2), torch.empty_like(x)


# One step for torch.compile, which then need not know how a batch is cut into pieces.
direct_register_custom_op(
    "cultural_palette_colour", colour, mutates_args=["recorded"], fake_impl=_shapes_of_colour
)


class Slots:
    """What the slot of a token's adapter means to the FFNs, as tensors that a CUDA graph reads: at 0 for a
    token without one, at 1 + slot else.

    `router`: index of the router that weighs the communities, -1 for none; `given`: weights that do not
    depend on the token, zeros for an adapter that is a model of its own; `blends`: whether communities are
    weighed.
    """

    def __init__(self, slots: int, communities: int, default: int, device: torch.device) -> None:
        self.router = torch.full((slots + 1,), -1, device=device)
        self.given = torch.zeros(slots + 1, communities, device=device)
        self.blends = torch.zeros(slots + 1, dtype=torch.bool, device=device)
        self.router[0], self.blends[0] = default, True
        self.by_adapter: dict[int, tuple[int, list[float]]] = {}
        self._seen: list[int | None] = []

    @property
    def meaning(self) -> list[Tensor]:
        """As `colour` takes it."""
        return [self.router, self.given, self.blends]

    def define(self, adapter: int, router: int, weights: list[float]) -> None:
        """An adapter, by vLLM's number, is a blend from now on."""
        self.by_adapter[adapter] = (router, weights)
        self._seen = []

    def place(self, adapters: list[int | None]) -> None:
        """Which adapter lies in which slot."""
        if adapters == self._seen:
            return
        self._seen = list(adapters)
        for place, adapter in enumerate(adapters, 1):
            blend = None if adapter is None else self.by_adapter.get(adapter)
            router, weights = blend or (-1, [0.0] * self.given.shape[1])
            self.router[place] = router
            self.given[place] = torch.tensor(weights, device=self.given.device)
            self.blends[place] = blend is not None


class Switch:
    """What all layers of a model share. `slots`: vLLM's, of each token's adapter; None without adapters.
    `recorded`: the router's weights of the last step, (layers, tokens at most, communities).
    """

    def __init__(self, recorded: Tensor, meaning: Slots) -> None:
        self.slots: Tensor | None = None
        self.recorded, self.meaning = recorded, meaning


class ColouredMLP(nn.Module):
    """A gated FFN of vLLM with every community's low-rank change beside it."""

    gate_up_proj: Any
    down_proj: Any

    def __init__(
        self,
        base: Any,
        number: int,
        switch: Switch,
        changes: dict[str, list[LowRank | None]],
        routers: Sequence[Router],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = base.gate_up_proj, base.down_proj
        self.number, self.switch = number, switch
        self.ranks = get_tensor_model_parallel_world_size()
        # The low-rank part of a rank is a part of the sum as well: it joins before the ranks add up.
        self.down_proj.reduce_results = False
        hidden, width = self.gate_up_proj.input_size, self.down_proj.input_size
        share = width // self.ranks
        mine = slice(get_tensor_model_parallel_rank() * share, (get_tensor_model_parallel_rank() + 1) * share)
        for name in PROJECTIONS:
            out, into = (hidden, width) if name == "down" else (width, hidden)
            a, b = stack(changes[name], out, into)
            a, b = (a[..., mine], b) if name == "down" else (a, b[..., mine])
            self._hold(f"{name}_a", a.to(device, dtype))
            self._hold(f"{name}_b", b.to(device, dtype))
        self._hold(
            "routers", torch.stack([router.rows[number] for router in routers]).to(device, torch.float32)
        )
        self._hold(
            "biases", torch.stack([router.bias[number] for router in routers]).to(device, torch.float32)
        )

    def _hold(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, hidden) -> the same."""
        gate_up, _ = self.gate_up_proj(x)
        slots = None if self.switch.slots is None else self.switch.slots[: x.shape[0]]
        low_ranks = [getattr(self, f"{name}_{side}") for name in PROJECTIONS for side in "ab"]
        h, y = torch.ops.vllm.cultural_palette_colour(
            x, gate_up, slots, self.switch.meaning.meaning, self.routers, self.biases, low_ranks,
            self.switch.recorded, self.number,
        )  # fmt: skip
        out: Tensor = self.down_proj(h)[0] + y
        if self.ranks > 1:
            out = tensor_model_parallel_all_reduce(out)
        return out


class Coloured:
    """Goes before a model class of vLLM: its FFNs are coloured once it is made."""

    palette: PluginConfig
    routers: tuple[str, ...]
    switch: Switch
    _manager: Any = None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.palette = PluginConfig.of(vllm_config.additional_config)
        if self.palette.fused:
            enable_fused()
        model: Any = self.model  # type: ignore[attr-defined]
        config = vllm_config.model_config.hf_config
        adapters = _read_adapters(self.palette, config)
        routers = _read_routers(self.palette, config)
        self.routers = tuple(routers)
        first = next(layer for layer in model.layers if not isinstance(layer, PPMissingLayer))
        device = first.post_attention_layernorm.weight.device
        dtype = vllm_config.model_config.dtype
        tokens = vllm_config.scheduler_config.max_num_batched_tokens
        shape = (config.num_hidden_layers, tokens, len(adapters))
        lora = vllm_config.lora_config
        slots = Slots(
            lora.max_loras if lora else 0, len(adapters), self.routers.index(self.palette.use), device
        )
        self.switch = Switch(torch.zeros(shape, dtype=torch.float32, device=device), slots)
        for number, layer in enumerate(model.layers):
            if not isinstance(layer, PPMissingLayer):
                names = {name: f"model.layers.{number}.mlp.{name}_proj" for name in PROJECTIONS}
                changes = {name: [a.ffn.get(full) for a in adapters] for name, full in names.items()}
                layer.mlp = ColouredMLP(
                    layer.mlp, number, self.switch, changes, [*routers.values()], dtype, device
                )

    @property
    def lora_manager(self) -> Any:
        """vLLM's, which it sets when it has put its LoRA layers into the model."""
        return self._manager

    @lora_manager.setter
    def lora_manager(self, manager: Any) -> None:
        self._manager = manager
        if manager is not None:
            (wrapper,) = manager.punica_wrapper_mapping.values()
            self.switch.slots = wrapper._token_lora_indices
            activate = manager.activate_adapter

            def activate_and_tell(adapter: int) -> bool:
                activated: bool = activate(adapter)
                self.switch.meaning.place(manager.lora_index_to_id)
                return activated

            manager.activate_adapter = activate_and_tell


class MoErgesLlama(Coloured, LlamaForCausalLM):
    """Llama, and what is built like it."""


class MoErgesMistral(Coloured, MistralForCausalLM):
    """Mistral."""


class MoErgesQwen2(Coloured, Qwen2ForCausalLM):
    """Qwen2 and Qwen2.5."""


class MoErgesQwen3(Coloured, Qwen3ForCausalLM):
    """Qwen3."""


FAMILIES: dict[str, type[Coloured]] = {
    "llama": MoErgesLlama, "mistral": MoErgesMistral, "qwen2": MoErgesQwen2, "qwen3": MoErgesQwen3,
}  # fmt: skip


class MoErgesForCausalLM(LlamaForCausalLM):
    """The name under which vLLM finds a MoErges, whatever its base: makes the class of the base's family.

    As a class it says of itself what all four families have in common: text, LoRA, pipeline parallel.
    """

    def __new__(cls, *, vllm_config: VllmConfig, prefix: str = "") -> Any:
        """The model of the base's family. Raises PluginError for a family that is not known."""
        kind = vllm_config.model_config.hf_config.model_type
        if kind not in FAMILIES:
            raise PluginError(
                f"The base is a {kind!r} model; MoErges knows {', '.join(FAMILIES)}. Serve the mixture "
                "written out ('palette merge --method moerges --dense')."
            )
        family: Any = FAMILIES[kind]
        return family(vllm_config=vllm_config, prefix=prefix)


def _read_adapters(palette: PluginConfig, config: Any) -> list[Adapter]:
    """Every community's FFN, checked against the base's shape. Raises AdapterError."""
    adapters = []
    for folder in palette.adapters.values():
        adapter = read_adapter(Path(get_adapter_absolute_path(folder)), ffn_only=True)
        for module, change in adapter.ffn.items():
            number, part = int(module.split(".")[2]), module.rpartition(".")[2]
            wide, narrow = config.intermediate_size, config.hidden_size
            expected = (narrow, wide) if part == "down_proj" else (wide, narrow)
            shape = (change.b.shape[0], change.a.shape[1])
            if number >= config.num_hidden_layers or shape != expected:
                raise AdapterError(
                    f"{folder} is for another base: its {module} is {shape}, and this one has "
                    f"{config.num_hidden_layers} layers of {expected}."
                )
        adapters.append(adapter)
    return adapters


def _read_routers(palette: PluginConfig, config: Any) -> dict[str, Router]:
    """All routers of the palette, by name. Raises RouterError: another base's, other communities, or not the
    one that mixes among them.
    """
    routers = load_routers(Path(palette.router))
    if palette.use not in routers:
        raise RouterError(f"{palette.router} has no router {palette.use!r}; it has {', '.join(routers)}.")
    expected = (config.num_hidden_layers, len(palette.adapters), config.hidden_size)
    for router in routers.values():
        if router.communities and router.communities != tuple(palette.adapters):
            raise RouterError(
                f"{palette.router} is for {', '.join(router.communities)}; the palette has "
                f"{', '.join(palette.adapters)}, in this order."
            )
        if tuple(router.rows.shape) != expected:
            raise RouterError(
                f"{palette.router} has {tuple(router.rows.shape)} (layers, communities, width); this base "
                f"and map need {expected}."
            )
    return routers
