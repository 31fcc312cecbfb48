"""Which cultures is a country blended from? Fitted weights as bars, drawn in a report's style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.evaluation.report.figures import SOFT, WIDTH, Picture, drawing, picture_of

CAPTION = (
    "Fitted blends: weights of the communities with 95 % intervals over batteries; dotted: equal weights."
)


def draw_blends(countries: Mapping[str, Mapping[str, Any]], cultural_map: CulturalMap) -> Picture:
    """A row a country, a bar a community with its 95 % interval. `countries`: as `fit-blend` writes them."""
    weighed = {key for one in countries.values() for key in one["weights"]}
    communities = [community for community in cultural_map.communities if community.key in weighed]
    with drawing(WIDTH, 0.9 + 0.5 * len(countries)) as figure:
        every = figure.subplots(1, len(communities), sharey=True, squeeze=False)[0]
        for axes, community in zip(every, communities, strict=True):
            for place, one in enumerate(countries.values()):
                weight, *ends = (one[name].get(community.key, 0.0) for name in ("weights", "low", "high"))
                axes.barh(place, weight, height=0.62, color=community.colour)
                axes.plot(ends, [place, place], color=SOFT, linewidth=1.2)
            axes.axvline(1 / len(communities), color=SOFT, linewidth=0.8, linestyle=":")
            axes.set_title(community.name)
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
            axes.tick_params(axis="y", length=0)
        every[0].set_yticks(range(len(countries)), list(countries))
        every[0].invert_yaxis()
        return picture_of(figure, "blends", CAPTION)
