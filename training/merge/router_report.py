"""What router rows are worth on countries and texts that they were not made from.

    python -m cultural_palette.training.merge.router_report BASE --report FILE --rows router.safetensors

The router's input is read in the base at whole prompts of the meta agent about the map's countries. `fitted`
rows are made from the fit's countries and texts, and measured, beside the paper's rows, on held-out countries
and texts: on all prompts, and on those that decide, whose blend an answer shows. Rows of a file, such as a
palette's, are measured beside them. A seed splits the countries; each country's prompts are the same
whatever the split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
import transformers
from torch import Tensor

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
from cultural_palette.training.merge.checkpoint import dtype_of
from cultural_palette.training.merge.router import map_prompts, read_states, rows_from
from cultural_palette.training.nano.router_prompts import atlas_prompts

DRAWN = {FIT: 0, HELD_OUT: 1}
"""Seeds of the prompts about a country."""
PAPER_PLACES = {"paper": "attn_out", "paper (residual)": "residual", "paper (ffn_in)": "ffn_in"}


@click.command()
@click.argument("base", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--map", "map_name", default="continents", show_default=True)
@click.option("--held-out", default=0.25, show_default=True, help="Share of countries kept out of the fit.")
@click.option("--per-country", default=5, show_default=True, help="Prompts about each country.")
@click.option("--seed", default=0, show_default=True, help="Of the split of the countries.")
@click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]),
    help="The base is read in.",
)  # fmt: skip
@click.option("--nano", is_flag=True, help="The nano palette's atlas: its countries, texts and accounts.")
@click.option(
    "--rows", "extra", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A router file whose rows are measured too; if they were fitted, then on these countries as well.",
)  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write paper and fitted rows.")
def main(
    base: Path, map_name: str, held_out: float, per_country: int, seed: int, dtype: str, nano: bool,
    extra: Path | None, report: Path | None, save: Path | None,
) -> None:  # fmt: skip
    """Fit router rows on BASE and measure them on countries held out."""
    figures = measure(
        base, load_map(map_name), held_out, per_country, seed, dtype=dtype, nano=nano, extra=extra, save=save
    )
    text = json.dumps(figures, indent=2)
    if report:
        report.write_text(text + "\n", encoding="utf-8")
    for title, rows in (("all prompts", figures["rows"]), ("prompts that decide", figures["decisions"])):
        first = next(iter(rows.values()))
        click.echo(f"{title}: {first['prompts']} about {first['countries']} countries that are in no fit")
        click.echo(
            f"{'rows':<18} {'largest':>8} {'95 %':>16} {'own weight':>11} {'entropy':>8}  "
            "most often elsewhere"
        )
        for name, row in rows.items():
            low, high = row["largest_95"]
            click.echo(
                f"{name:<18} {row['largest']:>8.3f} {f'{low:.3f} to {high:.3f}':>16} "
                f"{row['own_weight']:>11.3f} {row['entropy']:>8.3f}  {_most(row['elsewhere'])}"
            )


def _most(shares: dict[str, float]) -> str:
    key = max(shares, key=lambda community: shares[community])
    return f"{key} {shares[key]:.3f}"


def measure(
    base: Path, cultural_map: CulturalMap, held_out: float, per_country: int, seed: int, *,
    dtype: str = "float32", nano: bool = False, extra: Path | None = None, save: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The fit's own report and a score for each kind of rows, as plain data: on all prompts (`rows`) and on
    those that decide (`decisions`). `dtype`: the base is read in.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype_of(dtype)).train(False)
    keys = tuple(community.key for community in cultural_map.communities)
    make = atlas_prompts if nano else text_prompts
    fit, test = make(tokenizer, cultural_map, held_out, per_country, seed)
    routers = paper_routers(base, cultural_map, dtype)
    if extra:
        routers |= {f"{extra.parent.name}: {name}": router for name, router in load_routers(extra).items()}
    routers[FITTED], fitting = fit_router(model, fit, keys, seed=seed)
    blends = weights_at(model, routers, test)
    decisive = [number for number, prompt in enumerate(test) if "decide" in prompt.step]
    if save:
        save_routers(save, {PAPER: routers[PAPER], FITTED: routers[FITTED]}, keys)
    return {
        "base": base.name, "map": cultural_map.key, "seed": seed, "fit": asdict(fitting),
        "rows": scored(blends, range(len(test)), test, keys),
        "decisions": scored(blends, decisive, test, keys),
    }  # fmt: skip


def scored(
    blends: Mapping[str, Tensor], numbers: Sequence[int], prompts: Sequence[RouterPrompt], keys: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """A score for each kind of rows, on the prompts of these numbers."""
    some = [prompts[number] for number in numbers]
    return {name: asdict(score(blend[list(numbers)], some, keys)) for name, blend in blends.items()}


def text_prompts(
    tokenizer: Any, cultural_map: CulturalMap, held_out: float, per_country: int, seed: int
) -> tuple[list[RouterPrompt], list[RouterPrompt]]:
    """Prompts of the fit and of the test, about different countries and with different texts."""
    fit, test = split_countries(cultural_map, held_out, seed)

    def drawn(split: str, countries: Sequence[str]) -> list[RouterPrompt]:
        return router_prompts(
            tokenizer, cultural_map, countries, per_country, texts=texts_of(split), seed=DRAWN[split]
        )

    return drawn(FIT, fit), drawn(HELD_OUT, test)


def paper_routers(base: Path, cultural_map: CulturalMap, dtype: str | None = None) -> dict[str, Router]:
    """The paper's rows, bare names, read at each place that the merge offers."""
    states = read_states(base, map_prompts(cultural_map, "names"), dtype)
    keys = tuple(community.key for community in cultural_map.communities)
    rows = {name: rows_from(states[place]) for name, place in PAPER_PLACES.items()}
    return {name: Router(r, torch.zeros(r.shape[:2]), keys) for name, r in rows.items()}


if __name__ == "__main__":
    main()
