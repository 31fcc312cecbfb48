"""`palette countries`, `palette maps`, `palette graph`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cultural_palette.cli.text import echo, echo_json

if TYPE_CHECKING:
    from cultural_palette.countries import Country
    from cultural_palette.cultural_map import CulturalMap

map_option = click.option(
    "--map",
    "map_name",
    metavar="MAP",
    help="Built-in name or YAML file.  [default: the settings', continents]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")


@click.command()
@click.argument("text", required=False)
@map_option
@json_option
def countries(text: str | None, map_name: str | None, as_json: bool) -> None:
    """List countries with their code and community.

    TEXT keeps those whose code, name or community holds it; a survey's spelling finds its country.
    """
    from cultural_palette.countries import all_countries
    from cultural_palette.cultural_map import load_map
    from cultural_palette.settings import get_settings

    cultural_map = load_map(get_settings(map=map_name).map)
    matching = all_countries() if text is None else _matching(text, cultural_map)
    homes = {country.iso3: cultural_map.community_of(country.iso3) for country in matching}
    if as_json:
        listed = [
            {
                "iso3": country.iso3,
                "name": country.name,
                "community": home.key if (home := homes[country.iso3]) else None,
            }
            for country in matching
        ]
        echo_json({"map": cultural_map.key, "countries": listed})
        return
    width = max(len(country.name) for country in matching)
    for country in matching:
        home = homes[country.iso3]
        echo(f"{country.iso3}  {country.name:<{width}}  {home.name if home else '-'}")


def _matching(text: str, cultural_map: CulturalMap) -> Sequence[Country]:
    from cultural_palette.countries import all_countries, find_country

    def searched(country: Country) -> str:
        home = cultural_map.community_of(country.iso3)
        return " ".join((country.iso3, country.name, home.name if home else "")).casefold()

    return [country for country in all_countries() if text.casefold() in searched(country)] or [
        find_country(text)
    ]


@click.command()
@click.argument("name", required=False)
@json_option
def maps(name: str | None, as_json: bool) -> None:
    """List the cultural maps, or show one.

    NAME is a built-in name or a YAML file.
    """
    from cultural_palette.cultural_map import builtin_maps, load_map

    loaded = [load_map(one) for one in ([name] if name else builtin_maps())]
    if as_json:
        data = [
            {
                "map": cultural_map.key,
                "name": cultural_map.name,
                "source": cultural_map.source,
                "communities": {
                    c.key: {"name": c.name, "colour": c.colour, "countries": c.countries}
                    for c in cultural_map.communities
                },
            }
            for cultural_map in loaded
        ]
        echo_json({"maps": data})
        return

    from cultural_palette.cli.display import make_console, map_view

    console = make_console()
    for cultural_map in loaded:
        console.print(map_view(cultural_map, whole=name is not None))
    if not name:
        console.print(
            "'palette maps NAME' shows a map's countries; docs/architecture.md, how to write one.",
            highlight=False,
        )


@click.command()
@click.option("--variant", default="palette", show_default=True, metavar="NAME", help="Which graph.")
@click.option(
    "--list", "list_all", is_flag=True, help="The names of all graphs, and where each is described."
)
@map_option
def graph(variant: str, list_all: bool, map_name: str | None) -> None:
    """Print a graph as Mermaid."""
    from cultural_palette.cultural_map import load_map
    from cultural_palette.graph.variants import SINGLE, all_variants, build_variant
    from cultural_palette.settings import get_settings

    if list_all:
        for name, one in all_variants().items():
            echo(f"{name:<24} {one.source}")
        echo(f"{SINGLE + 'COMMUNITY':<24} control, ours: only that community drafts")
        return
    built = build_variant(variant, load_map(get_settings(map=map_name).map))
    click.echo(built.get_graph().draw_mermaid(), nl=False)
