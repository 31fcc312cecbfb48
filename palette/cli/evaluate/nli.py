"""`palette evaluate nli`: how well a scorer tells what is entailed, on our own claims."""

from __future__ import annotations

from pathlib import Path

import click

from cultural_palette.cli.evaluate.semantic import DEFAULT_NLI, STAND_IN, scorer_named
from cultural_palette.cli.text import echo


@click.command()
@click.option(
    "--nli", default=DEFAULT_NLI, show_default=True, metavar="MODEL", help=f"Folder, hub name or {STAND_IN}."
)
@click.option("--nli-revision", metavar="REVISION", help="Its commit on the hub.")
@click.option(
    "--fit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Fit the head of {STAND_IN} again, into FILE.",
)
def nli(nli: str, nli_revision: str | None, fit: Path | None) -> None:
    """Check a scorer of the semantic task: what is entailed, against what is beside the point or opposed.

    On 30 held-out topics of our own claims, with intervals over topics; 0.50 is chance.
    """
    from cultural_palette.evaluation.claims import check, claim_pairs

    if fit:
        from cultural_palette.evaluation.standin import fit_head

        for name, figure in fit_head(fit).held_out.items():
            echo(f"{name}: {figure}")
        return
    scorer = scorer_named(nli, nli_revision)
    pairs = claim_pairs(held_out=True)
    scores = scorer.score([(pair.premise, pair.hypothesis) for pair in pairs])
    echo(f"{nli}, {len(pairs)} pairs of {len({pair.topic for pair in pairs})} held-out topics; chance 0.50\n")
    for name, found in check(scores, pairs).items():
        echo(f"{name}: {found}")
