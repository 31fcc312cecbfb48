"""`palette merge`: several communities' adapters or models become one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cultural_palette.cli.lookup import map_option
from cultural_palette.cli.text import echo
from cultural_palette.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cultural_palette.cultural_map import CulturalMap

# Told apart again in training.merge, which is too heavy to import for a help text; a test compares.
METHOD_NAMES = ("ties", "model_stock", "moerges")
PLACE_NAMES = ("residual", "attn_out", "ffn_in")
PROMPT_SET_NAMES = ("names", "adjectives", "countries", "rich")
DTYPES = ("float32", "bfloat16", "float16")


@click.command()
@click.argument("members", nargs=-1, metavar="[COMMUNITY=FOLDER]...")
@click.option("--method", required=True, type=click.Choice(METHOD_NAMES), help="How they become one.")
@click.option("--base", required=True, metavar="MODEL", help="The model they come from: folder or hub name.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the result.")
@click.option(
    "--adapters",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Holds a folder for each community of the map.",
)
@map_option
@click.option(
    "--overwrite", is_flag=True, help="Replace a result that is there already, once the new one is whole."
)
@click.option(
    "--dense", is_flag=True, help="moerges: the mixture written out, five FFNs a layer, for other engines."
)
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the result.  [default: the base's]")
@click.option("--any-base", is_flag=True, help="Take adapters that name another base, if their shapes fit.")
@click.option("--weight", default=1.0, show_default=True, help="ties: weight of every community.")
@click.option(
    "--density", default=0.2, show_default=True, help="ties: share of the changes that is kept, 0 to 1."
)
@click.option("--scale", default=1.0, show_default=True, help="ties: lambda, a factor on the merged change.")
@click.option("--filter-wise", is_flag=True, help="model_stock: one t for each row of a matrix.")
@click.option(
    "--rows", type=click.Choice(PLACE_NAMES), default="residual", show_default=True,
    help="moerges: what router rows are read from: residual stream, attention output or the FFN's input.",
)  # fmt: skip
@click.option(
    "--prompts", "prompt_set", type=click.Choice(PROMPT_SET_NAMES), default="names", show_default=True,
    help="moerges: prompts of a router row: bare name (the paper), or more from the map.",
)  # fmt: skip
@click.option("--centre", is_flag=True, help="moerges: take the other communities' mean off each router row.")
@click.option(
    "--router-dtype",
    type=click.Choice(DTYPES),
    help="moerges: for reading rows.  [default: float32; bfloat16 above 3B]",
)
@click.option(
    "--vllm-check/--no-vllm-check",
    default=True,
    show_default=True,
    help="Load it in vLLM where that is installed.",
)
def merge(
    members: tuple[str, ...], method: str, base: str, out: Path, adapters: Path | None, map_name: str | None,
    overwrite: bool, dense: bool, dtype: str | None, any_base: bool, weight: float, density: float,
    scale: float, filter_wise: bool, rows: str, prompt_set: str, centre: bool, router_dtype: str | None,
    vllm_check: bool,
) -> None:  # fmt: skip
    """Merge communities' LoRA adapters or full models into one model.

    Communities come from --adapters, one folder each by its key, or as COMMUNITY=FOLDER.

    \b
    palette merge --method moerges --base base --adapters runs/continents --out runs/palette
    palette merge --method ties --base base --out runs/ties africa=a asia=b europe=c
    """
    from cultural_palette.cultural_map import load_map
    from cultural_palette.settings import get_settings

    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already. Take another --out, or say --overwrite.")
    if out.exists() and not _is_result(out):
        raise UsageError(
            f"{out} is no result of 'palette merge', so it is not overwritten. Take another --out."
        )
    cultural_map = load_map(get_settings(map=map_name).map)
    paths = _paths(members, adapters, cultural_map)

    from cultural_palette.training.merge import FlatSettings, map_prompts, merge_flat, merge_moerges

    shared: dict[str, Any] = {"dtype": dtype, "any_base": any_base, "vllm_check": vllm_check}
    folder = _model_folder(base)
    if method == "moerges":
        if strangers := sorted(set(paths) - {c.key for c in cultural_map.communities}):
            known = ", ".join(c.key for c in cultural_map.communities)
            raise UsageError(
                f"The map {cultural_map.key!r} has no community {strangers[0]!r}; it has {known}."
            )
        prompts = map_prompts(cultural_map, prompt_set)
        if not dense:
            from cultural_palette.training.merge.palette_folder import write_palette

            write_palette(
                folder, paths, cultural_map, prompts, out, map_name=get_settings(map=map_name).map, rows=rows,
                against_others=centre, router_dtype=router_dtype, any_base=any_base,
            )  # fmt: skip
            _tell(out)
            return
        merge_moerges(
            folder, paths, prompts, out, rows=rows, against_others=centre, router_dtype=router_dtype, **shared
        )
    else:
        settings = FlatSettings(weight=weight, density=density, scale=scale, filter_wise=filter_wise)
        merge_flat(method, folder, paths, out, settings=settings, **shared)
    _tell(out)


def _is_result(out: Path) -> bool:
    """Whether the folder may be replaced: it is empty, or holds a merge's report."""
    return out.is_dir() and ((out / "merge_report.json").is_file() or not any(out.iterdir()))


def _paths(members: Sequence[str], adapters: Path | None, cultural_map: CulturalMap) -> Mapping[str, Path]:
    """Community to folder, in the map's order for --adapters, as written otherwise."""
    if bool(members) == bool(adapters):
        raise UsageError("Say which communities: either --adapters FOLDER, or COMMUNITY=FOLDER for each.")
    paths: dict[str, Path] = {}
    if adapters is not None:
        for community in cultural_map.communities:
            if not (adapters / community.key).is_dir():
                raise UsageError(
                    f"{adapters} has no folder {community.key!r}. It needs one for each community of the map "
                    f"{cultural_map.key!r}: {', '.join(c.key for c in cultural_map.communities)}."
                )
            paths[community.key] = adapters / community.key
        return paths
    for pair in members:
        key, equals, path = pair.partition("=")
        if not (key and equals and path):
            raise UsageError(f"{pair!r}: expected COMMUNITY=FOLDER, such as africa=runs/africa.")
        if key in paths:
            raise UsageError(f"{key!r} stands twice.")
        paths[key] = Path(path)
    return paths


def _model_folder(reference: str) -> Path:
    """A local folder as it is; a hub name's files, downloaded once."""
    path = Path(reference)
    if path.is_dir():
        return path
    if reference.count("/") != 1 or reference.startswith((".", "/", "~")):
        raise UsageError(
            f"--base {reference!r} is no folder, and no hub name like 'Qwen/Qwen2.5-7B-Instruct'."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                reference, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
            )
        )
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors and ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"--base {reference!r} is no folder, and the hub did not give it: {reason}"
        ) from None


def _tell(out: Path) -> None:
    """What came out, from the report."""
    import json

    report = json.loads((out / "merge_report.json").read_text(encoding="utf-8"))
    echo(f"{out}: {report['method']} of {len(report['members'])} communities, {report['bytes'] / 1e9:.2f} GB")
    for key, row in report["members"].items():
        aside = f", {row['left_out']} tensors left out" if row["left_out"] else ""
        echo(f"  {key}: {row['changed']} tensors changed by {row['relative_change']:.2e}{aside}")
    if router := report.get("router"):
        mean, bad = router["mean"], router["degenerate_layers"]
        echo(
            f"  router: entropy {mean['entropy']:.3f} of 1, own expert {mean['own_share']:.3f}, "
            f"condition {mean['condition']:.1f}"
        )
        if bad:
            echo(
                f"  degenerate in {len(bad)} of {len(router['layers'])} layers; see merge_report.json",
                err=True,
            )
    if stock := report.get("model_stock"):
        echo(f"  model stock: mean cosine {stock['mean']['cosine']:.4f}, mean t {stock['mean']['t']:.4f}")
