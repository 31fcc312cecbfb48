"""How often the report's intervals hold the truth, on simulated scores whose truth is known.

    python -m benchmarks.coverage --json

Scores are 70 + country + battery + question + answer, with batteries as unequal as in surveys, countries that
were asked different batteries, few clusters, skewed scores, and runs that differ as wholes. A nominal 95 %
interval should hold the true average in 92 to 97 % of the repeats. Beside each: the same interval with
questions instead of batteries as clusters, which is what this report once did. `--survey` takes batteries and
countries of a real survey, as drawn by `--questions`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from cultural_palette.evaluation.statistics import clustered_interval

NOMINAL, LOWEST, HIGHEST = 0.95, 0.92, 0.97
COUNTRY_SD, BATTERY_SD, QUESTION_SD, ANSWER_SD = 3.0, 6.0, 6.0, 3.0


@dataclass(frozen=True)
class Design:
    """Which (question, country) items there are: each one's battery, question and country.
    `skewed`: batteries' effects are exponential, with the long tail below. `runs` of sd `run_sd`.
    """

    name: str
    batteries: Sequence[str]
    questions: Sequence[str]
    countries: Sequence[str]
    skewed: bool = False
    runs: int = 1
    run_sd: float = 0.0


@dataclass(frozen=True)
class Coverage:
    """Share of repeats whose interval holds the truth, of those that have one (`with_interval`, 0..1)."""

    name: str
    items: int
    batteries: int
    with_interval: float
    by_battery: float
    by_question: float
    width: float

    @property
    def holds(self) -> bool:
        """Whether the nominal level is kept, within what so many repeats can tell."""
        return LOWEST <= self.by_battery <= HIGHEST


def designs() -> list[Design]:
    """The designs that are simulated."""
    rng = np.random.default_rng(1)
    heavy = np.minimum(60, rng.zipf(1.7, 278)).tolist()
    return [
        _crossed("60 single questions, 6 countries", [1] * 60, 6, 1.0, rng),
        _crossed("48 questions, 18 countries, 3 items each", [1] * 48, 18, 0.06, rng),
        _crossed("278 batteries of 1 to 60 questions, 18 countries", heavy, 18, 0.3, rng),
        _crossed(
            "one country, 30 unequal batteries", np.minimum(20, rng.zipf(1.8, 30)).tolist(), 1, 1.0, rng
        ),
        _crossed("8 batteries", [2] * 8, 6, 1.0, rng),
        _crossed("10 unequal batteries, skewed", [1, 1, 1, 1, 2, 2, 3, 5, 8, 15], 6, 0.8, rng, skewed=True),
        _crossed("40 batteries, skewed", [2] * 40, 6, 1.0, rng, skewed=True),
        _crossed("40 questions, 5 runs that differ", [1] * 40, 6, 1.0, rng, runs=5, run_sd=1.5),
        _crossed("40 questions, 3 runs that differ", [1] * 40, 6, 1.0, rng, runs=3, run_sd=1.0),
    ]


def simulate(design: Design, repeats: int, permutations: int, seed: int) -> Coverage:
    """Draw scores again and again, and count."""
    rng = np.random.default_rng(seed)
    held, held_naive, widths = [], [], []
    codes = {
        kind: np.unique(getattr(design, kind), return_inverse=True)[1]
        for kind in ("batteries", "questions", "countries")
    }
    sizes = {kind: int(own.max()) + 1 for kind, own in codes.items()}
    for repeat in range(repeats):
        countries = rng.normal(0, COUNTRY_SD, sizes["countries"])
        battery = rng.normal(0, 1, sizes["batteries"])
        if design.skewed:
            battery = 1 - rng.exponential(1, sizes["batteries"])
        scores = 70 + countries[codes["countries"]] + BATTERY_SD * battery[codes["batteries"]]
        scores = scores + rng.normal(0, QUESTION_SD, sizes["questions"])[codes["questions"]]
        scores = scores + rng.normal(0, ANSWER_SD, len(scores))
        if design.runs > 1:
            apart = rng.normal(0, design.run_sd, (design.runs, 1))
            scores = scores + apart + rng.normal(0, 2, (design.runs, len(scores)))
        truth = 70 + float(countries.mean())
        intervals = [
            clustered_interval(
                scores, clusters, groups=design.countries, permutations=permutations, seed=repeat
            )
            for clusters in (design.batteries, design.questions)
        ]
        for interval, into in zip(intervals, (held, held_naive), strict=True):
            if interval.low is not None and interval.high is not None:
                into.append(interval.low <= truth <= interval.high)
        if intervals[0].low is not None and intervals[0].high is not None:
            widths.append(intervals[0].high - intervals[0].low)
    return Coverage(
        design.name, len(design.batteries), sizes["batteries"], len(held) / repeats, _share(held),
        _share(held_naive), float(np.mean(widths)) if widths else math.nan,
    )  # fmt: skip


@click.command()
@click.option("--repeats", default=1000, show_default=True, help="Simulated surveys of each design.")
@click.option("--permutations", default=2000, show_default=True, help="Sign patterns of each interval.")
@click.option("--seed", default=0, show_default=True)
@click.option("--survey", type=click.Path(path_type=Path), help="Batteries and countries of this survey too.")
@click.option("--questions", type=int, help="Of it, drawn for each country.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    repeats: int, permutations: int, seed: int, survey: Path | None, questions: int | None, as_json: bool
) -> None:
    """Simulate, and print each design's coverage; exit 1 where the nominal level is not kept."""
    wanted = designs()
    if survey is not None:
        wanted.append(_of_survey(survey, questions))
    results = []
    for design in wanted:
        result = simulate(design, repeats, permutations, seed)
        results.append(result)
        if not as_json:
            click.echo(
                f"{result.name:<50} {result.by_battery:6.1%} by battery {result.by_question:6.1%} by question"
                f"  width {result.width:5.2f}" + ("" if result.holds else "  OUTSIDE 92 to 97 %")
            )
    if as_json:
        rows = [{**result.__dict__, "holds": result.holds} for result in results]
        click.echo(json.dumps({"nominal": NOMINAL, "repeats": repeats, "designs": rows}, indent=2))
    raise SystemExit(0 if all(result.holds for result in results) else 1)


def _crossed(
    name: str, sizes: Sequence[int], countries: int, share: float, rng: np.random.Generator, *,
    skewed: bool = False, runs: int = 1, run_sd: float = 0.0,
) -> Design:  # fmt: skip
    """Batteries of these sizes, each of which a `share` of the countries was asked."""
    items = [
        (f"b{battery}", f"b{battery}q{question}", f"C{country}")
        for battery, size in enumerate(sizes)
        for country in range(countries)
        if rng.uniform() < share
        for question in range(size)
    ]
    batteries, questions, codes = zip(*items, strict=True)
    return Design(name, batteries, questions, codes, skewed, runs, run_sd)


def _of_survey(path: Path, questions: int | None) -> Design:
    from cultural_palette.evaluation.selection import PAPER, Selection
    from cultural_palette.evaluation.surveys import load_survey

    items = load_survey(path, Selection(PAPER, max_options=5, questions=questions)).items
    return Design(
        f"{path.name}, {questions or 'all'} questions a country",
        [item.question.battery for item in items],
        [item.question.id for item in items],
        [item.country for item in items],
    )


def _share(held: Sequence[bool]) -> float:
    return sum(held) / len(held) if held else math.nan


if __name__ == "__main__":
    main()
