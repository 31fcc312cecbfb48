"""`palette rectify`: a small sample of people and a run's predictions together, with intervals that hold."""

from __future__ import annotations

from pathlib import Path

import click

from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json
from cultural_palette.errors import UsageError

SHOWN = 60


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--human",
    required=True,
    metavar="PATH",
    help="Who was asked: a survey in any format, of some populations.",
)
@click.option("--method", default="cultural-palette", show_default=True, help="Whose predictions.")
@click.option(
    "--level", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True, help="Of the intervals."
)
@map_option
@json_option
def rectify(run: Path, human: str, method: str, level: float, map_name: str | None, as_json: bool) -> None:
    """Estimate each question's mean shares over all populations of the run RUN from the few that were asked.

    Prediction-powered inference: the predictions stand for those that were not asked, and what they get
    wrong is measured on those that were. The populations asked must be a random draw of the run's. Where
    predictions do not help, the estimate is the sample's own.

    \b
    palette rectify runs/y --human asked.jsonl --method cultural-palette
    """
    if not run.is_dir():
        raise UsageError(f"No folder {run}: give the --out of a `palette evaluate surveys` run.")

    from cultural_palette.cultural_map import load_map
    from cultural_palette.evaluation.rectified_run import rectify_run
    from cultural_palette.evaluation.report.load import load_evaluation
    from cultural_palette.evaluation.selection import Selection
    from cultural_palette.evaluation.surveys import load_survey
    from cultural_palette.settings import get_settings

    evaluation = load_evaluation(run, load_map(get_settings(map=map_name).map))
    chosen = (evaluation.manifest.get("survey") or {}).get("selection") or {}
    selection = Selection(options=chosen.get("options", "all"), max_options=chosen.get("max_options"))
    rows, few = rectify_run(evaluation, method, load_survey(human, selection), level)
    if as_json:
        from dataclasses import asdict

        echo_json([asdict(row) for row in rows])
        return
    for row in rows[:SHOWN]:
        made = row.result
        echo(
            f"{row.question[:70]} | {row.option[:30]}: {made.estimate:.3f} [{made.low:.3f}, "
            f"{made.high:.3f}]; the "
            f"{made.asked} asked alone {made.classical:.3f} [{made.classical_low:.3f}, "
            f"{made.classical_high:.3f}]; "
            f"predictions weigh {made.weight:.2f}, worth {made.saved:+.1f} populations"
        )
    if len(rows) > SHOWN:
        echo(f"... and {len(rows) - SHOWN} more (--json lists all)")
    if few:
        echo(f"{few} questions were asked of too few populations for an interval.")
