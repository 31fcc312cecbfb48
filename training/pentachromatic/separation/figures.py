"""Figure 3: two sets of answers in the plane, by community. Figure 8: topics and continents. PNG and SVG.

Drawn from figures that were computed before; nothing here calls a model.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cultural_palette.artifacts import write_whole
from cultural_palette.cultural_map import Community, CulturalMap
from cultural_palette.training.pentachromatic.separation.topics import NOT_TOLD, OUTSIDE, Topics

if TYPE_CHECKING:
    from cultural_palette.training.pentachromatic.separation.separation import Separation, View

INK, QUIET, RULE = "#222222", "#666666", "#D8D8D8"
GREY = "#9A9A9A"
TOPIC_INK, TOPIC_PALE = "#3B5B7A", "#B9C9D8"
MARKS = ("o", "s", "^", "D", "v", "P", "X", "h", "<", ">")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "svg.hashsalt": "palette",
    "svg.fonttype": "none",
}


def figure_3(
    sets: Sequence[Separation],
    labels: Sequence[Sequence[str]],
    cultural_map: CulturalMap,
    model: str,
    out: Path,
    *,
    seed: int = 0,
) -> list[Path]:
    """Sets side by side, as they are above and query-centred below; big marks are the communities' means.

    `labels`: each set's communities, (N,), in the order that its separation was computed in.
    """
    marks = _marks(cultural_map)
    rows, columns = (2, len(sets)) if len(sets) > 1 else (1, 2)
    width = 4.4 * columns
    caption = _wrapped(_caption(sets, cultural_map, model), width)
    below = 0.6 + 0.15 * (caption.count("\n") + 1)  # inches of legend and caption
    height = 4.45 * rows + below
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(rows, columns, squeeze=False)
        for place, (separation, names) in enumerate(zip(sets, labels, strict=True)):
            views = (
                (separation.as_is, "as they are"),
                (separation.query_centred, "each query's mean taken off"),
            )
            for axes, (view, title) in zip(grid[:, place] if rows > 1 else grid[0], views, strict=True):
                _scatter(axes, view, np.asarray(names), cultural_map, seed)
                axes.set_title(separation.name, loc="left", fontsize=11, fontweight="bold", pad=30)
                _under_title(axes, title, view)
        there = [
            c for c in cultural_map.communities if any(c.key in separation.communities for separation in sets)
        ]
        figure.legend(
            handles=[_handle(community, marks[community.key]) for community in there],
            loc="center",
            ncols=min(len(there), 5),
            frameon=False,
            bbox_to_anchor=(0.5, (below - 0.22) / height),
            handletextpad=0.2,
            columnspacing=1.4,
        )
        figure.text(0.5, (below - 0.45) / height, caption, ha="center", va="top", fontsize=7.5, color=QUIET)
        figure.subplots_adjust(
            left=0.06,
            right=0.97,
            top=1 - 0.65 / height,
            bottom=(below + 0.32) / height,
            hspace=0.32,
            wspace=0.16,
        )
        return _save(figure, out)


def figure_8(
    topics: Topics | None, homes: Mapping[str, int], cultural_map: CulturalMap, caption: str, out: Path
) -> list[Path]:
    """Queries by topic (dark: confident, pale: below the threshold) and by where their writers were born."""
    with mpl.rc_context(STYLE):
        if topics is None:
            figure = Figure(figsize=(4.6, 3.4))
            right = figure.subplots()
        else:
            figure = Figure(figsize=(11.4, 4.9))
            left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
            _topic_bars(left, topics)
        _home_bars(right, homes, cultural_map)
        figure.text(0.02, 0.02, caption, ha="left", va="bottom", fontsize=7.5, color=QUIET)
        figure.tight_layout(rect=(0, 0.07 + 0.03 * caption.count("\n"), 1, 1), w_pad=3)
        return _save(figure, out)


def _scatter(axes: Any, view: View | None, names: Any, cultural_map: CulturalMap, seed: int) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if view is None:
        axes.text(0.5, 0.5, "no query has answers\nof two communities", ha="center", va="center", color=QUIET,
                  transform=axes.transAxes)  # fmt: skip
        return
    labels = names[view.texts]
    colours = {c.key: c.colour for c in cultural_map.communities}
    order = np.random.default_rng(seed).permutation(len(labels))  # none drawn over all others
    many = len(labels)
    axes.scatter(
        *view.points[order].T,
        c=[colours[label] for label in labels[order]],
        s=float(np.clip(6000 / many, 1.5, 16)),
        alpha=float(np.clip(1200 / many, 0.12, 0.6)),
        linewidths=0,
        rasterized=True,
    )
    for key, mark in _marks(cultural_map).items():
        if (labels == key).any():
            centre = view.points[labels == key].mean(0)
            axes.scatter(
                *centre, c=colours[key], marker=mark, s=95, linewidths=1.4, edgecolors="white", zorder=3
            )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(f"component 1 ({100 * view.explained[0]:.1f} % of the variance)", fontsize=8)
    axes.set_ylabel(f"component 2 ({100 * view.explained[1]:.1f} %)", fontsize=8)


def _under_title(axes: Any, title: str, view: View | None) -> None:
    lines = [title]
    if view is not None:
        lines[0] += f": {len(view.texts):,} answers to {view.silhouette_cosine.queries:,} queries"
        figures = f"silhouette {view.silhouette_cosine.value:.2f}"
        if view.probe is not None:
            figures += (
                f" · probe {100 * view.probe.balanced_accuracy.value:.1f} %"
                f" (chance {100 * view.probe.balanced_chance:.0f} %)"
            )
        lines.append(figures)
    axes.text(0, 1.015, "\n".join(lines), transform=axes.transAxes, fontsize=8, color=QUIET, va="bottom")


def _caption(sets: Sequence[Separation], cultural_map: CulturalMap, model: str) -> str:
    def per(separation: Separation) -> str:
        sizes = separation.as_is.counts
        if len(set(sizes.values())) == 1:
            return f"{separation.name}: {sizes[separation.communities[0]]:,} of each community"
        return f"{separation.name}: " + ", ".join(
            f"{sizes[key]:,} {names[key]}" for key in separation.communities
        )

    names = {community.key: community.name for community in cultural_map.communities}

    return (
        f"Embeddings by {model} at unit length, first two principal components of each panel. Silhouette: "
        "cosine, all dimensions. Probe: balanced accuracy on unseen queries. Answers: "
        f"{'; '.join(map(per, sets))}."
    )


def _topic_bars(axes: Any, topics: Topics) -> None:
    shown = [name for name in topics.topics if topics.confident[name] + topics.uncertain[name]]
    shown.sort(key=lambda name: (topics.confident[name] + topics.uncertain[name], topics.confident[name]))
    places = range(len(shown))
    sure, unsure = [topics.confident[n] for n in shown], [topics.uncertain[n] for n in shown]
    axes.barh(places, sure, color=TOPIC_INK, height=0.68, label=f"confidence {topics.threshold:g} and more")
    axes.barh(places, unsure, left=sure, color=TOPIC_PALE, height=0.68, label=f"below {topics.threshold:g}")
    for place, (first, second) in enumerate(zip(sure, unsure, strict=True)):
        axes.annotate(f"{first:,} + {second:,}", (first + second, place), (4, 0), textcoords="offset points",
                      va="center", fontsize=7.5, color=QUIET)  # fmt: skip
    axes.set_yticks(list(places), shown, color=INK)
    axes.set_title(f"Topics of {topics.queries:,} queries", loc="left", fontsize=11, fontweight="bold")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    _bare(axes, max((a + b for a, b in zip(sure, unsure, strict=True)), default=1) * 1.16)


def _home_bars(axes: Any, homes: Mapping[str, int], cultural_map: CulturalMap) -> None:
    known = {c.key: (c.name, c.colour) for c in cultural_map.communities}
    known |= {NOT_TOLD: ("not told", GREY), OUTSIDE: ("outside the map", GREY)}
    shown = [key for key in reversed(list(known)) if homes.get(key) or key not in (NOT_TOLD, OUTSIDE)]
    total = sum(homes.values())
    axes.barh(
        range(len(shown)), [homes.get(k, 0) for k in shown], color=[known[k][1] for k in shown], height=0.68
    )
    for place, key in enumerate(shown):
        count = homes.get(key, 0)
        axes.annotate(f"{count:,} ({100 * count / max(total, 1):.1f} %)", (count, place), (4, 0),
                      textcoords="offset points", va="center", fontsize=7.5, color=QUIET)  # fmt: skip
    axes.set_yticks(range(len(shown)), [known[key][0] for key in shown], color=INK)
    axes.set_title(f"Birthplaces of {total:,} queries' writers", loc="left", fontsize=11, fontweight="bold")
    _bare(axes, max(homes.values(), default=1) * 1.3)


def _bare(axes: Any, right: float) -> None:
    axes.set_xlim(0, max(right, 1))
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _marks(cultural_map: CulturalMap) -> dict[str, str]:
    return {
        community.key: MARKS[place % len(MARKS)] for place, community in enumerate(cultural_map.communities)
    }


def _handle(community: Community, mark: str) -> Any:
    looks: dict[str, Any] = {
        "color": community.colour,
        "marker": mark,
        "markersize": 9,
        "markeredgecolor": "white",
    }
    return Line2D([], [], linestyle="", label=community.name, **looks)


def _wrapped(text: str, inches: float) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, int(inches * 18)))


def _save(figure: Any, out: Path) -> list[Path]:
    files = []
    for ending in ("png", "svg"):
        data = io.BytesIO()
        date = {"metadata": {"Date": None}} if ending == "svg" else {}
        figure.savefig(data, format=ending, dpi=200, facecolor="white", **date)
        files.append(out.with_name(f"{out.name}.{ending}"))
        write_whole(files[-1], data.getvalue())
    return files
