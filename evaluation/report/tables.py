"""Which tables a report has and what stands in them. Words and cells only; the numbers are `analysis`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.evaluation.metrics import ALIGNMENTS, TITLES
from cultural_palette.evaluation.report.analysis import (
    AVERAGE,
    Analysis,
    FloorResult,
    Mark,
    MethodResult,
    Outcomes,
    Tested,
)
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.load import Evaluation, Said
from cultural_palette.evaluation.report.paper import SOURCE, PaperBlock, PaperRow
from cultural_palette.evaluation.report.roles import HEADINGS, KNOWN, Role, Roles, title
from cultural_palette.evaluation.statistics import Interval

COMPARABLE = "jsdist_e"
ELSEWHERE = "Elsewhere"


@dataclass(frozen=True)
class Subject:
    """What all tables of a report are about."""

    evaluation: Evaluation
    roles: Roles
    cultural_map: CulturalMap
    analyses: Mapping[str, Analysis]
    outcomes: Mapping[str, Outcomes]
    resamples: int
    permutations: int

    @property
    def mark(self) -> str:
        """What stands before every caption of an unfinished run."""
        return "PARTIAL. " if self.evaluation.partial else ""

    @property
    def columns(self) -> tuple[Column, ...]:
        """A column for each country, under its community."""
        from cultural_palette.countries import find_country

        found = []
        for code in self.evaluation.countries:
            home = self.cultural_map.community_of(code)
            over, colour = (home.name, home.colour) if home else (ELSEWHERE, "")
            found.append(Column(code, over, colour, find_country(code).name))
        return tuple(found)


def main_table(subject: Subject, metric: str, blocks: Sequence[PaperBlock] = ()) -> Table:
    """The layout of the paper's Table 1: methods, countries by community, the average last. A block of the
    same base model stands row by row below ours, under the one metric that its numbers are comparable with.
    """
    analysis = subject.analyses[metric]
    own = next((b for b in blocks if b.same_base), None) if metric == COMPARABLE else None
    printed = {row.method: row for row in own.rows} if own else {}
    codes = subject.evaluation.countries
    sections = [
        Section("Items", (_counts(subject),)),
        Section("Floors", tuple(_floor_line(f, codes) for f in analysis.floors if not f.floor.ceiling)),
    ]
    for role, heading in HEADINGS.items():
        lines = list(_method_lines(subject, analysis, role, printed))
        sections.append(Section(heading, tuple(lines)))
    sections.append(
        Section("Ceilings", tuple(_floor_line(f, codes) for f in analysis.floors if f.floor.ceiling))
    )
    notes = (*_notes(subject, analysis), *(own.slips if own else ()))
    if own:
        notes += (f"Rows named 'paper' are printed figures: {SOURCE}, {own.base_model}.",)
    caption = f"{subject.mark}Alignment with the survey by country, 0 to 100: {TITLES[metric]}."
    columns = (*subject.columns, Column("Average", "", "", "mean of the countries' means"))
    columns += (Column("95 %", "", "", "bootstrap over questions"),)
    return Table(f"table1_{metric}", caption, columns, tuple(sections), notes)


def paper_table(subject: Subject, block: PaperBlock) -> Table:
    """The paper's rows for another base model, in a table of their own."""
    codes = list(block.rows[0].by_country)
    lines = tuple(
        Line(
            title(row.method), (*(number(row.by_country[c]) for c in codes), number(row.average)), quiet=True
        )
        for row in block.rows
    )
    relation = "the same base model" if block.same_base else "ANOTHER base model: not comparable row by row"
    caption = f"The paper's own figures, {block.base_model} ({relation}). {SOURCE}."
    columns = (*(Column(code) for code in codes), Column("Average"))
    return Table(f"paper_{_slug(block.base_model)}", caption, columns, (Section("", lines),), block.slips)


def metrics_table(subject: Subject) -> Table:
    """Every method's average under each of the four metrics."""

    def line(name: str, means: Sequence[float | None]) -> Line:
        return Line(name, tuple(number(mean) for mean in means))

    def means_of(place: int) -> list[float | None]:
        results = [subject.analyses[metric].methods[place].average for metric in ALIGNMENTS]
        return [each.mean if each else None for each in results]

    first = subject.analyses[ALIGNMENTS[0]]
    methods = [line(title(result.method), means_of(k)) for k, result in enumerate(first.methods)]
    floors = [
        line(floor.floor.title, [subject.analyses[metric].floors[k].average for metric in ALIGNMENTS])
        for k, floor in enumerate(first.floors)
    ]
    ceiling = [floor.floor.ceiling for floor in first.floors]
    sections = (
        Section("Floors", tuple(f for f, high in zip(floors, ceiling, strict=True) if not high)),
        Section("Methods", tuple(methods)),
        Section("Ceilings", tuple(f for f, high in zip(floors, ceiling, strict=True) if high)),
    )
    note = "Eq. 5 as printed is the first; the paper's figures fit the last. Equal distributions score 100."
    columns = tuple(Column(key, hint=TITLES[key]) for key in ALIGNMENTS)
    caption = f"{subject.mark}The average under all four metrics."
    return Table("metrics", caption, columns, sections, (*(f"{k}: {TITLES[k]}." for k in ALIGNMENTS), note))


def tests_table(subject: Subject, metric: str) -> Table:
    """Every method against the best baseline and against the best floor."""
    analysis = subject.analyses[metric]
    best, floor = analysis.best_baseline, analysis.best_floor
    lines = []
    for result in analysis.methods:
        against, above = (
            analysis.against_baseline.get(result.method),
            analysis.against_floor.get(result.method),
        )
        name = title(result.method) + (" (the best baseline)" if result.method == best else "")
        lines.append(Line(name, (*_tested(against, wide=True), *_tested(above, wide=False))))
    over = f"minus the best baseline, {title(best)}" if best else "no baseline in this run"
    over_floor = f"minus the best floor, {floor.floor.title}" if floor else "no floor"
    labels = ("difference", "95 %", "p", "p Holm", "pairs", "only it", "only base", "detectable")
    columns = [Column(label, over) for label in labels]
    columns += [Column(label, over_floor) for label in ("difference", "95 %", "p Holm", "pairs")]
    notes = (
        "Differences are paired: only items that both answered count; 'only it' and 'only base' are items "
        "that one of the two answered, left out here.",
        f"p: two-sided permutation test, signs flipped by question ({subject.permutations:,} drawn, +1 "
        "correction; all patterns where there are no more). p Holm: corrected over the column's methods.",
        "The best baseline is the one with the highest average here: chosen from the same data, which "
        f"favours it a little. Baselines: {', '.join(title(m) for m in subject.roles.baselines) or 'none'}.",
        "Detectable: the smallest true difference found with 80 % power at 5 %, uncorrected: "
        "(1.960 + 0.842) x the standard error of the difference, clustered by question.",
    )
    caption = f"{subject.mark}Tests under {TITLES[metric]}."
    return Table("tests", caption, tuple(columns), (Section("", tuple(lines)),), notes)


def outcomes_table(subject: Subject, metric: str) -> Table:
    """What became of each method's rows, how far its runs lie apart, and how its answers were read."""
    evaluation, analysis = subject.evaluation, subject.analyses[metric]
    total = len(evaluation.items) + evaluation.never_asked
    lines = []
    for result in analysis.methods:
        out, said = subject.outcomes[result.method], evaluation.said.get(result.method, Said())
        runs = result.spread
        readouts = ", ".join(f"{name} {count:,}" for name, count in said.readouts.most_common()) or "–"
        cells = (
            *(_count(n) for n in (out.ok, out.unreadable, out.failed, out.missing, out.degraded)),
            _count(result.answered),
            number(result.on_common),
            number(runs.sd if runs else None),
            Cell(f"{runs.low:.2f}–{runs.high:.2f}", runs.low) if runs else Cell("–"),
            Cell(readouts),
            number(said.option_mass, digits=3),
        )
        lines.append(Line(title(result.method), cells))
    columns = [Column(each, "Rows") for each in ("ok", "unreadable", "failed", "missing", "degraded")]
    columns += [Column("answered", "Items"), Column("average on common", "Items")]
    columns += [Column("sd", "Runs' averages"), Column("min–max", "Runs' averages")]
    columns += [Column("read by", "Readout"), Column("mass on options", "Readout")]
    notes = (
        f"{total:,} items, {_runs(evaluation)}: {total * evaluation.runs:,} rows for each method. Rows that "
        "are not ok have no score and enter no average; degraded rows are ok with a stage missing.",
        _sensitivity(subject, analysis),
        "Mass on options: mean probability that the reply is one of the options at all.",
    )
    caption = f"{subject.mark}Rows, runs and readouts."
    return Table("outcomes", caption, tuple(columns), (Section("", tuple(lines)),), notes)


def calls_table(subject: Subject) -> Table | None:
    """Model calls needed, asked and saved by sharing; None when the run does not say."""
    calls = subject.evaluation.manifest.get("calls")
    if not isinstance(calls, Mapping) or not calls.get("needed"):
        return None

    def line(name: str, row: Mapping[str, int]) -> Line:
        needed, asked = row.get("needed", 0), row.get("asked", 0)
        saved = row.get("saved", needed - asked)
        share = number(100 * asked / needed, digits=1) if needed else Cell("–")
        return Line(name, (_count(needed), _count(asked), _count(saved), share))

    kinds = calls.get("by_kind") or {}
    by_method = [
        Line(title(method), (_count(said.calls_needed), Cell("–"), Cell("–"), Cell("–")))
        for method in subject.roles.of
        if (said := subject.evaluation.said.get(method)) and said.calls_needed
    ]
    sections = (
        Section("", (line("All methods", calls),)),
        Section("By kind", tuple(line(kind, kinds[kind]) for kind in sorted(kinds))),
        Section("By method", tuple(by_method)),
    )
    columns = (Column("needed"), Column("asked"), Column("saved"), Column("asked, %"))
    notes = ("Needed: what the methods, run apart, would ask. What several have in common is asked once.",)
    return Table("calls", f"{subject.mark}Model calls.", columns, sections, notes, first="Calls")


def _method_lines(
    subject: Subject, analysis: Analysis, role: Role, printed: Mapping[str, PaperRow]
) -> Iterator[Line]:
    codes = subject.evaluation.countries
    methods = [method for method, each in subject.roles.of.items() if each == role]
    waiting = [row for key, row in printed.items() if _role_of(key) == role]
    for method in methods:
        yield _method_line(analysis, analysis.of(method), codes)
        for row in [row for row in waiting if row.method == method]:
            waiting.remove(row)
            yield _paper_line(row, codes)
    for row in waiting:
        yield _paper_line(row, codes)


def _role_of(paper_method: str) -> Role:
    return KNOWN[paper_method][1] if paper_method in KNOWN else "baseline"


def _method_line(analysis: Analysis, result: MethodResult, codes: Sequence[str]) -> Line:
    cells = []
    for code in codes:
        interval = result.by_country.get(code)
        mark = analysis.marks.get((result.method, code))
        cells.append(_cell(interval, mark))
    whole = result.average
    cells.append(_cell(whole, analysis.marks.get((result.method, AVERAGE))))
    return Line(title(result.method), (*cells, _range(whole)))


def _cell(interval: Interval | None, mark: Mark | None) -> Cell:
    if interval is None:
        return Cell("–", hint="nothing answered")
    hint = f"{_range(interval).text}, {interval.n} items, {interval.clusters} questions"
    return Cell(f"{interval.mean:.2f}", interval.mean, mark, hint)


def _range(interval: Interval | None, *, signed: bool = False) -> Cell:
    if interval is None or interval.low is None or interval.high is None:
        return Cell("–")
    sign = "+" if signed else ""
    text = f"[{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]".replace("-", "−")
    return Cell(text, interval.low)


def _floor_line(result: FloorResult, codes: Sequence[str]) -> Line:
    cells = [number(result.by_country.get(code)) for code in codes]
    return Line(result.floor.title, (*cells, number(result.average), Cell("")))


def _paper_line(row: PaperRow, codes: Sequence[str]) -> Line:
    name = KNOWN[row.method][0] if row.method in KNOWN else row.method.capitalize()
    cells = [number(row.by_country.get(code)) for code in codes]
    return Line(f"paper: {name}", (*cells, number(row.average), Cell("")), quiet=True)


def _counts(subject: Subject) -> Line:
    counts: dict[str, int] = {}
    for item in subject.evaluation.items:
        counts[item.country] = counts.get(item.country, 0) + 1
    total = len(subject.evaluation.items)
    cells = [Cell(f"{counts[code]:,}") for code in subject.evaluation.countries]
    return Line("n", (*cells, Cell(f"{total:,}"), Cell("")))


def _count(value: int) -> Cell:
    return Cell(f"{value:,}", float(value))


def _tested(tested: Tested | None, *, wide: bool) -> list[Cell]:
    if tested is None:
        return [Cell("–")] * (8 if wide else 4)
    found = tested.comparison
    difference = number(found.difference.mean, signed=True)
    ends, pairs, p_holm = _range(found.difference, signed=True), _count(found.difference.n), _p(tested.p_holm)
    if not wide:
        return [difference, ends, p_holm, pairs]
    counts = [_count(found.only_first), _count(found.only_second)]
    return [difference, ends, _p(found.p), p_holm, pairs, *counts, number(found.detectable)]


def _p(value: float) -> Cell:
    return Cell("<0.001" if value < 0.001 else f"{value:.3f}", value)


def _notes(subject: Subject, analysis: Analysis) -> Iterator[str]:
    evaluation = subject.evaluation
    questions = len({item.question_id for item in evaluation.items})
    if evaluation.partial:
        yield "PARTIAL: this run is not finished. What is missing is counted; nothing here is a result."
    seed = evaluation.manifest.get("seed", "not recorded")
    yield (
        f"{len(evaluation.items):,} items: {questions:,} questions in {len(evaluation.countries)} countries; "
        f"{_runs(evaluation)}, seed {seed}. An item's value is its mean over the runs; the average is "
        "the mean of the countries' means."
    )
    yield (
        f"95 %: percentile bootstrap, questions resampled ({subject.resamples:,} times), so that one "
        "question asked in many countries counts as one. It does not cover how runs differ; see sd."
    )
    yield (
        "Bold: the best method of a column, only where it beats the next by a paired permutation test (p < "
        "0.05 after Holm; one family for the average, one for all countries). Underlined or in italics: the "
        "second best, where that best is marked and the second beats the third likewise. Floors and "
        "ceilings are not ranked."
    )
    yield _floor_note(analysis)
    yield "Rows ok / unreadable / failed / missing: " + "; ".join(
        f"{title(m)} {o.ok:,} / {o.unreadable:,} / {o.failed:,} / {o.missing:,}"
        for m, o in subject.outcomes.items()
    )
    sds = [f"{title(r.method)} {s.sd:.2f}" for r in analysis.methods if (s := r.spread) and s.sd is not None]
    if sds:
        yield (
            "Standard deviation of the runs' averages (on items answered in all of them): "
            + "; ".join(sds)
            + "."
        )
    if left := evaluation.manifest.get("left_out"):
        yield "Not run: " + "; ".join(f"{title(name)} ({why})" for name, why in left.items())


def _floor_note(analysis: Analysis) -> str:
    best = analysis.best_floor
    if best is None:
        return "No floor could be computed."
    above = [title(method) for method, tested in analysis.against_floor.items() if tested.better]
    told = ", ".join(above) if above else "none"
    return (
        f"Best floor: {best.floor.title}, {best.average:.2f}. Methods above it beyond chance (Holm): {told}. "
        "Ceilings know the survey's answers to the question itself."
    )


def _sensitivity(subject: Subject, analysis: Analysis) -> str:
    total = len(subject.evaluation.items) + subject.evaluation.never_asked
    text = f"{analysis.common:,} of {total:,} items are answered by every method that answered anything"
    if analysis.common == total:
        return text + ": nothing rests on items left out."
    all_ranked = _order({r.method: r.average.mean for r in analysis.methods if r.average})
    on_common = _order({r.method: r.on_common for r in analysis.methods if r.on_common is not None})
    if not on_common:
        return text + ": there is no common ground to check the averages on."
    if all_ranked == on_common:
        return text + "; on those alone the methods' order is the same ('average on common')."
    told = " > ".join(title(method) for method in on_common)
    return text + f"; on those alone the order is another: {told}."


def _runs(evaluation: Evaluation) -> str:
    return "1 run" if evaluation.runs == 1 else f"{evaluation.runs} runs"


def _order(means: Mapping[str, float]) -> list[str]:
    return sorted(means, key=lambda method: -means[method])


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text.casefold())
