"""How often the intervals of `palette rectify` hold the truth, on simulated populations whose truth is known.

    python -m benchmarks.rectify --json

N populations with true shares, even or skewed; predictions that follow them more or less (correlation); n
of them are asked, 50 people each. A nominal 95 % interval should hold the mean of all N in 92 to 97 % of
the repeats. Beside it: the interval of those asked alone, and how much wider that is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import click
import numpy as np

from cultural_palette.evaluation.rectify import rectify

LOWEST, HIGHEST = 0.92, 0.97
PEOPLE = 50


@dataclass(frozen=True)
class Design:
    """`correlation`: of predictions with true shares; `skewed`: most shares are near 0."""

    asked: int
    everywhere: int
    correlation: float
    skewed: bool = False


@dataclass(frozen=True)
class Coverage:
    """Shares of repeats (0..1) whose interval holds the truth, and mean widths."""

    design: Design
    rectified: float
    classical: float
    width: float
    classical_width: float

    @property
    def holds(self) -> bool:
        """Whether the nominal level is kept."""
        return LOWEST <= self.rectified <= HIGHEST


DESIGNS = (
    Design(8, 60, 0.9), Design(8, 200, 0.9), Design(15, 60, 0.9), Design(15, 200, 0.9, skewed=True),
    Design(15, 200, 0.0), Design(30, 200, 0.9, skewed=True), Design(30, 200, 0.5), Design(30, 60, 0.9),
)  # fmt: skip


def simulate(design: Design, repeats: int, seed: int = 0) -> Coverage:
    """One design's coverage."""
    rng = np.random.default_rng(seed)
    held = plain = 0
    width = classical_width = 0.0
    for _ in range(repeats):
        shape = (0.5, 4.0) if design.skewed else (2.0, 3.0)
        truth = rng.beta(*shape, design.everywhere)
        noise = rng.normal(size=design.everywhere)
        follows = design.correlation * (truth - truth.mean()) / truth.std()
        predicted = np.clip(0.5 + 0.15 * (follows + np.sqrt(1 - design.correlation**2) * noise), 0, 1)
        sample = rng.choice(design.everywhere, design.asked, replace=False)
        shares = rng.binomial(PEOPLE, truth[sample]) / PEOPLE
        left = float((shares * (1 - shares) / (PEOPLE - 1)).mean())
        made = rectify(shares, predicted[sample], predicted, noise=left)
        held += made.low <= truth.mean() <= made.high
        plain += made.classical_low <= truth.mean() <= made.classical_high
        width += made.high - made.low
        classical_width += made.classical_high - made.classical_low
    return Coverage(design, held / repeats, plain / repeats, width / repeats, classical_width / repeats)


@click.command()
@click.option("--repeats", default=1000, show_default=True, help="Simulated surveys a design.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(repeats: int, seed: int, as_json: bool) -> None:
    """Coverage of every design."""
    results = [simulate(design, repeats, seed) for design in DESIGNS]
    if as_json:
        click.echo(json.dumps([asdict(row) for row in results], indent=1))
        return
    click.echo(
        f"{'asked':>6}{'of':>6}{'correlation':>12}{'skewed':>8}{'covers':>8}{'alone':>8}{'narrower':>10}"
    )
    for row in results:
        design = row.design
        click.echo(
            f"{design.asked:6}{design.everywhere:6}{design.correlation:12.1f}{design.skewed!s:>8}"
            f"{row.rectified:8.3f}{row.classical:8.3f}{row.width / row.classical_width:10.2f}"
        )


if __name__ == "__main__":
    main()
