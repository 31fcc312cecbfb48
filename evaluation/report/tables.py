"""Which tables a report has and what stands in them. Words and cells only; the numbers are `analysis`'s."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cultural_palette.countries import find_country
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
from cultural_palette.evaluation.report.certificate import Certificate
from cultural_palette.evaluation.report.discrimination import Discrimination
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.load import Evaluation, Readouts
from cultural_palette.evaluation.report.paper import SOURCE, PaperBlock, PaperRow
from cultural_palette.evaluation.report.peers import Peer, culturespa, modular_pluralism
from cultural_palette.evaluation.report.robustness import BESIDE, beside, beside_note
from cultural_palette.evaluation.report.roles import HEADINGS, KNOWN, Role, Roles, title
from cultural_palette.evaluation.statistics import Interval
from cultural_palette.models.references import OPENAI, ModelRef

COMPARABLE = "jsdist_e"
ELSEWHERE = "Elsewhere"


TESTED = (
    "difference", "95 %", "95 % (Holm)", "p", "p Holm", "pairs", "batteries", "only it", "only other",
    "detectable",
)  # fmt: skip
SHORT = TESTED[:5]
GAIN = (
    "Gain: the score of a prediction minus the mean score of the same method's predictions for other "
    "countries on the same item. A method that does not look at the country has exactly 0. Rank: 1 where the "
    "predicted shares order the countries as the survey does, 0 where they do not at all."
)
_GAIN_TESTS = (
    "the same tests of the gains (Table 1's last columns), over the items whose question was answered for "
    "other countries too. Each column of them is a family of its own for Holm, apart from the scores'. A "
    "floor does not look at the country: its gain is 0."
)
DISCRIMINATION = (
    Column("gain", "Right country", "", "score for the right country minus the mean for others"),
    Column("95 %", "Right country", "", "over batteries and runs"),
    Column("rank", "Right country", "", "Spearman over countries, mean over options and questions"),
)


@dataclass(frozen=True)
class Subject:
    """What all tables of a report are about. `certificates`: by metric, where the run has conditions."""

    evaluation: Evaluation
    roles: Roles
    cultural_map: CulturalMap
    analyses: Mapping[str, Analysis]
    outcomes: Mapping[str, Outcomes]
    secondary: Mapping[str, tuple[float | None, float | None]]
    permutations: int
    discrimination: Discrimination
    certificates: Mapping[str, Certificate] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """What stands before every caption of an unfinished run."""
        return "PARTIAL. " if self.evaluation.partial else ""

    @property
    def columns(self) -> tuple[Column, ...]:
        """A column for each country, under its community."""
        columns = []
        for code in self.evaluation.countries:
            home = self.cultural_map.community_of(code)
            over, colour = (home.name, home.colour) if home else (ELSEWHERE, "")
            columns.append(Column(code, over, colour, find_country(code).name))
        return tuple(columns)


def main_table(subject: Subject, metric: str, blocks: Sequence[PaperBlock] = ()) -> Table:
    """The layout of the paper's Table 1: methods, countries by community, the average last. A block of the
    same base model stands row by row below ours, under the one metric that its numbers are comparable with.
    """
    analysis = subject.analyses[metric]
    own = next((b for b in blocks if b.same_base), None) if metric == COMPARABLE else None
    printed = {row.method: row for row in own.rows} if own else {}
    codes = subject.evaluation.countries
    certificate = subject.certificates.get(metric)
    more = (
        Column("95 %", "", "", "over batteries and runs"),
        *(BESIDE if certificate else ()),
        *DISCRIMINATION,
    )
    blank = (Cell(""),) * len(more)
    floors = [(f, _floor_line(f, codes, blank)) for f in analysis.floors]
    sections = [
        Section("Items", (_counts(subject, blank),)),
        Section("Floors", tuple(line for f, line in floors if not f.floor.reference)),
    ]
    for role, heading in HEADINGS.items():
        lines = list(_method_lines(subject, analysis, role, printed, blank))
        sections.append(Section(heading, tuple(lines)))
    sections.append(Section("References", tuple(line for f, line in floors if f.floor.reference)))
    notes = (*_notes(subject, analysis), *(own.slips if own else ()))
    if own:
        notes += (f"Rows named 'paper' are printed figures: {SOURCE}, {own.base_model}.",)
    caption = f"{subject.mark}Alignment with the survey by country, 0 to 100: {TITLES[metric]}."
    columns = (*subject.columns, Column("Average", "", "", "mean of the countries' means"), *more)
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
    """Every method's average under each of the four metrics, and what else can be said of a distribution."""

    def line(name: str, means: Sequence[float | None], more: Sequence[Cell]) -> Line:
        return Line(name, (*(number(mean) for mean in means), *more))

    def means_of(place: int) -> list[float | None]:
        results = [subject.analyses[metric].methods[place].average for metric in ALIGNMENTS]
        return [interval.mean if interval else None for interval in results]

    first, certificate = subject.analyses[ALIGNMENTS[0]], subject.certificates.get(COMPARABLE)
    more_columns = (
        Column("earth mover's"), Column("mode"), *(BESIDE if certificate else ()), *DISCRIMINATION,
    )  # fmt: skip
    methods = []
    for place, result in enumerate(first.methods):
        moved, agreed = subject.secondary[result.method]
        comparable = subject.analyses[COMPARABLE].methods[place]
        more = (
            number(moved, digits=3), number(agreed, digits=3), *beside(certificate, result.method),
            *discrimination_cells(comparable),
        )  # fmt: skip
        methods.append(line(title(result.method), means_of(place), more))
    blank = [Cell("")] * len(more_columns)
    floors = [
        line(floor.floor.title, [subject.analyses[metric].floors[k].average for metric in ALIGNMENTS], blank)
        for k, floor in enumerate(first.floors)
    ]
    known = [floor.floor.reference for floor in first.floors]
    sections = (
        Section("Floors", tuple(f for f, high in zip(floors, known, strict=True) if not high)),
        Section("Methods", tuple(methods)),
        Section("References", tuple(f for f, high in zip(floors, known, strict=True) if high)),
    )
    notes = (
        *(f"{key}: {TITLES[key]}." for key in ALIGNMENTS),
        "Eq. 5 as printed is the first; the paper's figures fit the last. Equal distributions score 100.",
        "Earth mover's distance: steps that mass must move along a scale, over the most steps (0 to 1, the "
        "less the better; questions whose options are a scale). Mode: how often the likeliest option is the "
        "survey's (0 to 1).",
        *((f"Under {COMPARABLE}. {beside_note(certificate)}",) if certificate else ()),
        f"Right country: under {COMPARABLE}. {GAIN}",
    )
    columns = (*(Column(key, hint=TITLES[key]) for key in ALIGNMENTS), *more_columns)
    caption = f"{subject.mark}The average under all four metrics."
    return Table("metrics", caption, columns, sections, notes)


def tests_table(subject: Subject, metric: str) -> Table:
    """Every method against the best baseline and against the best floor."""
    analysis = subject.analyses[metric]
    best, floor = analysis.best_baseline, analysis.best_floor
    lines = []
    for result in analysis.methods:
        against, above = (
            analysis.scores.against_baseline.get(result.method),
            analysis.scores.against_floor.get(result.method),
        )
        name = title(result.method) + (" (the best baseline)" if result.method == best else "")
        gained, alone = (
            analysis.gains.against_baseline.get(result.method),
            analysis.gains.against_floor.get(result.method),
        )
        lines.append(
            Line(
                name,
                (
                    *_tested(against),
                    *_tested(above)[: len(SHORT)],
                    *_tested(gained)[: len(SHORT)],
                    *_tested(alone)[: len(SHORT)],
                ),
            )
        )
    over = f"minus the best baseline, {title(best)}" if best else "no baseline in this run"
    over_floor = f"minus the best floor, {floor.floor.title}" if floor else "no floor"
    columns = [Column(label, over) for label in TESTED]
    columns += [Column(label, over_floor) for label in SHORT]
    over_gain = f"right country, gain minus that of {title(best)}" if best else "right country, no baseline"
    columns += [Column(label, over_gain) for label in SHORT]
    columns += [Column(label, "right country, gain minus 0, a floor's") for label in SHORT]
    notes = (
        *_test_notes(
            subject,
            (*analysis.scores.against_baseline.values(), *analysis.scores.against_floor.values()),
            (*analysis.gains.against_baseline.values(), *analysis.gains.against_floor.values()),
        ),
        "The best baseline is the one with the highest average here: chosen from the same data, which "
        f"favours it a little. Baselines: {', '.join(title(m) for m in subject.roles.baselines) or 'none'}.",
    )
    caption = f"{subject.mark}Tests under {TITLES[metric]}."
    return Table("tests", caption, tuple(columns), (Section("", tuple(lines)),), notes)


def planned_table(subject: Subject, metric: str) -> Table | None:
    """Ours minus each of its ablations, the best single draft and the self-blend: decided before the data."""
    analysis = subject.analyses[metric]
    if not analysis.scores.planned:
        return None
    gains = analysis.gains.planned
    lines = tuple(
        Line(title(method), (*_tested(test), *_tested(gains.get(method))[: len(SHORT)]))
        for method, test in analysis.scores.planned.items()
    )
    ours = title(subject.roles.ours)
    columns = (
        *(Column(label, f"{ours} minus it") for label in TESTED),
        *(Column(label, "right country, gain minus its") for label in SHORT),
    )
    caption = f"{subject.mark}Planned contrasts of {ours} under {TITLES[metric]}."
    notes = tuple(_test_notes(subject, tuple(analysis.scores.planned.values()), tuple(gains.values())))
    return Table("planned", caption, columns, (Section("", lines),), notes)


def _test_notes(subject: Subject, tests: Sequence[Tested], gains: Sequence[Tested]) -> Iterator[str]:
    yield (
        "Differences are paired: only items that both answered in every run count; 'only it' and 'only "
        "other' are items that one of the two answered, left out here."
    )
    yield (
        f"p: two-sided, the signs of whole batteries flipped ({subject.permutations:,} patterns drawn, +1 "
        "correction; all where there are no more), widened by the runs' variance. p Holm: corrected over the "
        "column's methods. 95 % (Holm): the differences that this corrected test does not reject; it leaves "
        "0 out exactly where p Holm is below 0.05."
    )
    blind = [test for test in tests if not test.can_tell]
    if blind:
        yield (
            f"{len(blind)} of {len(tests)} tests can not show any difference, however large: with so few "
            "batteries the smallest p Holm that could come out is "
            f"{min(test.smallest_p for test in blind):.3f} or more. See `palette evaluate plan`."
        )
    yield (
        "Detectable: the smallest true difference found with 80 % power at the corrected level; 'none' where "
        "no difference could be."
    )
    yield f"Right country: {_GAIN_TESTS}"
    if blind := [test for test in gains if not test.can_tell]:
        yield (
            f"{len(blind)} of {len(gains)} tests of the right country can not show any difference, however "
            "large."
        )


def outcomes_table(subject: Subject, metric: str) -> Table:
    """What became of each method's rows, how far its runs lie apart, and how its answers were read."""
    evaluation, analysis = subject.evaluation, subject.analyses[metric]
    total = len(evaluation.items) + evaluation.never_asked
    lines = []
    for result in analysis.methods:
        out = subject.outcomes[result.method]
        readouts = evaluation.readouts.get(result.method, Readouts())
        runs = result.spread
        read_by = ", ".join(f"{name} {count:,}" for name, count in readouts.methods.most_common()) or "–"
        orders = ", ".join(f"{count}" for count in sorted(readouts.orders)) or "–"
        cells = (
            *(_count(n) for n in (out.ok, out.unreadable, out.failed, out.missing, out.degraded)),
            _count(result.answered),
            _count(result.partly),
            number(result.on_common),
            number(runs.sd if runs else None),
            Cell(f"{runs.low:.2f}–{runs.high:.2f}", runs.low) if runs else Cell("–"),
            Cell(read_by),
            number(readouts.option_mass.value, digits=3),
            Cell(orders),
            number(readouts.order_spread.value, digits=3),
        )
        lines.append(Line(title(result.method), cells))
    columns = [Column(status, "Rows") for status in ("ok", "unreadable", "failed", "missing", "degraded")]
    columns += [Column(label, "Items") for label in ("answered", "partly", "average on common")]
    columns += [Column("sd", "Runs' averages"), Column("min–max", "Runs' averages")]
    columns += [Column("read by", "Readout"), Column("mass on options", "Readout")]
    columns += [Column("orders", "Readout"), Column("place bias", "Readout")]
    notes = (
        f"{total:,} items, {_runs(evaluation)}: {total * evaluation.runs:,} rows for each method. Rows that "
        "are not ok have no score and enter no average; degraded rows are ok with a stage missing. Partly: "
        "items that only some runs answered, left out.",
        _sensitivity(subject, analysis),
        "Mass on options: mean probability that the reply is one of the options at all. Orders: of the "
        "options that a prediction is the mean over. Place bias: how far an option's probability changes "
        "with its place, the standard deviation over the orders of the option that changes most, mean over "
        "the items (0 to 0.5).",
    )
    caption = f"{subject.mark}Rows, runs and readouts."
    return Table("outcomes", caption, tuple(columns), (Section("", tuple(lines)),), notes)


def calls_table(subject: Subject) -> Table | None:
    """Model calls needed, asked and saved by sharing; None when the run does not say."""
    calls = subject.evaluation.manifest.get("calls")
    if not isinstance(calls, Mapping) or not calls.get("needed"):
        return None

    def line(name: str, row: Mapping[str, int]) -> Line:
        needed, asked_count = row.get("needed", 0), row.get("asked", 0)
        saved = row.get("saved", needed - asked_count)
        share = number(100 * asked_count / needed, digits=1) if needed else Cell("–")
        return Line(name, (_count(needed), _count(asked_count), _count(saved), share))

    kinds = calls.get("by_kind") or {}
    by_method = [
        Line(title(method), (_count(readouts.calls_needed), Cell("–"), Cell("–"), Cell("–")))
        for method in subject.roles.of
        if (readouts := subject.evaluation.readouts.get(method)) and readouts.calls_needed
    ]
    sections = (
        Section("", (line("All methods", calls),)),
        Section("By kind", tuple(line(kind, kinds[kind]) for kind in sorted(kinds))),
        Section("By method", tuple(by_method)),
    )
    columns = (Column("needed"), Column("asked"), Column("saved"), Column("asked, %"))
    notes = ("Needed: what the methods, run apart, would ask. What several have in common is asked once.",)
    return Table("calls", f"{subject.mark}Model calls.", columns, sections, notes, first="Calls")


def peers_table(subject: Subject, peers: Sequence[Peer]) -> Table | None:
    """Every method by other papers' own scores."""
    if not peers:
        return None
    columns: list[Column] = []
    notes = []
    if "modular-pluralism" in peers:
        over = "Modular Pluralism's"
        columns += [
            Column("JS distance", over),
            Column("mode", over),
            Column("rows", over),
            Column("as uniform", over),
        ]
        notes.append(
            "Modular Pluralism's: Jensen-Shannon distance in base e, the less the better, plain mean over "
            "rows of at most five options; a reply that can not be read counts as uniform."
        )
    if "culturespa" in peers:
        columns.append(Column("score", "CultureSPA's"))
        notes.append(
            "CultureSPA's: 100 * (1 - distance of the chosen options' numbers from the survey's, over the "
            "greatest possible), a country at a time, then the mean; the survey's answer is the one most "
            "people gave."
        )
    lines = []
    for method in subject.roles.of:
        cells: list[Cell] = []
        if "modular-pluralism" in peers:
            peer = modular_pluralism(subject.evaluation, method)
            cells += (
                [
                    number(peer.distance, digits=4),
                    number(peer.mode, digits=3),
                    _count(peer.rows),
                    _count(peer.uniform),
                ]
                if peer
                else [Cell("–")] * 4
            )
        if "culturespa" in peers:
            cells.append(number(culturespa(subject.evaluation, method)))
        cells += discrimination_cells(subject.analyses[COMPARABLE].of(method))
        lines.append(Line(title(method), tuple(cells)))
    columns += DISCRIMINATION
    notes.append(f"Right country: ours, under {COMPARABLE}. {GAIN}")
    notes.append("Only the score is theirs: prompts, models and readout are this run's (docs/methods.md).")
    caption = f"{subject.mark}The same rows by other papers' own scores."
    return Table("peers", caption, tuple(columns), (Section("", tuple(lines)),), tuple(notes))


def _method_lines(
    subject: Subject,
    analysis: Analysis,
    role: Role,
    printed: Mapping[str, PaperRow],
    blank: tuple[Cell, ...],
) -> Iterator[Line]:
    codes, certificate = subject.evaluation.countries, subject.certificates.get(analysis.metric)
    methods = [method for method, own in subject.roles.of.items() if own == role]
    waiting = [row for key, row in printed.items() if _role_of(key) == role]
    for method in methods:
        yield _method_line(analysis, analysis.of(method), codes, beside(certificate, method))
        for row in [row for row in waiting if row.method == method]:
            waiting.remove(row)
            yield _paper_line(row, codes, blank)
    for row in waiting:
        yield _paper_line(row, codes, blank)


def _role_of(paper_method: str) -> Role:
    return KNOWN[paper_method][1] if paper_method in KNOWN else "baseline"


def _method_line(
    analysis: Analysis, result: MethodResult, codes: Sequence[str], robustness: tuple[Cell, ...]
) -> Line:
    cells = []
    for code in codes:
        interval = result.by_country.get(code)
        mark = analysis.marks.get((result.method, code))
        cells.append(_cell(interval, mark))
    whole = result.average
    cells.append(_cell(whole, analysis.marks.get((result.method, AVERAGE))))
    return Line(title(result.method), (*cells, range_cell(whole), *robustness, *discrimination_cells(result)))


def discrimination_cells(result: MethodResult) -> tuple[Cell, ...]:
    """The cells of DISCRIMINATION."""
    gain = result.discrimination
    mean = number(gain.mean if gain else None, signed=True)
    return mean, range_cell(gain, signed=True), number(result.rank, signed=True)


def _cell(interval: Interval | None, mark: Mark | None) -> Cell:
    if interval is None:
        return Cell("–", hint="nothing answered")
    hint = f"{range_cell(interval).text}, {interval.n} items, {interval.clusters} batteries"
    return Cell(f"{interval.mean:.2f}", interval.mean, mark, hint)


def range_cell(interval: Interval | None, *, signed: bool = False) -> Cell:
    """An interval's ends; "none" where there can be none."""
    if interval is None:
        return Cell("–")
    if interval.low is None or interval.high is None:
        return Cell("none")
    return _ends((interval.low, interval.high), signed=signed)


def _ends(ends: tuple[float, float], *, signed: bool) -> Cell:
    low, high = ends
    sign = "+" if signed else ""
    return Cell(f"[{low:{sign}.2f}, {high:{sign}.2f}]".replace("-", "−"), low)


def _floor_line(result: FloorResult, codes: Sequence[str], blank: tuple[Cell, ...]) -> Line:
    cells = [number(result.by_country.get(code)) for code in codes]
    name = result.floor.title + (f" ({result.items:,} items)" if result.missing else "")
    return Line(name, (*cells, number(result.average), *blank))


def _paper_line(row: PaperRow, codes: Sequence[str], blank: tuple[Cell, ...]) -> Line:
    name = KNOWN[row.method][0] if row.method in KNOWN else row.method.capitalize()
    cells = [number(row.by_country.get(code)) for code in codes]
    return Line(f"paper: {name}", (*cells, number(row.average), *blank), quiet=True)


def _counts(subject: Subject, blank: tuple[Cell, ...]) -> Line:
    counts: dict[str, int] = {}
    for item in subject.evaluation.items:
        counts[item.country] = counts.get(item.country, 0) + 1
    total = len(subject.evaluation.items)
    cells = [Cell(f"{counts[code]:,}") for code in subject.evaluation.countries]
    return Line("n", (*cells, Cell(f"{total:,}"), *blank))


def _count(value: int) -> Cell:
    return Cell(f"{value:,}", float(value))


def _tested(test: Tested | None) -> list[Cell]:
    if test is None:
        return [Cell("–")] * len(TESTED)
    comparison = test.comparison
    difference = comparison.difference
    detectable = test.detectable
    return [
        number(difference.mean, signed=True),
        range_cell(difference, signed=True),
        _ends(test.ends, signed=True) if test.ends else Cell("none"),
        _p(comparison.p),
        _p(test.p_holm),
        _count(difference.n),
        Cell(f"{difference.clusters:,} ({difference.effective:.1f})", difference.effective),
        _count(comparison.only_first),
        _count(comparison.only_second),
        number(detectable) if detectable is not None else Cell("none"),
    ]


def _p(value: float) -> Cell:
    return Cell("<0.001" if value < 0.001 else f"{value:.3f}", value)


def _notes(subject: Subject, analysis: Analysis) -> Iterator[str]:
    evaluation = subject.evaluation
    questions = len({item.question_id for item in evaluation.items})
    if evaluation.partial:
        yield "PARTIAL: this run is not finished. What is missing is counted; nothing here is a result."
    if evaluation.edited:
        yield "EDITED: rows.jsonl was changed since the run; these are not the predictions it ended with."
    batteries = len({item.battery for item in evaluation.items})
    seed = evaluation.manifest.get("seed", "not recorded")
    yield (
        f"{len(evaluation.items):,} items: {questions:,} questions of {batteries:,} batteries in "
        f"{len(evaluation.countries)} countries; {_runs(evaluation)}, seed {seed}. An item's value is its "
        "mean over the runs, and counts where every run answered it; the average is the mean of the "
        "countries' means."
    )
    counts = (evaluation.manifest.get("survey") or {}).get("counts") or {}
    if few := counts.get("items under half answered"):
        yield (
            f"{few:,} items are of rows in which less than half of the respondents gave an opinion: kept, "
            "and weak."
        )
    if shaped := settings_text(evaluation.manifest):
        yield f"Made with {shaped}."
    yield (
        "95 %: the averages that a test by flipping the signs of whole batteries does not reject "
        f"({subject.permutations:,} patterns drawn, or all), so that one battery asked in many countries "
        "counts as one; widened by the variance between runs"
        + (", of which one run says nothing." if evaluation.runs == 1 else ".")
        + " 'none': with five batteries or fewer there is no such interval."
    )
    if sized := [result.average for result in analysis.methods if result.average]:
        effective = min(interval.effective for interval in sized)
        yield f"Effective number of batteries, for they weigh unequally: {effective:.1f} of {batteries:,}."
    if certificate := subject.certificates.get(analysis.metric):
        yield beside_note(certificate)
    yield GAIN
    yield (
        "Bold: the best method of a column, only where it beats the next by a paired test (p < "
        "0.05 after Holm; one family for the average, one for all countries). Underlined or in italics: the "
        "second best, where that best is marked and the second beats the third likewise. Floors and "
        "references are not ranked."
    )
    yield from _floor_distances(analysis)
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


def settings_text(manifest: Mapping[str, object]) -> str:
    """Everything of a run's settings that changes a number: orders, temperatures, readout, prompt order and
    blend.
    """
    settings = manifest.get("settings")
    if not isinstance(settings, Mapping):
        return ""
    shown = [
        ("permutations", "orders of the options"), ("readout", "readout"),
        ("readout_samples", "samples a readout"), ("temperature", "drafts at temperature"),
        ("meta_temperature", "accounts at"), ("max_tokens", "most tokens"), ("prompt_order", "prompt order"),
        ("min_drafts", "fewest drafts"),
    ]  # fmt: skip
    told = [f"{name} {settings[key]}" for key, name in shown if settings.get(key) is not None]
    roles = settings.get("sampling")
    for role, shape in (roles if isinstance(roles, Mapping) else {}).items():
        told.append(f"sampling of {role} " + " ".join(f"{key} {value}" for key, value in shape.items()))
    told += ["replies decoded together"] if manifest.get("together") else []
    return ", ".join([*told, *_blend_text(manifest, settings)])


def _blend_text(manifest: Mapping[str, object], settings: Mapping[str, object]) -> Iterator[str]:
    """How the MoErges of every row blends, where that is not each method's own: by `--blend`, or as its
    server was started.
    """
    models = manifest.get("models")
    meta = models.get("meta") if isinstance(models, Mapping) else None
    if settings.get("blend"):
        yield f"the MoErges blending by {settings['blend']} in every row"
    elif isinstance(meta, str) and meta.startswith(OPENAI) and ModelRef.parse(meta).takes_blend:
        yield "the MoErges blending as its server was started"


def _floor_distances(analysis: Analysis) -> Iterator[str]:
    """How far the drawn items are from the survey they were drawn from, as floors and references show it."""
    metric = analysis.metric
    distances = [
        f"{floor.floor.title} {floor.average:.2f} here, {floor.floor.whole[metric]:.2f} on all "
        f"({floor.average - floor.floor.whole[metric]:+.2f})"
        for floor in analysis.floors
        if floor.floor.whole is not None and floor.average is not None
    ]
    if distances:
        text = re.sub(r"-(?=\d)", "−", "; ".join(distances))
        yield f"The drawn items against the whole selection: {text}."
    for floor in analysis.floors:
        if floor.missing:
            yield (
                f"{floor.floor.title}: {floor.missing:,} items have none, for nobody else answered such a "
                f"question; its averages are over the other {floor.items:,}."
            )


def _floor_note(analysis: Analysis) -> str:
    best = analysis.best_floor
    if best is None:
        return "No floor could be computed."
    above = [title(method) for method, test in analysis.scores.against_floor.items() if test.better]
    return (
        f"Best floor: {best.floor.title}, {best.average:.2f}. Methods above it beyond chance (Holm): "
        f"{', '.join(above) or 'none'}. References know the survey's answers to the question itself; they "
        "bound nothing."
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
    order = " > ".join(title(method) for method in on_common)
    return text + f"; on those alone the order is another: {order}."


def _runs(evaluation: Evaluation) -> str:
    return "1 run" if evaluation.runs == 1 else f"{evaluation.runs} runs"


def _order(means: Mapping[str, float]) -> list[str]:
    return sorted(means, key=lambda method: -means[method])


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text.casefold())
