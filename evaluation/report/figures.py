"""The pictures of a report: sized for a printed page, and legible on light and dark ground.

Text and lines are drawn in INK, which the page replaces by its own text colour.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cultural_palette.evaluation.report.analysis import MethodResult, item_means
from cultural_palette.evaluation.report.calibration import Calibration
from cultural_palette.evaluation.report.roles import Role, title
from cultural_palette.evaluation.report.semantics import Semantics
from cultural_palette.evaluation.report.tables import Subject
from cultural_palette.evaluation.statistics import country_means

INK, SOFT, GREY = "#1c1c21", "#7c7c86", "#9a9aa4"
WIDTH = 7.2  # inches, the text width of an A4 or letter page
ROLE_COLOURS: Mapping[Role, str] = {
    "baseline": "#5b7fb5", "ours": "#c2410c", "ablation": "#d99a6c", "control": "#6b8f71", "rival": "#4f8a8b",
    "added": "#8d6bb0",
}  # fmt: skip
STYLE: Any = {
    "font.family": ["DejaVu Sans", "sans-serif"], "font.size": 8, "svg.fonttype": "none",
    "svg.hashsalt": "cultural-palette", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": SOFT,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 8.5, "axes.titlelocation": "left", "legend.frameon": False, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "grid.color": GREY, "grid.alpha": 0.35,
    "grid.linewidth": 0.5, "figure.constrained_layout.use": True,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A drawn figure. `svg` has no ground of its own; `png` (200 dots an inch) is white."""

    key: str
    caption: str
    svg: str
    png: bytes


def draw_averages(subject: Subject, metric: str) -> Picture:
    """Every method's average with its interval and its runs, and the floors as lines."""
    analysis = subject.analyses[metric]
    results = [r for r in analysis.methods if r.average]
    lines = [f for f in analysis.floors if f.average is not None]
    with drawing(WIDTH, 1.1 + 0.24 * len(results) + 0.12 * len(lines)) as figure:
        axes = figure.add_subplot()
        for place, result in enumerate(results):
            colour = ROLE_COLOURS[subject.roles.of[result.method]]
            _interval(axes, result, place, colour)
        axes.set_yticks(range(len(results)), [title(r.method) for r in results])
        axes.set_ylim(len(results) - 0.4, -0.6)
        shown = [x for r in results if (i := r.average) for x in (i.mean, i.low, i.high) if x is not None]
        near = [f for f in lines if min(shown) - 8 <= (f.average or 0) <= max(shown) + 8]
        for number, floor in enumerate(sorted(near, key=lambda f: f.average or 0)):
            assert floor.average is not None
            # a step for each: names are long, and floors may lie close
            right = floor.average > (min(shown) + max(shown)) / 2
            axes.axvline(
                floor.average, color=SOFT, linewidth=0.9, linestyle=":" if floor.floor.reference else "--"
            )
            axes.annotate(
                f"{floor.floor.title} {floor.average:.1f}", (floor.average, 1),
                (-2 if right else 2, 4 + 9 * number), ha="right" if right else "left",
                xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=6.8, color=INK,
            )  # fmt: skip
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"average over {len(subject.evaluation.countries)} countries, 0 to 100 ({metric})")
        far = [f"{f.floor.title} {f.average:.1f}" for f in lines if f not in near]
        caption = (
            "Averages with 95 % intervals over batteries and runs; small dots are single runs. Dashed: "
            "floors; dotted: references." + (f" Off the scale: {', '.join(far)}." if far else "")
        ) + _without_answers(subject, metric)
        return picture_of(figure, "averages", subject.mark + caption)


def draw_heat_map(subject: Subject, metric: str) -> Picture | None:
    """Methods by countries: how far above the best floor, on the items that the method answered."""
    analysis = subject.analyses[metric]
    if analysis.best_floor is None:
        return None
    floor = analysis.best_floor.floor
    table = np.array([_above(subject, method, metric, floor.scores[metric]) for method in subject.roles.of])
    codes, methods = subject.evaluation.countries, list(subject.roles.of)
    limit = max(1.0, float(np.nanmax(np.abs(table)))) if not np.isnan(table).all() else 1.0
    with drawing(max(WIDTH, 2.0 + 0.31 * len(codes)), 1.15 + 0.25 * len(methods)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for row, column in np.ndindex(*table.shape):
            value = float(table[row, column])
            text = "–" if math.isnan(value) else f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")
            strong = not math.isnan(value) and abs(value) > 0.62 * limit
            colour = "#ffffff" if strong else INK if math.isnan(value) else "#101013"
            axes.text(column, row, text, ha="center", va="center", fontsize=5.8, color=colour)
        axes.set_xticks(range(len(codes)), codes, fontsize=6.8)
        axes.set_yticks(range(len(methods)), [title(m) for m in methods])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for name, colour, first, last in _communities(subject):
            across = axes.get_xaxis_transform()
            ends = [first - 0.42, last + 0.42]
            axes.plot(ends, [1.085, 1.085], color=colour, linewidth=3, transform=across, clip_on=False)
            middle = (first + last) / 2
            axes.text(middle, 1.12, name, ha="center", va="bottom", fontsize=7.5, transform=across)
        bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=6.5, length=2)
        caption = (
            f"Points above (blue) or below (red) the floor '{floor.title}', by country, under {metric}, on "
            "the items that the method answered."
        ) + _without_answers(subject, metric)
        return picture_of(figure, "heatmap", subject.mark + caption)


def draw_radar(subject: Subject, metric: str) -> Picture | None:
    """Our method, the best baseline and the best floor around the countries; None below three countries."""
    analysis, codes = subject.analyses[metric], subject.evaluation.countries
    if len(codes) < 3:
        return None
    lines: list[tuple[str, str, str, float, Mapping[str, float]]] = []
    ours = analysis.of(subject.roles.ours)
    lines.append((title(ours.method), ROLE_COLOURS["ours"], "-", 1.8, _means(ours)))
    if analysis.best_baseline and analysis.best_baseline != ours.method:
        best = analysis.of(analysis.best_baseline)
        lines.append(
            (f"best baseline: {title(best.method)}", ROLE_COLOURS["baseline"], "-", 1.2, _means(best))
        )
    if analysis.best_floor:
        floor = analysis.best_floor
        lines.append((f"best floor: {floor.floor.title}", SOFT, "--", 1.2, floor.by_country))
    angles = [2 * math.pi * k / len(codes) for k in range(len(codes))]
    values = [value for *_, by in lines for value in by.values()]
    if not values:
        return None
    with drawing(WIDTH * 0.72, WIDTH * 0.78) as figure:
        axes: Any = figure.add_subplot(projection="polar")
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        low, high = 5 * math.floor((min(values) - 2) / 5), 5 * math.ceil((max(values) + 1) / 5)
        for name, colour, style, width, by_country in lines:
            around = [by_country.get(code, math.nan) for code in codes]
            axes.plot(
                [*angles, angles[0]], [*around, around[0]], color=colour, linestyle=style, linewidth=width,
                label=name, marker="o", markersize=2.2,
            )  # fmt: skip
        axes.set_ylim(low, high)
        step = 5 if high - low <= 25 else 10
        axes.set_yticks(range(low + step, high, step))
        axes.tick_params(axis="y", labelsize=6.5, labelcolor=INK)
        axes.set_rlabel_position(-math.degrees(angles[1]) / 2)
        axes.spines["polar"].set_visible(False)
        axes.set_xticks(angles, codes, fontsize=7.5)
        axes.tick_params(axis="x", pad=9)
        half = math.pi / len(codes)
        for _, colour, first, last in _communities(subject):
            arc = [
                angles[first] - 0.8 * half + k * (angles[last] - angles[first] + 1.6 * half) / 40
                for k in range(41)
            ]
            axes.plot(arc, [high] * 41, color=colour, linewidth=4, solid_capstyle="butt", clip_on=False)
        handles = [_patch(colour, name) for name, colour, _, _ in _communities(subject)]
        first_legend = figure.legend(handles=handles, loc="outside upper center", ncols=6, fontsize=7.5)
        figure.add_artist(first_legend)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1, fontsize=7.5)
        caption = f"By country under {metric}; the centre is {low}, not 0, and the rim {high}."
        caption += _without_answers(subject, metric)
        return picture_of(figure, "radar", subject.mark + caption)


def draw_calibration(calibrations: Sequence[Calibration], mark: str) -> Picture | None:
    """Predicted against survey mass for each method: dots sized by how many options lie in the bin."""
    shown = [calibration for calibration in calibrations if calibration.options]
    empty = [title(calibration.method) for calibration in calibrations if not calibration.options]
    if not shown:
        return None
    across = min(4, len(shown))
    down = math.ceil(len(shown) / across)
    with drawing(WIDTH, 0.35 + 1.85 * down) as figure:
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for place, axes in enumerate(grid.flat):
            axes.set_visible(place < len(shown))
            axes.tick_params(labelbottom=place + across >= len(shown))
        for axes, calibration in zip(grid.flat, shown, strict=False):
            filled = [b for b in calibration.bins if b.predicted is not None and b.survey is not None]
            axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle="--")
            axes.plot([b.predicted for b in filled], [b.survey for b in filled], color="#3b6fb0", linewidth=1)
            sizes = [6 + 90 * b.count / calibration.options for b in filled]
            axes.scatter(
                [b.predicted for b in filled],
                [b.survey for b in filled],
                s=sizes,
                color="#3b6fb0",
                linewidths=0,
            )
            axes.set_title(title(calibration.method), fontsize=7.5)
            label = f"ECE {calibration.error:.3f}\n{calibration.options:,} options"
            axes.text(0.04, 0.97, label, transform=axes.transAxes, va="top", fontsize=6.5)
            axes.set_xlim(-0.02, 1.02)
            axes.set_ylim(-0.02, 1.02)
            axes.set_xticks([0, 0.5, 1])
            axes.set_yticks([0, 0.5, 1])
            axes.set_aspect("equal")
            axes.tick_params(labelsize=6.8)
        figure.supxlabel("predicted share of an option", fontsize=8, color=INK)
        figure.supylabel("its share in the survey", fontsize=8, color=INK)
        caption = (
            "Calibration: options pooled over items and runs into ten bins by predicted share; the larger a "
            "dot, the more options in its bin. ECE: the mean distance from the diagonal, where predicted and "
            "surveyed shares are the same." + _answered_nothing(empty)
        )
        return picture_of(figure, "calibration", mark + caption)


def draw_semantic(semantics: Semantics) -> Picture:
    """The paper's Figure 4: a panel for each community in its colour, a bar for each method."""
    shown = [result for result in semantics.results if result.average]
    empty = [title(result.method) for result in semantics.results if not result.average]
    names = [title(result.method) for result in shown]
    with drawing(WIDTH, 1.15 + 0.27 * len(shown)) as figure:
        grid = figure.subplots(1, len(semantics.communities), sharey=True, sharex=True, squeeze=False)
        for axes, community in zip(grid.flat, semantics.communities, strict=True):
            for place, result in enumerate(shown):
                interval = result.by_community.get(community.key)
                if interval is None:
                    axes.text(1, place, "–", va="center")
                    continue
                axes.barh(place, interval.mean, color=community.colour, height=0.72)
                if interval.low is not None and interval.high is not None:
                    axes.plot([interval.low, interval.high], [place, place], color=INK, linewidth=1.1)
                inside = f"{interval.mean:.1f}"
                axes.text(
                    2,
                    place,
                    inside,
                    va="center",
                    fontsize=6.5,
                    color="#ffffff" if _dark(community.colour) else "#101013",
                )
            for quoted in semantics.quoted:
                if quoted.community not in ("", community.key):
                    continue
                for place in [k for k, result in enumerate(shown) if result.method == quoted.method]:
                    if quoted.low == quoted.high:
                        axes.plot(quoted.low, place, "D", markersize=4, color=INK, fillstyle="none")
                    else:
                        ends, height = [quoted.low, quoted.high], [place + 0.2] * 2
                        axes.plot(ends, height, "|-", markersize=5, linewidth=0.9, color=INK)
            axes.set_title(community.name, fontsize=8)
            axes.set_xlim(0, 100)
            axes.set_xticks([0, 50, 100])
            axes.tick_params(axis="x", labelsize=6.8)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x")
            axes.set_axisbelow(True)
        grid[0, 0].set_yticks(range(len(names)), names)
        grid[0, 0].set_ylim(len(names) - 0.4, -0.6)
        figure.supxlabel("S_semantic, 0 to 100", fontsize=8, color=INK)
        caption = "Semantic consistency by community, with 95 % intervals over queries."
        caption += _answered_nothing(empty)
        if semantics.quoted:
            caption += (
                " Diamonds: values that the paper's text quotes of its Figure 4; thin brackets: a range that "
                "it quotes over all communities."
            )
        return picture_of(figure, "semantic", ("PARTIAL. " if semantics.partial else "") + caption)


def _without_answers(subject: Subject, metric: str) -> str:
    """Which methods are not in the picture because they answered nothing."""
    return _answered_nothing([title(r.method) for r in subject.analyses[metric].methods if not r.average])


def _answered_nothing(names: Sequence[str]) -> str:
    return f" Not shown, for every row failed or can not be read: {', '.join(names)}." if names else ""


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of its own backend, in inches; nothing global is changed."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure


def picture_of(figure: Figure, key: str, caption: str) -> Picture:
    """What is drawn, as SVG and PNG."""
    vector, pixels = io.StringIO(), io.BytesIO()
    still = {"Date": None, "Creator": None}  # the same picture is the same file
    figure.savefig(vector, format="svg", transparent=True, metadata=still)
    figure.savefig(pixels, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return Picture(key, caption, vector.getvalue(), pixels.getvalue())


def _interval(axes: Axes, result: MethodResult, place: int, colour: str) -> None:
    assert result.average is not None
    interval = result.average
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.2, alpha=0.75)
    axes.plot(interval.mean, place, marker="o", markersize=5.5, color=colour)
    if len(result.runs) > 1:
        axes.plot(result.runs, [place + 0.26] * len(result.runs), ".", markersize=2.6, color=colour)


def _above(subject: Subject, method: str, metric: str, floor: Any) -> list[float]:
    """The method's mean minus the floor's in each country, over the items it answered; NaN where none."""
    countries = [item.country for item in subject.evaluation.items]
    means = country_means(item_means(subject.evaluation, method, metric) - floor, countries)
    return [means.get(code, math.nan) for code in subject.evaluation.countries]


def _means(result: MethodResult) -> dict[str, float]:
    return {code: interval.mean for code, interval in result.by_country.items()}


def _communities(subject: Subject) -> list[tuple[str, str, int, int]]:
    """Each community's name, colour, first and last column."""
    spans: list[tuple[str, str, int, int]] = []
    for place, column in enumerate(subject.columns):
        if spans and spans[-1][0] == column.over:
            spans[-1] = (*spans[-1][:3], place)
        else:
            spans.append((column.over, column.colour or GREY, place, place))
    return spans


def _patch(colour: str, name: str) -> Any:
    return Patch(color=colour, label=name)


def _dark(colour: str) -> bool:
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
