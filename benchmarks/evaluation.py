"""All methods of the evaluation in one run, against each method in a run of its own.

    python -m benchmarks.evaluation --json

On the nano palette and the made-up survey that ships. Counted are calls that reached a model (`asked`; a run
of its own has a fresh call store too, so that what one method asks twice is saved there), and seconds. The
predictions must be equal to the bit. `joint` needs a model that does not ship: `--joint REF` adds it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click

MADE_UP = Path(__file__).parent.parent / "evaluation" / "data" / "made_up.jsonl"


@click.command()
@click.option("--survey", default=str(MADE_UP), help="Another survey.  [default: the made-up one]")
@click.option("--countries", default="KEN,BRA,THA", show_default=True)
@click.option("--questions", default=2, show_default=True, help="Questions a country.")
@click.option("--runs", default=1, show_default=True)
@click.option("--methods", default="all", show_default=True)
@click.option("--joint", metavar="REF", help="The joint model.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    survey: str, countries: str, questions: int, runs: int, methods: str, joint: str | None, as_json: bool
) -> None:
    """Measure, and print calls, seconds and whether the predictions are equal."""
    result = measure(survey, countries, questions, runs, methods.split(","), joint)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(f"{result['items']} items, {result['runs']} runs, {len(result['methods'])} methods")
    for name, row in result["apart"]["by_method"].items():
        click.echo(f"  {name:<26} {row['asked']:6,} calls {row['seconds']:8.1f} s")
    for way in ("apart", "together"):
        row = result[way]
        click.echo(f"{way:<28} {row['asked']:6,} calls {row['seconds']:8.1f} s   {row['by_kind']}")
    click.echo(
        f"together / apart: {result['calls_ratio']:.1%} of the calls, {result['seconds_ratio']:.1%} of the "
        f"seconds; predictions equal to the bit: {result['equal']}"
    )


def measure(
    survey: str, countries: str, questions: int, runs: int, names: list[str], joint: str | None
) -> dict[str, Any]:
    """Both ways, one after the other, in fresh folders; the engine is warm before."""
    import torch

    from cultural_palette.artifacts import RunFolder
    from cultural_palette.cultural_map import load_map
    from cultural_palette.embedded.engine import get_engine
    from cultural_palette.evaluation.methods import BEST_SINGLE, methods_named
    from cultural_palette.evaluation.plan import Plan
    from cultural_palette.evaluation.predictions import BY_THE_CLOCK
    from cultural_palette.evaluation.run import evaluate
    from cultural_palette.evaluation.selection import Selection, resolve_countries
    from cultural_palette.evaluation.surveys import load_survey
    from cultural_palette.graph.variants import SINGLE
    from cultural_palette.settings import get_settings

    get_engine("nano")
    cultural_map, settings = load_map("continents"), get_settings(map="continents")
    others = {"joint": joint} if joint else {}
    chosen, left_out = methods_named(names, cultural_map, others)
    data = load_survey(survey, Selection(resolve_countries(countries, cultural_map), "all", 5, questions, 0))

    def run(folder: Path, methods: Any) -> tuple[dict[str, Any], float, list[str]]:
        plan = Plan(data, tuple(methods), cultural_map, settings, runs, others)
        start = time.perf_counter()
        manifest = asyncio.run(evaluate(plan, folder, quiet=True))
        seconds = time.perf_counter() - start
        shown = [
            json.dumps({name: value for name, value in row.items() if name not in BY_THE_CLOCK})
            for row in RunFolder(folder).rows()
        ]
        return manifest, seconds, shown

    with tempfile.TemporaryDirectory() as scratch:
        whole, seconds, together = run(Path(scratch) / "together", chosen)
        apart: list[str] = []
        by_method: dict[str, dict[str, Any]] = {}
        kinds: dict[str, int] = {}
        singles = [method for method in chosen if method.name.startswith(SINGLE)]
        for number, method in enumerate(chosen):
            if method.name.startswith(SINGLE) and any(m.name == BEST_SINGLE for m in chosen):
                continue  # they come with the best of them
            group = [*singles, method] if method.name == BEST_SINGLE else [method]
            manifest, took, lines = run(Path(scratch) / str(number), group)
            apart += lines
            by_method[method.name] = {"asked": manifest["calls"]["asked"], "seconds": round(took, 2)}
            for kind, counts in manifest["calls"]["by_kind"].items():
                kinds[kind] = kinds.get(kind, 0) + counts["asked"]
    calls = sum(row["asked"] for row in by_method.values())
    took = sum(row["seconds"] for row in by_method.values())
    return {
        "what": "calls of the evaluation's methods on the nano palette, in one run and each in its own",
        "with": {"torch": torch.__version__},
        "survey": data.name,
        "items": len(data.items),
        "runs": runs,
        "methods": [method.name for method in chosen],
        "left_out": left_out,
        "together": {
            "asked": whole["calls"]["asked"],
            "needed": whole["calls"]["needed"],
            "by_kind": {kind: counts["asked"] for kind, counts in whole["calls"]["by_kind"].items()},
            "seconds": round(seconds, 2),
        },
        "apart": {"asked": calls, "by_kind": kinds, "seconds": round(took, 2), "by_method": by_method},
        "calls_ratio": whole["calls"]["asked"] / calls,
        "seconds_ratio": seconds / took,
        "equal": sorted(together) == sorted(apart),
    }


if __name__ == "__main__":
    main()
