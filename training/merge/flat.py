"""One model from five: TIES and Model Stock, tensor by tensor in float32, by MergeKit's own methods.

Only what a community changes is merged; the rest is copied. So an 8B model merges in the memory of its
largest changed tensor, a few times over, where MergeKit's whole-model run takes 47 GiB; the values are the
same, bit for bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge_methods import merge_tensors

from cultural_palette.training.merge import checks, report
from cultural_palette.training.merge.checkpoint import (
    Checkpoint,
    MergeError,
    Shards,
    carry,
    dtype_of,
    unfinished,
)
from cultural_palette.training.merge.members import FullModel, Member, norm, open_members

SCRATCH = "scratch"
ANGLE_VALUES = 1 << 22  # values of each tensor at a time
PART_BYTES = 4_000_000_000  # of float32 inputs at a time; a tensor with more is merged by rows


@dataclass(frozen=True)
class FlatSettings:
    """How members are weighed.

    `weight`: of every community, before normalising. `density`: share of a community's largest changes that
    TIES keeps, 0..1 (MergeKit's default of 1 trims nothing). `scale`: TIES' lambda. `filter_wise`: Model
    Stock's t for each row of a matrix in place of each tensor.
    """

    weight: float = 1.0
    density: float = 0.2
    scale: float = 1.0
    filter_wise: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise MergeError(f"density {self.density} is not in 0..1 (above 0).")
        if not self.weight > 0:
            raise MergeError(f"weight {self.weight} is not above 0.")


@dataclass(frozen=True)
class Method:
    """A method by MergeKit's name. `shared`, `each`: its parameters; `fewest`: members it needs."""

    name: str
    source: str
    fewest: int
    shared: Callable[[FlatSettings], dict[str, Any]]
    per_model: Callable[[FlatSettings], dict[str, Any]]


METHODS = {
    "ties": Method(
        "ties", "Yadav et al. 2023, TIES-Merging, algorithm 1", 2,
        lambda s: {"normalize": True, "lambda": s.scale},
        lambda s: {"weight": s.weight, "density": s.density},
    ),
    "model_stock": Method(
        "model_stock", "Jang et al. 2024, Model Stock, eq. 7", 2,
        lambda s: {"filter_wise": s.filter_wise}, lambda s: {},
    ),
}  # fmt: skip


def merge_flat(
    method: str, base: Path, members: Mapping[str, Path], out: Path, *, settings: FlatSettings | None = None,
    dtype: str | None = None, any_base: bool = False, vllm_check: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One model under `out` from several; returns MergeKit's configuration of the merge, kept beside it.

    `members`: community -> LoRA adapter or full model. `dtype` of the result: None for the base's.
    Raises MergeError: unknown method, too few members, members that do not fit, values not finite, a full
    disk.
    """
    if method not in METHODS:
        raise MergeError(f"Unknown method {method!r}. It is one of {', '.join(METHODS)}, moerges.")
    how, settings = METHODS[method], settings or FlatSettings()
    if len(members) < how.fewest:
        raise MergeError(f"{len(members)} communities: {method} needs at least {how.fewest}.")
    source = Checkpoint(Path(base))
    opened = open_members(source, members, any_base=any_base)
    out_dtype = dtype_of(dtype) or source.dtype
    recipe = mergekit_config(how, settings, source, opened, str(out_dtype).removeprefix("torch."))
    with unfinished(
        Path(out), needed_bytes=int(source.count() * out_dtype.itemsize * 1.02) + 50_000_000
    ) as work:
        _write_config(source, work, out_dtype)
        shards = Shards(work, out_dtype)
        (work / SCRATCH).mkdir()
        moved, angles, result = _write(how, settings, source, opened, shards, work / SCRATCH)
        shutil.rmtree(work / SCRATCH)
        shards.close()
        carried = carry(source.folder, work)
        (work / "mergekit_config.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        results = checks.check(work, source.folder, shards.bytes, carried, vllm=vllm_check)
        extra = {"model_stock": angles} if angles else {}
        report.write(
            work, method, source, opened, dtype=str(out_dtype).removeprefix("torch."), moved=moved,
            result=result, checks=results, bytes=shards.bytes, **extra,
        )  # fmt: skip
    return recipe


def merge_adapter(
    base: Path, adapter: Path, out: Path, *, dtype: str = "float32", any_base: bool = False
) -> None:
    """The full model of one community: base plus its LoRA adapter, as PEFT merges it, tensor by tensor."""
    source = Checkpoint(Path(base))
    (member,) = open_members(source, {Path(adapter).name: Path(adapter)}, any_base=any_base)
    out_dtype = dtype_of(dtype)
    with unfinished(Path(out), needed_bytes=int(source.count() * out_dtype.itemsize * 1.02)) as work:
        _write_config(source, work, out_dtype)
        shards = Shards(work, out_dtype)
        for name in source.files:
            tensor = source.tensor(name)
            shards.write(name, member.weight(name, tensor.float()) if member.touches(name) else tensor)
        shards.close()
        carry(source.folder, work)


def mergekit_config(
    how: Method, settings: FlatSettings, source: Checkpoint, members: Sequence[Member], dtype: str
) -> dict[str, Any]:
    """What `mergekit-yaml` would be given for this merge, models by name; MergeKit's own reader takes it."""
    models = []
    for member in members:
        name = member.key if isinstance(member, FullModel) else f"{source.folder.name}+{member.key}"
        model: dict[str, Any] = {"model": name}
        if parameters := how.per_model(settings):
            model["parameters"] = parameters
        models.append(model)
    config = {
        "merge_method": how.name, "base_model": source.folder.name, "models": models,
        "parameters": how.shared(settings), "dtype": "float32", "out_dtype": dtype,
    }  # fmt: skip
    MergeConfiguration.model_validate(config)
    return config


def angle(base: Any, weights: Sequence[Any]) -> tuple[float, float]:
    """(cosine, t) of Model Stock for one tensor, summed in float64.

    The mean cosine between the members' changes, and how far the result goes from the base (0) to their mean
    (1): t = n cos / (1 + (n - 1) cos). A change of zero has no direction and counts as cosine 0.
    """
    count = len(weights)
    products = torch.zeros(count, count, dtype=torch.float64)
    pieces = (weight.reshape(-1).split(ANGLE_VALUES) for weight in (base, *weights))
    for origin, *rows in zip(*pieces, strict=True):
        changes = torch.stack([row - origin for row in rows]).double()
        products += changes @ changes.T
    norms = products.diagonal().sqrt()
    cosines = products / (norms[:, None] * norms).clamp(min=torch.finfo(torch.float64).tiny)
    cosine = float(cosines.triu(1).sum()) / (count * (count - 1) / 2)
    below = 1 + (count - 1) * cosine
    return cosine, (count * cosine / below if abs(below) > 1e-6 else 0.0)


def _write(
    how: Method,
    settings: FlatSettings,
    source: Checkpoint,
    members: Sequence[Member],
    shards: Shards,
    scratch: Path,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Every tensor. How far each member and the result are from the base, and Model Stock's angles."""
    moved = {member.key: checks.Moved() for member in members}
    result = checks.Moved()
    angles: dict[str, dict[str, float]] = {}
    for name in source.files:
        tensor = source.tensor(name)
        if "rotary_emb" in name:
            continue
        if not tensor.is_floating_point() or not any(member.touches(name) for member in members):
            shards.write(name, tensor)
            continue
        base = tensor.float()
        weights = [member.weight(name, base) if member.touches(name) else base for member in members]
        size = norm(base)
        for member, weight in zip(members, weights, strict=True):
            touched = member.touches(name)
            moved[member.key].add(name, size, member.change_norm(name, base, weight) if touched else 0.0)
        if all(torch.equal(weight, base) for weight in weights):
            shards.write(name, tensor)
            continue
        merged = _merge_tensor(how, settings, base, weights, scratch)
        if how.name == "model_stock":
            cosine, t = angle(base, weights)
            angles[name] = {"cosine": round(cosine, 6), "t": round(t, 6)}
        result.add(name, size, norm(merged.to(shards.dtype).float() - base))
        shards.write(name, merged)
    for member in members:
        moved[member.key].require(member.path, "tensor")
    means = (
        {k: round(sum(item[k] for item in angles.values()) / len(angles), 6) for k in ("cosine", "t")}
        if angles
        else {}
    )
    return (
        {key: item.figures() for key, item in moved.items()},
        {"mean": means, "tensors": angles} if angles else {},
        result.figures(),
    )


def _merge_tensor(
    how: Method, settings: FlatSettings, base: Any, weights: Sequence[Any], scratch: Path
) -> Any:
    """One tensor by MergeKit, float32. A large one goes by rows, after what needs the whole of it."""
    parts = -(-base.numel() * 4 * (len(weights) + 1) // PART_BYTES) if base.dim() > 1 else 1
    if how.name == "ties" and settings.density < 1:  # trimming needs the whole change
        changes = []
        for index, weight in enumerate(weights):
            trimmed = trim(weight - base, settings.density)
            changes.append(trimmed if parts == 1 else _mapped(trimmed, scratch / f"{index}"))
        origin = base.new_zeros(1).expand_as(base)
        return base + _by_rows(how, replace(settings, density=1.0), origin, changes, parts)
    if parts > 1 and how.name == "model_stock" and not settings.filter_wise:
        _, t = angle(base, weights)  # MergeKit's formula, its cosine summed in parts
        rows = zip(*(tensor.chunk(parts) for tensor in (base, *weights)), strict=True)
        return torch.cat([t * sum(others) / len(others) + (1 - t) * origin for origin, *others in rows])
    return _by_rows(how, settings, base, weights, parts)


def trim(change: Any, density: float) -> Any:
    """The change with all but its largest values at zero: as MergeKit's `sparsify` keeps them.

    By selection, in place of a sort of the whole tensor: that is where TIES' time goes. Of equal values
    at the edge the first stay; MergeKit's sort is not stable, so its choice among them is arbitrary.
    """
    sizes = change.abs().reshape(-1)
    count = max(1, int(density * sizes.numel()))
    edge = float(np.partition(sizes.numpy(), sizes.numel() - count)[sizes.numel() - count])
    largest = sizes > edge
    short = count - int(largest.sum())
    largest[(sizes == edge).nonzero()[:short, 0]] = True
    return torch.where(largest.view_as(change), change, 0)


def _by_rows(how: Method, settings: FlatSettings, base: Any, weights: Sequence[Any], parts: int) -> Any:
    rows = zip(*(tensor.chunk(parts) for tensor in (base, *weights)), strict=True)
    merged = [_by_mergekit(how, settings, origin, others) for origin, *others in rows]
    return merged[0] if len(merged) == 1 else torch.cat(merged)


def _by_mergekit(how: Method, settings: FlatSettings, base: Any, weights: Sequence[Any]) -> Any:
    per_model = how.per_model(settings)
    parameters = how.shared(settings) | {key: [value] * len(weights) for key, value in per_model.items()}
    return merge_tensors([base, *weights], how.name, parameters=parameters, base_index=0, dtype=torch.float32)


def _mapped(tensor: Any, file: Path) -> Any:
    """The same float32 tensor, but on the disk, from where it is read when needed."""
    mapped = torch.from_file(str(file), shared=True, size=tensor.numel(), dtype=torch.float32).view_as(tensor)
    return mapped.copy_(tensor)


def _write_config(source: Checkpoint, work: Path, dtype: Any) -> None:
    config = {key: value for key, value in source.config.items() if key != "torch_dtype"}
    config["dtype"] = str(dtype).removeprefix("torch.")
    (work / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
