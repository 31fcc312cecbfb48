"""Every number of a report, unrounded, for spreadsheets and other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from cultural_palette.evaluation.metrics import Floats
from cultural_palette.evaluation.report.analysis import AVERAGE, MethodResult
from cultural_palette.evaluation.report.breakdown import Slice
from cultural_palette.evaluation.report.calibration import Calibration
from cultural_palette.evaluation.report.cases import Failure
from cultural_palette.evaluation.report.certificate import Certificate
from cultural_palette.evaluation.report.discrimination import by_question
from cultural_palette.evaluation.report.paper import PaperBlock
from cultural_palette.evaluation.report.tables import COMPARABLE, Subject
from cultural_palette.evaluation.statistics import Interval
from cultural_palette.safe_text import guarded_cell, visible


def to_csv(rows: Iterable[Mapping[str, object]]) -> str:
    """Rows with a heading; columns as they first appear, empty where a row has none."""
    listed = list(rows)
    names = list(dict.fromkeys(name for row in listed for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: guarded_cell(visible(cell)) if isinstance(cell, str) else cell for name, cell in row.items()}
        for row in listed
    )
    return text.getvalue()


def long_rows(subject: Subject, blocks: Sequence[PaperBlock]) -> Iterator[dict[str, object]]:
    """Every number of every metric, one a row: for the CSV."""
    homes = {column.label: column.over for column in subject.columns}
    for metric, analysis in subject.analyses.items():
        for result in analysis.methods:
            role = subject.roles.of[result.method]
            for column, interval in _intervals(result):
                yield {
                    "metric": metric, "kind": role, "method": result.method, "column": column,
                    "community": homes.get(column, ""), "mean": interval.mean, "low": interval.low,
                    "high": interval.high, "items": interval.n, "batteries": interval.clusters,
                    "effective_batteries": interval.effective,
                    "mark": analysis.marks.get((result.method, column), ""),
                }  # fmt: skip
        for floor in analysis.floors:
            kind = "reference" if floor.floor.reference else "floor"
            means = {**floor.by_country, **({AVERAGE: floor.average} if floor.average is not None else {})}
            for column, mean in means.items():
                yield {
                    "metric": metric, "kind": kind, "method": floor.floor.key, "column": column,
                    "community": homes.get(column, ""), "mean": mean,
                }  # fmt: skip
    for block in blocks:
        for row in block.rows:
            for column, mean in {**row.by_country, AVERAGE: row.average}.items():
                yield {
                    "metric": COMPARABLE, "kind": f"paper {block.base_model}", "method": row.method,
                    "column": column, "community": homes.get(column, ""), "mean": mean,
                }  # fmt: skip


def wide_rows(subject: Subject, metric: str) -> Iterator[dict[str, object]]:
    """Table 1 with unrounded numbers, one method a row: for the CSV."""
    analysis, codes = subject.analyses[metric], subject.evaluation.countries
    for floor in analysis.floors:
        yield {
            "kind": "reference" if floor.floor.reference else "floor",
            "method": floor.floor.key, "metric": metric,
            **{code: floor.by_country.get(code) for code in codes}, AVERAGE: floor.average,
            "items": floor.items,
        }  # fmt: skip
    for result in analysis.methods:
        out, whole, runs = subject.outcomes[result.method], result.average, result.spread
        means = {code: i.mean if (i := result.by_country.get(code)) else None for code in codes}
        gain = result.discrimination
        certificate = subject.certificates.get(metric)
        moved = certificate.changes(result.method) if certificate else None
        yield {
            "kind": subject.roles.of[result.method], "method": result.method, "metric": metric, **means,
            AVERAGE: whole.mean if whole else None, "low": whole.low if whole else None,
            "high": whole.high if whole else None, "items": result.answered,
            "partly_answered": result.partly, "discrimination": gain.mean if gain else None,
            "discrimination_low": gain.low if gain else None,
            "discrimination_high": gain.high if gain else None, "rank_correlation": result.rank,
            "robustness_low": moved[0] if moved else None, "robustness_high": moved[1] if moved else None,
            "rank_flips": len(certificate.flipped(result.method)) if certificate and moved else None,
            "runs_sd": runs.sd if runs else None, "ok": out.ok, "unreadable": out.unreadable,
            "failed": out.failed, "missing": out.missing, "degraded": out.degraded,
        }  # fmt: skip


def tested_rows(subject: Subject) -> Iterator[dict[str, object]]:
    """Every test of every metric, one a row: for the CSV."""
    for metric, analysis in subject.analyses.items():
        floor = analysis.best_floor.floor.key if analysis.best_floor else ""
        best = analysis.best_baseline or ""
        tests = [
            (measure, *row)
            for measure, of in (("score", analysis.scores), ("right country", analysis.gains))
            for row in (
                *(("best baseline", m, best, test) for m, test in of.against_baseline.items()),
                *(("best floor", m, floor, test) for m, test in of.against_floor.items()),
                *(("planned", subject.roles.ours, m, test) for m, test in of.planned.items()),
            )
        ]
        for measure, family, method, other, test in tests:
            comparison, ends = test.comparison, test.ends or (None, None)
            difference = comparison.difference
            yield {
                "metric": metric, "measure": measure, "family": family, "method": method, "against": other,
                "difference": difference.mean, "low": difference.low, "high": difference.high,
                "low_holm": ends[0], "high_holm": ends[1], "p": comparison.p, "p_holm": test.p_holm,
                "smallest_p_holm": test.smallest_p, "pairs": difference.n, "batteries": difference.clusters,
                "effective_batteries": difference.effective, "only_method": comparison.only_first,
                "only_other": comparison.only_second, "neither": comparison.neither,
                "detectable": test.detectable,
            }  # fmt: skip


def slice_rows(slices: Iterable[Slice], metric: str) -> Iterator[dict[str, object]]:
    """Every method in every slice, with what the right country gains it there: for the CSV."""
    for part in slices:
        for method, (whole, gain, rank) in part.of.items():
            yield {
                "by": part.by, "slice": part.name, "metric": metric, "method": method,
                "items": part.items, "batteries": part.batteries, "floor": part.floor,
                "mean": whole.mean if whole else None, "low": whole.low if whole else None,
                "high": whole.high if whole else None, "discrimination": gain.mean if gain else None,
                "discrimination_low": gain.low if gain else None,
                "discrimination_high": gain.high if gain else None, "rank_correlation": rank,
            }  # fmt: skip


def question_rows(subject: Subject, metric: str) -> Iterator[dict[str, object]]:
    """Every question of every method: mean score and gain over its countries, and the rank correlation over
    them: for the CSV.
    """
    evaluation = subject.evaluation
    for question, places in by_question(evaluation, range(len(evaluation.items))).items():
        item = evaluation.items[places[0]]
        for method in subject.roles.of:
            number = evaluation.methods.index(method)
            yield {
                "question": question, "battery": item.battery, "survey": item.survey, "text": item.question,
                "metric": metric, "method": method, "countries": len(places),
                "mean": _mean(evaluation.scores[metric][number][:, places]),
                "discrimination": _mean(subject.discrimination.gains[metric][number][:, places]),
                "rank_correlation": subject.discrimination.ranks[number].get(question),
            }  # fmt: skip


def certificate_rows(certificates: Mapping[str, Certificate]) -> Iterator[dict[str, object]]:
    """Every method in every condition that measured it: for the CSV."""
    for metric, certificate in certificates.items():
        for made in certificate.conditions:
            for method in made.before:
                turned = [
                    pair[pair[0] == method]
                    for pair, names in certificate.flips.items()
                    if method in pair and made.name in names
                ]
                yield {
                    "metric": metric, "condition": made.name, "items": made.items, "method": method,
                    "change": made.change(method), "lost": made.lost(method),
                    "rank_flips_with": " ".join(turned),
                }  # fmt: skip


def calibration_rows(calibrations: Iterable[Calibration]) -> Iterator[dict[str, object]]:
    """Every bin of every method."""
    for calibration in calibrations:
        for part in calibration.bins:
            yield {
                "method": calibration.method, "low": part.low, "high": part.high, "options": part.count,
                "predicted": part.predicted, "survey": part.survey, "method_ece": calibration.error,
            }  # fmt: skip


def failure_rows(failed: Iterable[Failure], errors: Mapping[int, str]) -> Iterator[dict[str, object]]:
    """Every row that is not ok; a row that is missing has no line."""
    for failure in failed:
        yield {
            "method": failure.method, "run": failure.run, "item": failure.item.id,
            "status": failure.status, "line": failure.line or None, "error": errors.get(failure.line, ""),
        }  # fmt: skip


def _mean(values: Floats) -> float | None:
    """Over all that is there."""
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _intervals(result: MethodResult) -> Iterator[tuple[str, Interval]]:
    yield from result.by_country.items()
    if result.average:
        yield AVERAGE, result.average
