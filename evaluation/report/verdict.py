"""What a report says first: the few sentences that its numbers bear, and no more."""

from __future__ import annotations

import re

from cultural_palette.evaluation.report.analysis import Tested
from cultural_palette.evaluation.report.roles import title
from cultural_palette.evaluation.report.semantics import Semantics
from cultural_palette.evaluation.report.tables import Subject
from cultural_palette.evaluation.statistics import Interval


def verdict(subject: Subject, metric: str) -> list[str]:
    """Ours, against the best baseline, the best floor and what it was planned to be compared with; whether
    the country matters to it; what failed.
    """
    analysis, ours = subject.analyses[metric], subject.roles.ours
    tests = analysis.scores
    result, name = analysis.of(ours), title(ours)
    sentences = _failed_everywhere(subject, metric)
    if subject.evaluation.edited:
        sentences.append("EDITED: rows.jsonl was changed since the run.")
    if result.average is None:
        return [f"{name} answered nothing: there is no result.", *sentences]
    sentences.insert(0, f"{name}: {_interval(result.average)} under {metric}.")
    best = analysis.best_baseline
    if best is None:
        sentences.append("No baseline has an answer in this run, so there is nothing to compare with.")
    elif best == ours:
        sentences.append(f"{name} is the best baseline itself; name another with --ours.")
    else:
        base = analysis.of(best).average
        mean = f" ({base.mean:.2f})" if base else ""
        against = tests.against_baseline.get(ours)
        sentences.append(f"Against the best baseline, {title(best)}{mean}: {_compared(against)}")
    if analysis.best_floor and analysis.best_floor.average is not None:
        floor = analysis.best_floor
        sentences.append(
            f"Against the best floor, {floor.floor.title} ({floor.average:.2f}), which asks no model: "
            f"{_compared(tests.against_floor.get(ours))}"
        )
        low = [title(m) for m, test in tests.against_floor.items() if test.can_tell and not test.better]
        if low:
            sentences.append(f"Not above that floor beyond chance: {', '.join(low)}.")
    blind = [title(m) for m, test in tests.planned.items() if not test.can_tell]
    if blind:
        sentences.append(f"These items can not tell {name} from {', '.join(blind)}, whatever the difference.")
    sentences += [
        f"Against {title(m)}: {_compared(test)}" for m, test in tests.planned.items() if test.can_tell
    ]
    if result.discrimination:
        sentences.append(
            f"Right country: a prediction of {name} gains {_signed(result.discrimination)} by being held "
            "against its own country; 0 is what a method scores that does not look at the country."
        )
        alone, other = analysis.gains.against_floor.get(ours), analysis.gains.against_baseline.get(ours)
        sentences += [f"Against 0: {_compared(alone)}"] if alone else []
        sentences += (
            [f"Against what {title(best)} gains by its country: {_compared(other)}"] if best and other else []
        )
    sentences += _robustness(subject, metric)
    wrong = {m: o.unreadable + o.failed + o.missing for m, o in subject.outcomes.items()}
    if any(wrong.values()):
        counts = ", ".join(f"{title(method)} {count:,}" for method, count in wrong.items() if count)
        sentences.append(f"Rows without an answer, counted and never scored: {counts}.")
    return sentences


def _robustness(subject: Subject, metric: str) -> list[str]:
    certificate, ours = subject.certificates.get(metric), subject.roles.ours
    if certificate is None or ours not in certificate.methods:
        return []
    names = ", ".join(made.name for made in certificate.conditions)
    changes, lost = certificate.changes(ours), certificate.lost(ours)
    parts = [f"the average moves between {changes[0]:+.2f} and {changes[1]:+.2f}"] if changes else []
    parts += [f"{lost:,} answers can not be read there any more"] if lost else []
    flips, others = len(certificate.flipped(ours)), len(certificate.methods) - 1
    parts += [f"its rank flips with {flips} of {others} other methods"]
    return [_minus(f"Robustness of {title(ours)} ({names}): {', '.join(parts)}.")]


def _failed_everywhere(subject: Subject, metric: str) -> list[str]:
    silent = [result.method for result in subject.analyses[metric].methods if result.average is None]
    others = [title(method) for method in silent if method != subject.roles.ours]
    return [f"No answer at all, so in no figure and no test: {', '.join(others)}."] if others else []


def semantic_verdict(semantics: Semantics) -> list[str]:
    """The best method's average and the next, with their intervals."""
    ranked = [result for result in semantics.results if result.average]
    ranked.sort(key=lambda result: -result.average.mean if result.average else 0.0)
    if not ranked:
        return ["No method answered: there is no result."]
    return [f"{title(result.method)}: {_interval(result.average)}" for result in ranked if result.average]


def _compared(test: Tested | None) -> str:
    if test is None:
        return "no item that both answered."
    difference = test.comparison.difference
    pairs = f"{difference.n:,} pairs of {difference.clusters:,} batteries (worth {difference.effective:.1f})"
    if not test.can_tell:
        text = (
            f"these items can not tell, however large the difference: the smallest p (Holm) that they could "
            f"show is {test.smallest_p:.3f}; observed {difference.mean:+.2f}, {pairs}."
        )
        return _minus(text)
    word = "better" if test.better else "worse" if test.worse else "no difference beyond chance"
    ends = f" [{test.ends[0]:+.2f}, {test.ends[1]:+.2f}]" if test.ends else ""
    p = "< 0.001" if test.p_holm < 0.001 else f"= {test.p_holm:.3f}"
    least = test.detectable
    detectable = "none" if least is None else f"{least:.2f}"
    text = (
        f"{word}, {difference.mean:+.2f}{ends} (95 %, Holm), p (Holm) {p}, {pairs}; detectable with 80 % "
        f"power: {detectable}."
    )
    return _minus(text)


def _minus(text: str) -> str:
    """With minus signs before numbers; hyphens in words stay."""
    return re.sub(r"-(?=\d)", "−", text)


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.2f} ({interval.n:,} items of {interval.clusters:,} batteries: no interval)"
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _signed(interval: Interval) -> str:
    ends = ""
    if interval.low is not None and interval.high is not None:
        ends = f" [{interval.low:+.2f}, {interval.high:+.2f}]"
    return f"{interval.mean:+.2f}{ends}".replace("-", "−")
