"""What router rows are worth on countries and texts that they were not made from.

    python -m cultural_palette.training.merge.router_report BASE --report FILE --rows router.safetensors

The router's input is read in the base at whole prompts of the meta agent about the map's countries. `fitted`
rows are made from the fit's countries and texts, and measured, beside the paper's rows, on held-out countries
and texts. Rows of a file, such as a palette's, are measured beside them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
import transformers

from cultural_palette.cultural_map import CulturalMap, load_map
from cultural_palette.moerges.fitting import fit_router, weights_at
from cultural_palette.moerges.prompts import (
    FIT,
    HELD_OUT,
    RouterPrompt,
    router_prompts,
    split_countries,
    texts_of,
)
from cultural_palette.moerges.router import FITTED, PAPER, Router, load_routers, save_routers
from cultural_palette.moerges.scoring import score
from cultural_palette.training.merge.router import map_prompts, read_states, rows_from
from cultural_palette.training.nano.router_prompts import atlas_prompts

PAPER_PLACES = {"paper": "attn_out", "paper (residual)": "residual", "paper (ffn_in)": "ffn_in"}


@click.command()
@click.argument("base", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--map", "map_name", default="continents", show_default=True)
@click.option("--held-out", default=0.25, show_default=True, help="Share of countries kept out of the fit.")
@click.option("--per-country", default=5, show_default=True, help="Prompts about each country.")
@click.option("--seed", default=0, show_default=True)
@click.option("--nano", is_flag=True, help="The nano palette's atlas: its countries, texts and accounts.")
@click.option(
    "--rows", "extra", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A router file whose rows are measured too; if they were fitted, then on these countries as well.",
)  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write paper and fitted rows.")
def main(
    base: Path, map_name: str, held_out: float, per_country: int, seed: int, nano: bool, extra: Path | None,
    report: Path | None, save: Path | None,
) -> None:  # fmt: skip
    """Fit router rows on BASE and measure them on countries held out."""
    figures = measure(
        base, load_map(map_name), held_out, per_country, seed, nano=nano, extra=extra, save=save
    )
    text = json.dumps(figures, indent=2)
    if report:
        report.write_text(text + "\n", encoding="utf-8")
    click.echo(
        f"{'rows':<18} {'largest':>8} {'95 %':>16} {'own weight':>11} {'entropy':>8}  most often elsewhere"
    )
    for name, row in figures["rows"].items():
        low, high = row["largest_95"]
        click.echo(
            f"{name:<18} {row['largest']:>8.3f} {f'{low:.3f} to {high:.3f}':>16} {row['own_weight']:>11.3f} "
            f"{row['entropy']:>8.3f}  {_most(row['elsewhere'])}"
        )
    first = next(iter(figures["rows"].values()))
    click.echo(f"{first['prompts']} prompts about {first['countries']} countries that are in no fit.")


def _most(shares: dict[str, float]) -> str:
    key = max(shares, key=lambda community: shares[community])
    return f"{key} {shares[key]:.3f}"


def measure(
    base: Path, cultural_map: CulturalMap, held_out: float, per_country: int, seed: int, *,
    nano: bool = False, extra: Path | None = None, save: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The fit's own report and a score for each kind of rows, as plain data."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train(False)
    keys = tuple(community.key for community in cultural_map.communities)
    make = atlas_prompts if nano else text_prompts
    fit, test = make(tokenizer, cultural_map, held_out, per_country, seed)
    routers = paper_routers(base, cultural_map)
    if extra:
        routers |= {f"{extra.parent.name}: {name}": router for name, router in load_routers(extra).items()}
    routers[FITTED], fitting = fit_router(model, fit, keys, seed=seed)
    scores = {name: asdict(score(b, test, keys)) for name, b in weights_at(model, routers, test).items()}
    if save:
        save_routers(save, {PAPER: routers[PAPER], FITTED: routers[FITTED]}, keys)
    return {"base": base.name, "map": cultural_map.key, "seed": seed, "fit": asdict(fitting), "rows": scores}


def text_prompts(
    tokenizer: Any, cultural_map: CulturalMap, held_out: float, per_country: int, seed: int
) -> tuple[list[RouterPrompt], list[RouterPrompt]]:
    """Prompts of the fit and of the test, about different countries and with different texts."""
    fit, test = split_countries(cultural_map, held_out, seed)
    return (
        router_prompts(tokenizer, cultural_map, fit, per_country, texts=texts_of(FIT), seed=seed),
        router_prompts(tokenizer, cultural_map, test, per_country, texts=texts_of(HELD_OUT), seed=seed + 1),
    )


def paper_routers(base: Path, cultural_map: CulturalMap) -> dict[str, Router]:
    """The paper's rows, bare names, read at each place that the merge offers."""
    states = read_states(base, map_prompts(cultural_map, "names"))
    keys = tuple(community.key for community in cultural_map.communities)
    rows = {name: rows_from(states[place]) for name, place in PAPER_PLACES.items()}
    return {name: Router(r, torch.zeros(r.shape[:2]), keys) for name, r in rows.items()}


if __name__ == "__main__":
    main()
