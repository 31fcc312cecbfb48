"""The robustness certificate as a table, and as two columns beside every score."""

from __future__ import annotations

from cultural_palette.evaluation.report.certificate import Certificate, Condition
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.roles import Roles, title

OVER = "Robustness"
UNMEASURED = "not measured"
_WHY_UNMEASURED = (
    "A condition measures the methods that it was run with; of fewer items than the run's it can not measure "
    "the best single draft, which is chosen by the other items."
)
FEW_NAMES = 5
BESIDE = (
    Column("change", OVER, "", "lowest and highest change of the average over the conditions"),
    Column("rank flips with", OVER, "", "methods that stand the other way round in a condition"),
)


def beside(certificate: Certificate | None, method: str | None) -> tuple[Cell, ...]:
    """The cells of BESIDE: the range of a method's changes, and with how many others its rank flips;
    UNMEASURED where it is in no condition, blank for what is no method, and no cells without a certificate.
    """
    if certificate is None:
        return ()
    if method is None:
        return (Cell(""), Cell(""))
    if method not in certificate.methods:
        return (_blank(certificate, method),) * 2
    flipped = certificate.flipped(method)
    names = ", ".join(title(other) for other in flipped)
    text = f"{len(flipped)}" + ("*" if any(flipped.values()) else "") if flipped else "none"
    return _range(certificate, method), Cell(text, float(len(flipped)), hint=names)


def beside_note(certificate: Certificate) -> str:
    """What the columns of BESIDE say."""
    conditions = "; ".join(f"{made.name} ({made.items:,} items)" for made in certificate.conditions)
    return (
        f"{OVER}: how far the average moves when what should not matter is another, on the items answered in "
        f"both: {conditions}. Lost: answers that could not be read there any more. Rank flips "
        f"with: methods of the {len(certificate.methods):,} measured that stand the other way round in at "
        "least one condition; * where one of these differences is beyond chance in this run (uncorrected, 5 "
        "%)."
    )


def certificate_table(certificate: Certificate | None, roles: Roles, metric: str, mark: str) -> Table | None:
    """Every method's change in each condition, the answers it lost there, the range of its changes, and with
    whom its rank flips, or that no condition measured it; None without conditions. `mark`: what stands before
    the caption.
    """
    if certificate is None:
        return None
    lines = []
    for method in roles.of:
        if method not in certificate.methods:
            blanks = (_blank(certificate, method),) * (len(certificate.conditions) + 2)
            lines.append(Line(title(method), blanks))
            continue
        changes = [_change(made, method) for made in certificate.conditions]
        lines.append(
            Line(title(method), (*changes, _range(certificate, method), _flips(certificate, method)))
        )
    columns = [Column(f"{made.name} (n {made.items:,})", "Change with") for made in certificate.conditions]
    columns += [Column("range of changes"), Column("flips with")]
    lost = [pair for pair in certificate.flips if pair in certificate.significant]
    findings = "; ".join(
        f"{title(a)} above {title(b)} ({', '.join(certificate.flips[a, b])})" for a, b in lost
    )
    notes: tuple[str, ...] = (
        "Change: the same methods and items with another order, wording, language or seed, over the items "
        "that a method answered in both; a condition of two names changes both at once. Lost: answers of "
        "this run that could not be read there, or failed. Flips: pairs that stand the other way round in at "
        "least one condition, on the items that both answered in both. * marks a pair whose difference in "
        "this run is beyond chance (uncorrected, 5 %): such a finding hangs on the condition. More than "
        f"{FEW_NAMES} are counted, and named where marked; certificate.csv has all.",
        f"Findings that flip: {findings or 'none'}.",
    )
    measured = {*certificate.methods, *certificate.silent}
    if left := [title(method) for method in roles.of if method not in measured]:
        notes += (f"Not measured in any condition: {', '.join(left)}. {_WHY_UNMEASURED}",)
    caption = f"{mark}Robustness certificate under {metric}."
    return Table("certificate", caption, tuple(columns), (Section("", tuple(lines)),), notes)


def _flips(certificate: Certificate, method: str) -> Cell:
    """With whom a method's rank flips: FEW_NAMES by name; of more their number, and the marked ones."""
    flipped = certificate.flipped(method)
    names = [title(other) + ("*" if real else "") for other, real in flipped.items()]
    marked = [name for name in names if name.endswith("*")]
    told = ", ".join(names if len(names) <= FEW_NAMES else marked)
    if len(names) > FEW_NAMES:
        told = f"{len(names)} of {len(certificate.methods) - 1}" + (f", among them {told}" if told else "")
    return Cell(told or "none", float(len(names)), hint=", ".join(names))


def _blank(certificate: Certificate, method: str) -> Cell:
    """Of a method that is in no condition, or that answered nothing in the run itself."""
    return Cell("–" if method in certificate.silent else UNMEASURED)


def _range(certificate: Certificate, method: str) -> Cell:
    changes, lost = certificate.changes(method), certificate.lost(method)
    if changes is None:
        return Cell(f"all {lost} lost" if lost else "–")
    low, high = changes
    text = f"{low:+.2f} to {high:+.2f}".replace("-", "−")
    return Cell(text + (f" ({lost} lost)" if lost else ""), high - low)


def _change(made: Condition, method: str) -> Cell:
    if method not in made.before:
        return Cell(UNMEASURED)
    change, lost = made.change(method), made.lost(method)
    if change is None:
        return Cell(f"all {lost} lost" if lost else "–")
    cell = number(change, signed=True)
    return Cell(cell.text + (f" ({lost} lost)" if lost else ""), change)
