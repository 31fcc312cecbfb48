"""The robustness certificate as a table, and as two columns beside every score."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cultural_palette.evaluation.report.certificate import Certificate, Condition
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.roles import Roles, title

OVER = "Robustness"
BESIDE = (
    Column("change", OVER, "", "lowest and highest change of the average over the conditions"),
    Column("rank flips with", OVER, "", "methods that stand the other way round in a condition"),
)


def beside(certificate: Certificate | None, method: str | None) -> tuple[Cell, ...]:
    """The cells of BESIDE: the range of a method's changes, and with how many others its rank flips; blank
    for what is no method, and no cells without a certificate.
    """
    if certificate is None:
        return ()
    if method is None:
        return (Cell(""), Cell(""))
    changes = certificate.changes(method)
    if changes is None:
        return (Cell("–"), Cell("–"))
    low, high = changes
    flipped = certificate.flipped(method)
    names = ", ".join(title(other) for other in flipped)
    text = f"{len(flipped)}" + ("*" if any(flipped.values()) else "") if flipped else "none"
    return (
        Cell(f"{low:+.2f} to {high:+.2f}".replace("-", "−"), high - low),
        Cell(text, float(len(flipped)), hint=names),
    )


def beside_note(certificate: Certificate) -> str:
    """What the columns of BESIDE say."""
    conditions = "; ".join(f"{made.name} ({made.items:,} items)" for made in certificate.conditions)
    return (
        f"{OVER}: how far the average moves when one thing is another that should not matter, on the same "
        f"items: {conditions}. Rank flips with: methods of the {len(certificate.methods):,} measured that "
        "stand the other way round in at least one condition; * where one of these differences is beyond "
        "chance in this run (uncorrected, 5 %)."
    )


def certificate_table(certificate: Certificate | None, roles: Roles, metric: str, mark: str) -> Table | None:
    """Every method's change in each condition, its range, its ranks, and with whom they flip; None without
    conditions. `mark`: what stands before the caption.
    """
    if certificate is None:
        return None
    lines = []
    for method in (m for m in roles.of if m in certificate.methods):
        made = [(c, method in c.before) for c in certificate.conditions]
        cells = [number(c.change(method), signed=True) if there else Cell("–") for c, there in made]
        cells += [
            Cell(f"{_rank(c.before, method)} → {_rank(c.after, method)}") if there else Cell("–")
            for c, there in made
        ]
        flipped = certificate.flipped(method)
        names = ", ".join(title(other) + ("*" if real else "") for other, real in flipped.items())
        lines.append(Line(title(method), (*cells, beside(certificate, method)[0], Cell(names or "none"))))
    names_of = [_named(made) for made in certificate.conditions]
    columns = [Column(name, "Change with") for name in names_of]
    columns += [Column(name, "Rank") for name in names_of]
    columns += [Column("range of changes"), Column("flips with")]
    lost = [pair for pair in certificate.flips if pair in certificate.significant]
    findings = "; ".join(
        f"{title(a)} above {title(b)} ({', '.join(certificate.flips[a, b])})" for a, b in lost
    )
    notes = (
        "Change: the same methods and items with one thing another that should not matter, over the items "
        "that every method of both runs answered. Rank: among the methods there, before and after. Flips: "
        "pairs that stand the other way round in at least one condition. * marks a pair whose difference in "
        "this run is beyond chance (uncorrected, 5 %): such a finding hangs on the condition.",
        f"Findings that flip: {findings or 'none'}.",
    )
    caption = f"{mark}Robustness certificate under {metric}."
    return Table("certificate", caption, tuple(columns), (Section("", tuple(lines)),), notes)


def _named(made: Condition) -> str:
    return f"{made.name} (n {made.items:,})"


def _rank(means: Mapping[str, float], method: str) -> int:
    return 1 + sum(
        value > means[method] and not math.isclose(value, means[method]) for value in means.values()
    )
