"""The FFN whose colours are weighted per token, and the attention projections of the agents.

Inference only. Both read what each row of the batch is from a `Switch` that all layers share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cultural_palette.moerges.adapters import LowRank, stack
from cultural_palette.moerges.mixture import LowRanks, mixture, pieces
from cultural_palette.moerges.modes import Agent, Base, Blend, Mode, Routed

Rows = slice | Tensor


@dataclass(frozen=True)
class Group:
    """Rows of one mode. `rows`: into the batch; `community`: of a one-hot; `weights`: (communities,)."""

    rows: Rows
    mode: Mode
    community: int | None = None
    weights: Tensor | None = None


@dataclass
class Batch:
    """What the rows of a batch are, and the router's weights that the layers leave here.

    `tokens`: (rows, length) bool, the tokens whose weights count in the forward pass to come; None: none.
    `agents`: (rows, communities), one where the row is that agent; None unless all are, of two at least.
    """

    size: int
    groups: tuple[Group, ...]
    tokens: Tensor | None = None
    agents: Tensor | None = None
    sums: dict[int, Tensor] = field(default_factory=dict)
    counted: dict[int, Tensor] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether every row is the base."""
        return all(isinstance(group.mode, Base) for group in self.groups)

    def router_weights(self) -> Tensor:
        """Mean weights over the tokens that counted. (rows, layers, communities), float32; a row of the base
        or of an agent is zero.
        """
        layers = sorted(self.sums)
        return torch.stack([self.sums[i] / self.counted[i].clamp(min=1)[:, None] for i in layers], dim=1)


class Switch:
    """The batch that the next forward pass is about; None: every row is the base."""

    def __init__(self) -> None:
        self.batch: Batch | None = None

    def batch_of(self, rows: int) -> Batch | None:
        """The batch, None when it is all base. Raises ValueError when it has another number of rows."""
        if self.batch is None or self.batch.plain:
            return None
        if self.batch.size != rows:
            raise ValueError(f"The modes are those of {self.batch.size} rows, and the batch has {rows}.")
        return self.batch


def plan(modes: Sequence[Mode], communities: Sequence[str], device: torch.device) -> Batch:
    """Rows of equal mode together, as slices where they stand side by side."""
    places: dict[Mode, list[int]] = {}
    for row, mode in enumerate(modes):
        places.setdefault(mode, []).append(row)
    index = {key: number for number, key in enumerate(communities)}
    groups = []
    for mode, rows in places.items():
        whole = rows[-1] - rows[0] + 1 == len(rows)
        where = slice(rows[0], rows[-1] + 1) if whole else torch.tensor(rows, device=device)
        if isinstance(mode, Agent):
            groups.append(Group(where, mode, community=index[mode.community]))
        elif isinstance(mode, Blend):
            weights = torch.zeros(len(communities), device=device)
            for key, weight in mode.weights:
                weights[index[key]] = weight
            certain = weights.argmax() if bool((weights == 1).any()) else None
            groups.append(Group(where, mode, None if certain is None else int(certain), weights))
        else:
            groups.append(Group(where, mode))
    agents = None
    if len(groups) > 1 and all(isinstance(mode, Agent) for mode in places):
        agents = torch.zeros(len(modes), len(communities), device=device)
        for group in groups:
            agents[group.rows, group.community] = 1.0
    return Batch(len(modes), tuple(groups), agents=agents)


class ColouredFFN(nn.Module):
    """A gated FFN (Llama, Mistral, Qwen2, Qwen3) with every community's low-rank change beside it.

    It takes over the base's own modules, under their own names, so a quantised base keeps its linear layers
    and a checkpoint's names stay. `changes`: projection ("gate", "up", "down") -> one change a community,
    None for none. Routers are added by `add_router`.
    """

    gate_proj: Any
    up_proj: Any
    down_proj: Any
    act_fn: Any
    gate_a: Tensor  # (communities, rank, hidden), and so on
    gate_b: Tensor
    up_a: Tensor
    up_b: Tensor
    down_a: Tensor
    down_b: Tensor

    def __init__(
        self,
        base: Any,
        number: int,
        switch: Switch,
        changes: dict[str, list[LowRank | None]],
        shapes: dict[str, tuple[int, int]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = base.gate_proj, base.up_proj, base.down_proj
        self.act_fn = base.act_fn
        self.number, self.switch = number, switch
        self.ranks: dict[str, list[int]] = {}
        for name in ("gate", "up", "down"):
            a, b = stack(changes[name], *shapes[name])
            self.register_buffer(f"{name}_a", a.to(device, dtype), persistent=False)
            self.register_buffer(f"{name}_b", b.to(device, dtype), persistent=False)
            self.ranks[name] = [change.rank if change is not None else 0 for change in changes[name]]
        self.communities = len(changes["gate"])
        self._routers: set[str] = set()

    def add_router(self, name: str, rows: Tensor, bias: Tensor | None = None) -> None:
        """A router by name. `rows`: (communities, hidden); `bias`: (communities,). Kept in float32."""
        device = self.gate_a.device
        bias = torch.zeros(len(rows)) if bias is None else bias
        self.register_buffer(f"router_{name}", rows.float().to(device), persistent=False)
        self.register_buffer(f"router_{name}_bias", bias.float().to(device), persistent=False)
        self._routers.add(name)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, length, hidden) -> the same."""
        batch = self.switch.batch_of(x.shape[0])
        gate, up = self.gate_proj(x), self.up_proj(x)
        if batch is None:
            out: Tensor = self.down_proj(self.act_fn(gate).mul_(up))
            return out
        if batch.agents is not None and x.shape[1] == 1:
            return self._agents_at_once(batch.agents.to(x.dtype), x, gate, up)
        low = torch.zeros_like(x)
        for group in batch.groups:
            self._colour(group, batch, x, gate, up, low)
        mixed: Tensor = self.down_proj(gate).add_(low)
        return mixed

    def _colour(self, group: Group, batch: Batch, x: Tensor, gate: Tensor, up: Tensor, low: Tensor) -> None:
        """The group's hidden activations into `gate`, the low-rank part of its output into `low`."""
        rows = group.rows
        if isinstance(group.mode, Base):
            gate[rows] = self.act_fn(gate[rows]).mul_(up[rows])
            return
        mine = x[rows]
        length, hidden = mine.shape[1:]
        tokens, g, u = mine.reshape(-1, hidden), gate[rows].flatten(0, 1), up[rows].flatten(0, 1)
        weights = None if group.community is not None else self._weights(group, tokens)
        if batch.tokens is not None and not isinstance(group.mode, Agent):
            given = group.weights.expand(len(tokens), -1) if group.weights is not None else weights
            assert given is not None
            self._record(batch, rows, given.reshape(-1, length, self.communities))
        if weights is None:
            assert group.community is not None
            g, y = self._agent(tokens, g, u, group.community)
        else:
            low_ranks = LowRanks(self.gate_a, self.gate_b, self.up_a, self.up_b, self.down_a, self.down_b)
            g, y = mixture(tokens, g, u, weights, low_ranks, self.act_fn, out=g)
        gate[rows] = g.view(-1, length, g.shape[-1])
        low[rows] = y.view(-1, length, hidden)

    def _weights(self, group: Group, tokens: Tensor) -> Tensor:
        """(tokens, communities), float32, rows sum to 1."""
        if group.weights is not None:
            return group.weights.expand(len(tokens), -1)
        assert isinstance(group.mode, Routed)
        rows = getattr(self, f"router_{group.mode.router}")
        bias = getattr(self, f"router_{group.mode.router}_bias")
        return torch.addmm(bias, tokens.float(), rows.T).softmax(-1)

    def _record(self, batch: Batch, rows: Rows, weights: Tensor) -> None:
        assert batch.tokens is not None
        if self.number not in batch.sums:
            batch.sums[self.number] = weights.new_zeros(batch.size, self.communities)
            batch.counted[self.number] = weights.new_zeros(batch.size)
        counts = batch.tokens[rows].to(weights.dtype)
        batch.sums[self.number][rows] += torch.einsum("blc,bl->bc", weights, counts)
        batch.counted[self.number][rows] += counts.sum(1)

    def _agents_at_once(self, own: Tensor, x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        """Rows of several agents, a token each: every community's change in one product, all but the row's
        own zero. A step of five drafts calls a third as many kernels as one agent after the other.
        """
        h = self.act_fn(self._own(own, x, "gate", gate)).mul_(self._own(own, x, "up", up))
        return self._own(own, h, "down", self.down_proj(h))

    def _own(self, own: Tensor, x: Tensor, name: str, out: Tensor) -> Tensor:
        """`out` and each row's own change of `x`. (rows, 1, width)"""
        a, b = getattr(self, f"{name}_a"), getattr(self, f"{name}_b")
        low = (x[:, 0] @ a.flatten(0, 1).T).view(len(x), self.communities, -1) * own[:, :, None]
        return torch.addmm(out[:, 0], low.flatten(1), b.flatten(0, 1))[:, None]

    def _agent(self, x: Tensor, gate: Tensor, up: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """One community's activations, written into `gate`, and the low-rank part of its output."""
        y = torch.empty_like(x)
        for part in pieces(x):
            gate[part], y[part] = self._one(x[part], gate[part], up[part], index)
        return gate, y

    def _one(self, x: Tensor, gate: Tensor, up: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """The same for tokens that are worked on together, at the community's own ranks."""
        ranks = {name: self.ranks[name][index] for name in self.ranks}
        if ranks["gate"]:
            gate = torch.addmm(
                gate, x @ self.gate_a[index, : ranks["gate"]].T, self.gate_b[index, : ranks["gate"]]
            )
        if ranks["up"]:
            up = torch.addmm(up, x @ self.up_a[index, : ranks["up"]].T, self.up_b[index, : ranks["up"]])
        h = self.act_fn(gate).mul_(up)
        r = ranks["down"]
        return h, (h @ self.down_a[index, :r].T) @ self.down_b[index, :r]


class AgentLinear(nn.Module):
    """A linear layer of attention to which an agent's rows add their own low-rank change."""

    def __init__(
        self,
        base: nn.Module,
        switch: Switch,
        changes: list[LowRank | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.base_layer, self.switch = base, switch
        self.changed = [change is not None for change in changes]
        for index, change in enumerate(changes):
            if change is not None:
                self.register_buffer(f"a_{index}", change.a.to(device, dtype), persistent=False)
                self.register_buffer(
                    f"b_{index}", change.b.T.contiguous().to(device, dtype), persistent=False
                )

    def forward(self, x: Tensor) -> Tensor:
        """(rows, length, in) -> (rows, length, out)"""
        out: Tensor = self.base_layer(x)
        batch = self.switch.batch_of(x.shape[0])
        for group in batch.groups if batch is not None else ():
            if isinstance(group.mode, Agent) and self.changed[index := group.community or 0]:
                rows = group.rows
                a, b = getattr(self, f"a_{index}"), getattr(self, f"b_{index}")
                out[rows] = out[rows] + (x[rows] @ a.T) @ b
        return out
