"""A palette folder: base, adapters and router rows as `palette ask`, `palette serve` and the embedded engine
take them. MoErges, five agents and the base from one copy of the weights, which is not written again.

    manifest.json          base, map, adapters, router, and the router that MoErges goes by
    adapters/africa/ ...   the communities' LoRA adapters, copied
    router.safetensors     rows by name: `paper` (the paper's), `fitted` (a linear discriminant)
    merge_report.json      what went in, what stays out of MoErges, the routers' figures
    README.md              a card
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from cultural_palette.artifacts import whole_folder, write_whole
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.embedded.quiet import hide_progress_bars
from cultural_palette.errors import ArtifactError
from cultural_palette.moerges.adapters import Adapter, read_adapter
from cultural_palette.moerges.model import install, same_base
from cultural_palette.moerges.peft_settings import AdapterError, read_config
from cultural_palette.moerges.prompts import FIT, router_prompts, texts_of
from cultural_palette.moerges.router import PAPER, Router, RouterError, save_routers
from cultural_palette.provenance import file_sha256, installed_versions
from cultural_palette.safe_text import as_code, without_html
from cultural_palette.training.merge.checkpoint import MergeError
from cultural_palette.training.merge.fitted import with_fitted
from cultural_palette.training.merge.members import refuse_quantised
from cultural_palette.training.merge.router import compare, examine, read_states, rows_from, summary

LARGE_BYTES = 6_000_000_000  # of a base's weights on disk, above which it is read in bfloat16
PACKAGES = ("cultural-palette", "torch", "transformers", "safetensors")
FILES = ("adapter_config.json", "adapter_model.safetensors")


def write_palette(
    base: Path,
    adapters: Mapping[str, Path],
    cultural_map: CulturalMap,
    prompts: Mapping[str, Sequence[str]],
    out: Path,
    *,
    map_name: str,
    rows: str = "residual",
    against_others: bool = False,
    router_dtype: str | None = None,
    any_base: bool = False,
    per_country: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """The palette folder `out`, whole or not there; returns its report.

    `adapters`: community -> LoRA folder, in the order of the router's rows. `prompts`, `rows`,
    `against_others`: of the paper's rows, as for a dense merge. `per_country`: prompts about each of the
    map's countries that the fitted rows are made from. Raises AdapterError for adapters that do not factor,
    are for another base, or do not fit (the message names the dense way), MergeError for what can not be
    written.
    """
    refuse_quantised(base)
    read = {key: read_adapter(folder) for key, folder in adapters.items()}
    for key, folder in adapters.items():
        trained_on = read_config(folder).get("base_model_name_or_path")
        if not any_base and not same_base(trained_on, str(base)):
            raise AdapterError(
                f"{folder} ({key}) was trained on {trained_on!r}, and the base is {str(base)!r}. If they are "
                "the same model under two names, say --any-base."
            )
    try:
        with whole_folder(out) as work:
            report = _write(
                base.resolve(), read, adapters, cultural_map, prompts, work, map_name=map_name, rows=rows,
                against_others=against_others, router_dtype=router_dtype, per_country=per_country, seed=seed,
                name=out.name,
            )  # fmt: skip
    except (ArtifactError, OSError) as error:
        raise MergeError(f"{out} can not be written: {error}") from error
    return report


def _write(
    base: Path, read: Mapping[str, Adapter], adapters: Mapping[str, Path], cultural_map: CulturalMap,
    prompts: Mapping[str, Sequence[str]], work: Path, *, map_name: str, rows: str, against_others: bool,
    router_dtype: str | None, per_country: int, seed: int, name: str,
) -> dict[str, Any]:  # fmt: skip
    keys = tuple(read)
    states = read_states(base, {key: list(prompts[key]) for key in keys}, router_dtype)
    gates = rows_from(states[rows], against_others=against_others)
    routers = {PAPER: Router(gates.float(), torch.zeros(gates.shape[:2]), keys)}
    model, tokenizer = _open(base)
    members = {key: _member(adapter, model) for key, adapter in read.items()}
    colours = install(model, read)
    countries = [iso3 for c in cultural_map.communities if c.key in keys for iso3 in c.countries]
    blend = PAPER
    try:
        fit = router_prompts(tokenizer, cultural_map, countries, per_country, texts=texts_of(FIT), seed=seed)
        routers, fitting = with_fitted(model, routers[PAPER], fit, keys, seed=seed)
        fitted: dict[str, Any] = asdict(fitting)
        blend = fitting.best()
    except (RouterError, ValueError) as error:  # a map of few countries, a base without a chat template
        fitted = {"none": str(error)}
    for router in routers.items():
        colours.add_router(*router)
    for key, folder in adapters.items():
        (work / "adapters" / key).mkdir(parents=True)
        for file in FILES:
            shutil.copy2(folder / file, work / "adapters" / key / file)
    save_routers(work / "router.safetensors", routers, keys)
    manifest = {
        "name": name,
        "map": map_name,
        "base": str(base),
        "adapters": {key: f"adapters/{key}" for key in keys},
        "router": "router.safetensors",
        "blend": blend,
    }
    report = {
        "method": "moerges",
        "form": "palette folder",
        "base": str(base),
        "members": members,
        "bytes": sum(file.stat().st_size for file in work.rglob("*") if file.is_file()),
        "router": {"rows": rows, "against_others": against_others, "prompts": dict(prompts)}
        | summary(examine(gates, states["ffn_in"]))
        | {"choices": compare(states)},
        "fitted": fitted,
        "blend": blend,
        "adapters_sha256": {key: file_sha256(folder / FILES[1]) for key, folder in adapters.items()},
        "versions": installed_versions(PACKAGES),
    }
    _json(work / "merge_report.json", report)
    write_whole(work / "README.md", _card(manifest, report))
    _json(work / "manifest.json", manifest)  # last: it makes the folder a palette
    return report


def _open(base: Path) -> tuple[Any, Any]:
    hide_progress_bars()
    stored = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    dtype = torch.bfloat16 if stored > LARGE_BYTES else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return model.train(False), transformers.AutoTokenizer.from_pretrained(base)


@torch.no_grad()
def _member(adapter: Adapter, model: Any) -> dict[str, Any]:
    """How many projections an adapter changes, by how much of the base's own size, and what stays out."""
    modules = dict(model.named_modules())
    change = own = 0.0
    for name, low in adapter.ffn.items():
        if (weight := getattr(modules.get(name), "weight", None)) is not None and weight.dim() == 2:
            change += _squared_norm(low.a, low.b)
            own += float(weight.float().pow(2).sum())
    return {
        "changed": len(adapter.ffn),
        "left_out": len(adapter.stays_out_of_moerges),
        "stays_out_of_moerges": list(adapter.stays_out_of_moerges),
        "relative_change": (change / own) ** 0.5 if own else 0.0,
    }


def _squared_norm(a: Tensor, b: Tensor) -> float:
    """Squared Frobenius norm of B A, without writing it out. a: (rank, in), b: (out, rank)."""
    return float(((a.float() @ a.float().T) * (b.float().T @ b.float())).sum())


def _json(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _card(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    rows = "\n".join(
        f"| {key} | {row['changed']} | {row['relative_change']:.2e} | {row['left_out']} |"
        for key, row in report["members"].items()
    )
    text = f"""# {manifest["name"]}

A palette: one base, a LoRA adapter for each community of the map {as_code(manifest["map"])}, and routers of
their mixture. Its base, {as_code(manifest["base"])}, is not in this folder.

| community | projections changed | change of the FFN's weights | left out of MoErges |
|---|---|---|---|
{rows}

    palette ask --model embedded:FOLDER --country KEN "What is a good life?"
    palette serve up FOLDER
"""
    return without_html(text)
