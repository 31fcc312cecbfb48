"""Router rows by name: on disk, in memory.

`paper`: the base's state at the bare names of the communities, normalised (Yuan et al., section 4.1; made in
`training.merge.router`). `fitted`: a linear discriminant of the router's input, with a bias a row (made in
`fitting.py`). A file holds any number of routers; one with MergeKit's names
(`...block_sparse_moe.gate.weight`) holds one, which is called `paper`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cultural_palette.errors import PaletteError
from cultural_palette.jsonl import parse_json

MERGEKIT_NAME = re.compile(r"model\.layers\.(\d+)\.(?:block_sparse_moe|mlp)\.gate\.weight")
NAME = re.compile(r"[a-z][a-z0-9_]*")
PAPER, FITTED = "paper", "fitted"


class RouterError(PaletteError):
    """A router that is not whole, or is for another base or other communities."""


@dataclass(frozen=True)
class Router:
    """G(h) = softmax(h rows' + bias), layer by layer. `rows`: (layers, communities, hidden); `bias`: (layers,
    communities); `communities`: their keys, empty where the file does not say.
    """

    rows: Tensor
    bias: Tensor
    communities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rows.dim() != 3 or self.rows.shape[:2] != self.bias.shape:
            raise RouterError(
                f"Router rows {tuple(self.rows.shape)} and biases {tuple(self.bias.shape)} differ."
            )
        if not (bool(self.rows.isfinite().all()) and bool(self.bias.isfinite().all())):
            raise RouterError("The router has values that are not finite.")

    def weights(self, layer: int, states: Tensor) -> Tensor:
        """The gate at one layer. `states`: (tokens, hidden) -> (tokens, communities)."""
        return torch.addmm(self.bias[layer], states.float(), self.rows[layer].T).softmax(-1)


def save_routers(path: Path, routers: Mapping[str, Router], communities: tuple[str, ...]) -> None:
    """All routers of a palette into one file, with the communities' order."""
    tensors: dict[str, Tensor] = {}
    for name, router in routers.items():
        if not NAME.fullmatch(name):
            raise RouterError(f"Router name {name!r}: use a-z, 0-9 and underscores, a letter first.")
        tensors[f"{name}.rows"] = router.rows.float().clone()
        tensors[f"{name}.bias"] = router.bias.float().clone()
    save_file(tensors, path, metadata={"communities": json.dumps(list(communities))})


def load_routers(path: Path) -> dict[str, Router]:
    """The routers of a file by name. Raises RouterError: not there, not whole, no router in it."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        communities = tuple(map(str, parse_json(metadata.get("communities", "[]"))))
    except FileNotFoundError:
        raise RouterError(f"No router {path}.") from None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise RouterError(f"{path} can not be read: {error}. Is the download complete?") from None
    numbered = {int(m[1]): t for name, t in tensors.items() if (m := MERGEKIT_NAME.fullmatch(name))}
    if numbered:
        if sorted(numbered) != list(range(len(numbered))):
            raise RouterError(f"{path} has router rows of the layers {sorted(numbered)}; some are missing.")
        rows = torch.stack([numbered[layer] for layer in range(len(numbered))])
        return {PAPER: Router(rows, torch.zeros(rows.shape[:2]), communities)}
    names = [name.removesuffix(".rows") for name in tensors if name.endswith(".rows")]
    if not names or any(f"{name}.bias" not in tensors for name in names):
        raise RouterError(
            f"{path} has no router, or one without its biases: {', '.join(tensors) or 'empty'}."
        )
    return {name: Router(tensors[f"{name}.rows"], tensors[f"{name}.bias"], communities) for name in names}
