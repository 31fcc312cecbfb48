"""What a report says first: the few sentences that its numbers bear, and no more."""

from __future__ import annotations

from cultural_palette.evaluation.report.analysis import Tested
from cultural_palette.evaluation.report.roles import title
from cultural_palette.evaluation.report.semantics import Semantics
from cultural_palette.evaluation.report.tables import Subject
from cultural_palette.evaluation.statistics import Interval


def verdict(subject: Subject, metric: str) -> list[str]:
    """Ours, against the best baseline and the best floor; what failed; whether the metric leaves room."""
    analysis, ours = subject.analyses[metric], subject.roles.ours
    result, name = analysis.of(ours), title(ours)
    if result.average is None:
        return [f"{name} answered nothing: there is no result."]
    said = [f"{name}: {_interval(result.average)} under {metric}."]
    best = analysis.best_baseline
    if best is None:
        said.append("No baseline has an answer in this run, so there is nothing to compare with.")
    elif best == ours:
        said.append(f"{name} is the best baseline itself; name another with --ours.")
    else:
        base = analysis.of(best).average
        against = analysis.against_baseline.get(ours)
        mean = f" ({base.mean:.2f})" if base else ""
        said.append(f"Against the best baseline, {title(best)}{mean}: {_compared(against)}")
    if analysis.best_floor and analysis.best_floor.average is not None:
        floor = analysis.best_floor
        above = analysis.against_floor.get(ours)
        said.append(
            f"Against the best floor, {floor.floor.title} ({floor.average:.2f}), which asks no model: "
            f"{_compared(above)}"
        )
        low = [title(m) for m, tested in analysis.against_floor.items() if not tested.better]
        if low:
            said.append(f"Not above that floor beyond chance: {', '.join(low)}.")
    wrong = {m: o.unreadable + o.failed + o.missing for m, o in subject.outcomes.items()}
    if any(wrong.values()):
        told = ", ".join(f"{title(method)} {count:,}" for method, count in wrong.items() if count)
        said.append(f"Rows without an answer, counted and never scored: {told}.")
    return said


def semantic_verdict(semantics: Semantics) -> list[str]:
    """The best method's average and the next, with their intervals."""
    ranked = [result for result in semantics.results if result.average]
    ranked.sort(key=lambda result: -result.average.mean if result.average else 0.0)
    if not ranked:
        return ["No method answered: there is no result."]
    return [f"{title(result.method)}: {_interval(result.average)}" for result in ranked if result.average]


def _compared(tested: Tested | None) -> str:
    if tested is None:
        return "no item that both answered."
    found = tested.comparison
    word = "better" if tested.better else "worse" if tested.worse else "no difference beyond chance"
    ends = ""
    if found.difference.low is not None and found.difference.high is not None:
        ends = f" [{found.difference.low:+.2f}, {found.difference.high:+.2f}]"
    p = "< 0.001" if tested.p_holm < 0.001 else f"= {tested.p_holm:.3f}"
    pairs = f"{found.difference.n:,} pairs, {found.difference.clusters:,} questions"
    detectable = "" if found.detectable is None else f"; detectable with 80 % power: {found.detectable:.2f}"
    text = f"{word}, {found.difference.mean:+.2f}{ends}, p (Holm) {p}, {pairs}{detectable}."
    return text.replace("-", "−")


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.2f} ({interval.n:,} items of one question: no interval)"
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
