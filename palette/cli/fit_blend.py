"""`palette fit-blend`: which cultures a country is blended from, fitted on questions that it answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json
from cultural_palette.errors import UsageError

if TYPE_CHECKING:
    from cultural_palette.evaluation.blend_fit import FittedBlend

PROMPTS = ("survey/shares", "baselines/prompting_option")


@click.command("fit-blend")
@click.option("--survey", "source", required=True, metavar="PATH", help="Any survey of 'evaluate surveys'.")
@click.option("--countries", required=True, metavar="LIST", help="Countries or communities, by commas.")
@click.option("--model", default="embedded:nano", show_default=True, metavar="REF", help="The palette.")
@click.option(
    "--of",
    type=click.Choice(["agents", "model"]),
    default="agents",
    show_default=True,
    help="Blend the agents' distributions, or the communities inside the MoErges.",
)
@click.option(
    "--questions", type=click.IntRange(8, 200), default=30, show_default=True, help="Of each country, drawn."
)
@click.option(
    "--max-options",
    type=click.IntRange(2),
    default=6,
    show_default=True,
    help="Leave out questions with more.",
)
@click.option(
    "--prompt", type=click.Choice(PROMPTS), default=PROMPTS[0], show_default=True, help="How it is asked."
)
@click.option(
    "--orders", type=click.IntRange(1), default=2, show_default=True, help="Of the options, averaged."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of draw, folds and bootstrap."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="JSON file.  [default: blends.json in the palette]",
)
@click.option("--figure", type=click.Path(path_type=Path), help="SVG or PNG file to draw the blends to.")
@map_option
@json_option
def fit_blend(
    source: str, countries: str, model: str, of: str, questions: int, max_options: int, prompt: str,
    orders: int, seed: int, out: Path | None, figure: Path | None, map_name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Fit each country's weights over the communities on questions that it answered, with intervals.

    The weights are written to a file that 'palette ask --blend fitted:FILE' goes by.

    \b
    palette fit-blend --survey global_opinions.csv --countries KEN,BRA --out blends.json --figure blends.svg
    """
    import asyncio

    from cultural_palette.cultural_map import load_map
    from cultural_palette.evaluation.fit_blends import BlendPlan, fit_country
    from cultural_palette.evaluation.selection import Selection, resolve_countries
    from cultural_palette.evaluation.surveys import load_survey
    from cultural_palette.fitted_blends import write_blends
    from cultural_palette.models import close_clients, make_ready, resolve_parts
    from cultural_palette.settings import get_settings, use_settings

    target = out or _in_palette(model)
    if figure is not None and figure.suffix not in (".svg", ".png"):
        raise UsageError(f"--figure {figure}: expected a file that ends in .svg or .png")
    settings = get_settings(map=map_name, model=model)
    with use_settings(settings):
        cultural_map = load_map(settings.map)
        parts = resolve_parts(cultural_map, {}, model)
        make_ready(parts, lambda line: echo(line, err=True))
        codes = resolve_countries(countries, cultural_map)
        selection = Selection(codes, "substantive", max_options, questions, seed, draw="each")
        survey = load_survey(source, selection)
        plan = BlendPlan(parts, cultural_map, "model" if of == "model" else "agents", prompt, orders, seed)

        async def fit() -> dict[str, FittedBlend]:
            try:
                return {
                    code: await fit_country(plan, [item for item in survey.items if item.country == code])
                    for code in survey.countries
                }
            finally:
                await close_clients()

        fitted = asyncio.run(fit())
        blends = {
            "of": of,
            "model": model,
            "prompt": prompt,
            "survey": survey.as_manifest()["sha256"],
            "countries": {code: one.as_dict() for code, one in fitted.items()},
        }
        write_blends(target, blends)
        if figure:
            from cultural_palette.evaluation.report.blend_figure import draw_blends

            _draw(figure, draw_blends(blends["countries"], cultural_map))
    if as_json:
        echo_json(blends, indent=1)
        return
    for code, one in fitted.items():
        echo(f"{code}: {_words(one)}")
    echo(f"Written to {target}: palette ask --blend fitted:{target}")


def _words(one: FittedBlend) -> str:
    weights = (
        f"{key} {weight:.2f} [{one.low[key]:.2f}, {one.high[key]:.2f}]" for key, weight in one.weights.items()
    )
    losses = one.losses
    return (
        f"{', '.join(weights)}; {one.questions} questions of {one.batteries} batteries; cross-validated KL "
        f"{losses['fitted']:.3f}, equal weights {losses['uniform']:.3f}, best one {losses['best_one']:.3f}"
    )


def _in_palette(model: str) -> Path:
    from cultural_palette.fitted_blends import BLENDS

    folder = Path(model.removeprefix("embedded:"))
    if not (folder / "manifest.json").is_file():
        raise UsageError(f"--out: {model} has no folder of its own to write to; name a file.")
    return folder / BLENDS


def _draw(path: Path, picture: Any) -> None:
    from cultural_palette.artifacts import write_whole

    write_whole(path, picture.png if path.suffix == ".png" else picture.svg)
