"""One run folder in, one report folder out; `report.json`, which lists the files, comes last."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import CONFIG, MANIFEST, claim, write_whole
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import UsageError
from cultural_palette.evaluation.metrics import ALIGNMENTS, TITLES
from cultural_palette.evaluation.report import figures
from cultural_palette.evaluation.report.analysis import Analyst, Settings, item_means, outcomes
from cultural_palette.evaluation.report.breakdown import breakdown_table, gains_table, measure_slices
from cultural_palette.evaluation.report.calibration import calibrate
from cultural_palette.evaluation.report.case_page import cases_part, failures_part
from cultural_palette.evaluation.report.cases import choose_cases, failures
from cultural_palette.evaluation.report.certificate import certify
from cultural_palette.evaluation.report.csv_files import (
    calibration_rows,
    certificate_rows,
    failure_rows,
    long_rows,
    question_rows,
    slice_rows,
    tested_rows,
    to_csv,
    wide_rows,
)
from cultural_palette.evaluation.report.diversity import diversity_table
from cultural_palette.evaluation.report.figures import Picture
from cultural_palette.evaluation.report.labels import labels_table
from cultural_palette.evaluation.report.layout import Table, to_latex, to_markdown
from cultural_palette.evaluation.report.load import load_evaluation
from cultural_palette.evaluation.report.page import Part, facts_html, page, tables_part
from cultural_palette.evaluation.report.paper import Show, paper_blocks
from cultural_palette.evaluation.report.peers import Peer
from cultural_palette.evaluation.report.robustness import certificate_table
from cultural_palette.evaluation.report.roles import assign_roles, title
from cultural_palette.evaluation.report.semantics import KIND as SEMANTIC
from cultural_palette.evaluation.report.semantics import Semantics, load_semantics, semantic_table
from cultural_palette.evaluation.report.tables import (
    COMPARABLE,
    Subject,
    calls_table,
    main_table,
    metrics_table,
    outcomes_table,
    paper_table,
    peers_table,
    planned_table,
    settings_text,
    tests_table,
)
from cultural_palette.evaluation.report.verdict import semantic_verdict, verdict
from cultural_palette.evaluation.report.worth import worth_table
from cultural_palette.evaluation.statistics import average
from cultural_palette.jsonl import read_object
from cultural_palette.safe_text import without_html

FORMAT = "cultural-palette-report/1"
BEGUN = ".report.begun.json"
"""What a report that is being written is going to hold: left behind, it says whose files these are."""
PART = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")  # as `write_whole` names what is not whole yet
HELD = ".report.lock"
SUMMARY, PAGE, TEXT = "report.json", "report.html", "report.md"
AS_PRINTED = "jsd_e"


@dataclass(frozen=True)
class Request:
    """What to report. `semantic`: a semantic run to show beside a survey run; `base_model`: what the run's
    models were made from, for the paper's numbers, where their names do not say; `drawn`: cases by lot;
    `peers`: papers whose own score is added. `conditions`: runs with one thing another, for the certificate.
    """

    run: Path
    out: Path
    metric: str = COMPARABLE
    paper: Show = "auto"
    semantic: Path | None = None
    base_model: str | None = None
    ours: str | None = None
    baselines: tuple[str, ...] = ()
    partial: bool = False
    drawn: int = 1
    peers: tuple[Peer, ...] = ()
    settings: Settings = field(default_factory=Settings)
    conditions: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.metric not in ALIGNMENTS:
            known = "; ".join(f"{key}: {TITLES[key]}" for key in ALIGNMENTS)
            raise UsageError(f"Unknown metric {self.metric!r}. There are {known}.")


@dataclass(frozen=True)
class Written:
    """The report's folder, its files, and its few most important sentences."""

    folder: Path
    files: tuple[str, ...]
    verdict: tuple[str, ...]


def recorded(run: Path, name: str) -> str | None:
    """What a run folder's manifest, or its config while it is unfinished, says of itself; else None."""
    for file in (MANIFEST, CONFIG):
        try:
            return str(read_object(run / file)[name])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def write_report(request: Request, cultural_map: CulturalMap) -> Written:
    """Read the run, write tables, figures and the page. Refuses a folder that holds something else, or that
    another report is being written to.
    """
    _old_files(request.out)
    made = _semantic_only if recorded(request.run, "kind") == SEMANTIC else _survey
    parts, files, sentences, facts = made(request, cultural_map)
    parts.append(Part("made", "How this was made", facts_html(facts)))
    partial = facts.get("state") == "PARTIAL"
    name = f"Evaluation report: {request.run.resolve().name}"
    files[PAGE] = page(name, parts, subtitle=facts["about"], verdict=sentences, partial=partial)
    with claim(request.out, inside=HELD):
        _replace(request, files, sentences, facts)
    return Written(request.out, (*files, SUMMARY), tuple(sentences))


def _replace(
    request: Request, files: Mapping[str, str | bytes], sentences: list[str], facts: dict[str, str]
) -> None:
    """Write a report's files in the place of an older one's."""
    old = _old_files(request.out)
    _clear_halves(request.out, old)
    begun = {"format": FORMAT, "files": sorted(old | set(files))}
    write_whole(request.out / BEGUN, json.dumps(begun, ensure_ascii=False) + "\n")
    for stale in old - set(files) - {SUMMARY}:
        (request.out / stale).unlink(missing_ok=True)
    (request.out / SUMMARY).unlink(missing_ok=True)
    for file, data in files.items():
        write_whole(request.out / file, data)
    summary = {
        "format": FORMAT, "run": request.run.resolve().name, "metric": request.metric,
        "partial": facts.get("state") == "PARTIAL",
        "verdict": sentences, "facts": facts, "files": sorted(files),
    }  # fmt: skip
    write_whole(request.out / SUMMARY, json.dumps(summary, ensure_ascii=False, indent=2) + "\n")
    (request.out / BEGUN).unlink(missing_ok=True)


Made = tuple[list[Part], dict[str, str | bytes], list[str], dict[str, str]]


def _survey(request: Request, cultural_map: CulturalMap) -> Made:
    evaluation = load_evaluation(request.run, cultural_map, partial=request.partial)
    settings, metric = request.settings, request.metric
    countries = [item.country for item in evaluation.items]
    averages = {
        method: mean
        for method in evaluation.methods
        if (mean := average(item_means(evaluation, method, metric), countries)) is not None
    }
    roles = assign_roles(
        evaluation.methods, baselines=request.baselines, ours=request.ours, averages=averages
    )
    analyst = Analyst(evaluation, roles, settings)
    others = [load_evaluation(run, cultural_map, partial=request.partial) for run in request.conditions]
    certificates = {
        key: made
        for key in dict.fromkeys((metric, AS_PRINTED, COMPARABLE))
        if (made := certify(evaluation, others, key, permutations=settings.permutations))
    }
    subject = Subject(
        evaluation, roles, cultural_map,
        {key: analyst.analyse(key) for key in ALIGNMENTS},
        {method: outcomes(evaluation, method) for method in roles.of},
        {method: analyst.secondary(method) for method in roles.of},
        settings.permutations,
        analyst.discrimination,
        certificates,
    )  # fmt: skip
    base = request.base_model or (evaluation.manifest.get("models") or {}).get("base")
    blocks = paper_blocks(base, request.paper)
    calibrations = [calibrate(evaluation, method) for method in roles.of]
    semantics = _beside(request, cultural_map, base)
    failed = failures(evaluation)
    rows = evaluation.rows_at([failure.line for failure in failed if failure.line])
    errors = {line: str(row.get("error") or "") for line, row in rows.items()}
    cases = choose_cases(evaluation, roles, metric, drawn=request.drawn, seed=settings.seed)

    slices = measure_slices(subject, metric)
    other = AS_PRINTED if metric != AS_PRINTED else COMPARABLE
    apart = [block for block in blocks if not (block.same_base and COMPARABLE in (metric, other))]
    tables: dict[str, list[Table | None]] = {
        "table": [
            main_table(subject, metric, blocks),
            main_table(subject, other, blocks),
            metrics_table(subject),
        ],
        "paper": [paper_table(subject, block) for block in apart],
        "tests": [tests_table(subject, metric), planned_table(subject, metric)],
        "certificate": [certificate_table(certificates.get(metric), roles, metric, subject.mark)],
        "worth": [worth_table(subject, metric), labels_table(subject)],
        "slices": [
            breakdown_table(subject, metric, slices),
            gains_table(subject, metric, slices),
            diversity_table(subject),
        ],
        "peers": [peers_table(subject, request.peers)],
        "rows": [outcomes_table(subject, metric), calls_table(subject)],
        "semantic": [semantic_table(semantics)] if semantics else [],
    }
    pictures: dict[str, list[Picture | None]] = {
        "table": [figures.draw_averages(subject, metric)],
        "countries": [figures.draw_heat_map(subject, metric), figures.draw_radar(subject, metric)],
        "calibration": [figures.draw_calibration(calibrations, subject.mark)],
        "semantic": [figures.draw_semantic(semantics)] if semantics else [],
    }
    headings = {
        "table": "Table 1", "paper": "The paper's figures", "tests": "Tests",
        "certificate": "Robustness", "worth": "What it is worth", "slices": "Slices and diversity",
        "countries": "By country",
        "calibration": "Calibration", "rows": "Rows and calls", "peers": "Peers' own scores",
        "semantic": "Semantic consistency",
    }  # fmt: skip
    parts = [
        tables_part(key, heading, tables.get(key, []), pictures.get(key, []))
        for key, heading in headings.items()
        if any(tables.get(key, [])) or any(pictures.get(key, []))
    ]
    parts.append(
        cases_part(cases, cultural_map, metric, ours=roles.ours, drawn=request.drawn, seed=settings.seed)
    )
    parts.append(failures_part(failed, errors))
    all_tables = [table for group in tables.values() for table in group if table is not None]
    files = _files(all_tables, [picture for group in pictures.values() for picture in group if picture])
    files |= {
        "tables/table1.csv": to_csv(wide_rows(subject, metric)),
        "tables/scores.csv": to_csv(long_rows(subject, blocks)),
        "tables/tests.csv": to_csv(tested_rows(subject)),
        "tables/slices.csv": to_csv(slice_rows(slices, metric)),
        "tables/questions.csv": to_csv(question_rows(subject, metric)),
        "tables/calibration.csv": to_csv(calibration_rows(calibrations)),
        "tables/failures.csv": to_csv(failure_rows(failed, errors)),
    }
    if certificates:
        files["tables/certificate.csv"] = to_csv(certificate_rows(certificates))
    sentences = [subject.mark + line for line in verdict(subject, metric)]
    facts = _survey_facts(subject, request)
    files[TEXT] = _markdown(request, facts, sentences, all_tables)
    return parts, files, sentences, facts


def _semantic_only(request: Request, cultural_map: CulturalMap) -> Made:
    semantics = load_semantics(
        request.run, cultural_map, request.settings, base_name=request.base_model,
        partial=request.partial, quote=request.paper != "never",
    )  # fmt: skip
    table, picture = semantic_table(semantics), figures.draw_semantic(semantics)
    sentences = [("PARTIAL. " if semantics.partial else "") + line for line in semantic_verdict(semantics)]
    manifest = semantics.manifest
    facts = {
        "about": f"{len(semantics.results)} methods, {len(semantics.communities)} communities",
        "state": "PARTIAL" if semantics.partial else "finished",
        **_facts(manifest, ("dataset", "nli", "models", "items", "outcomes", "versions")),
    }
    files = _files([table], [picture])
    files[TEXT] = _markdown(request, facts, sentences, [table])
    return [tables_part("semantic", "Semantic consistency", [table], [picture])], files, sentences, facts


def _beside(request: Request, cultural_map: CulturalMap, base: str | None) -> Semantics | None:
    if request.semantic is None:
        return None
    return load_semantics(
        request.semantic, cultural_map, request.settings, base_name=base, partial=request.partial,
        quote=request.paper != "never",
    )  # fmt: skip


def _files(tables: list[Table], pictures: list[Picture]) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    for table in tables:
        files[f"tables/{table.key}.md"] = to_markdown(table)
        files[f"tables/{table.key}.tex"] = to_latex(table)
    for picture in pictures:
        files[f"figures/{picture.key}.svg"] = picture.svg
        files[f"figures/{picture.key}.png"] = picture.png
    return files


def _markdown(request: Request, facts: Mapping[str, str], sentences: list[str], tables: list[Table]) -> str:
    state = "**PARTIAL: this run is not finished. Nothing here is a result.**\n\n"
    head = f"# Evaluation report: {request.run.resolve().name}\n\n{facts['about']}\n\n"
    verdicts = "".join(f"- {line}\n" for line in sentences)
    body = "\n".join(to_markdown(table) for table in tables)
    top = without_html(head) + (state if facts["state"] == "PARTIAL" else "") + without_html(verdicts)
    return f"{top}\n{body}"


def _survey_facts(subject: Subject, request: Request) -> dict[str, str]:
    evaluation, manifest = subject.evaluation, subject.evaluation.manifest
    survey = manifest.get("survey") or {}
    about = (
        f"{survey.get('name', 'survey')}: {len(evaluation.items):,} items in {len(evaluation.countries)} "
        f"countries, {len(evaluation.methods)} methods, runs: {evaluation.runs}"
    )
    return {
        "about": about,
        "state": "PARTIAL" if evaluation.partial else "finished",
        "metric": f"{request.metric}: {TITLES[request.metric]}",
        "ours": title(subject.roles.ours),
        "baselines": ", ".join(title(method) for method in subject.roles.baselines) or "none",
        **_facts(survey, ("source", "sha256", "selection", "counts"), "survey "),
        **_facts(manifest, ("seed", "models", "left_out", "versions", "predictions_sha256")),
        **({"settings": shaped} if (shaped := settings_text(manifest)) else {}),
        "rows": "EDITED since the run" if evaluation.edited else "as the run left them",
        "intervals": (
            f"{subject.permutations:,} sign patterns of batteries, seed {request.settings.seed}; runs count"
        ),
    }


def _facts(source: Mapping[str, Any], names: tuple[str, ...], before: str = "") -> dict[str, str]:
    """Values of a manifest as text; what is not there is left out."""
    return {
        f"{before}{name}": _text(source[name]) for name in names if source.get(name) not in (None, {}, [])
    }


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return " ".join(_text(part) for part in value)
    return (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool) and value > 9999
        else str(value)
    )


def _old_files(out: Path) -> set[str]:
    """The files of an earlier report in that folder, a stopped one's too; UsageError when it holds anything
    else.
    """
    try:
        names = {path.name for path in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise UsageError(
            f"{out} is no folder that can be read ({error.strerror}). Take another --out."
        ) from None
    files = [files for name in (SUMMARY, BEGUN) if (files := _listed(out / name)) is not None]
    if not files and any(not _part_of(name, {BEGUN}) for name in names - {HELD}):
        raise UsageError(f"{out} holds something else than a report. Take another --out, or empty it.")
    return set().union(*files)


def _clear_halves(out: Path, old: set[str]) -> None:
    """Remove what a stopped report had half written."""
    places = {out / name for name in (*old, SUMMARY, BEGUN)}
    for folder in {place.parent for place in places}:
        own = {place.name for place in places if place.parent == folder}
        for part in folder.glob(".*.part"):
            if _part_of(part.name, own):
                part.unlink(missing_ok=True)


def _part_of(name: str, files: Collection[str]) -> bool:
    """Whether a file is what `write_whole` left of one of these when it was killed."""
    match = PART.fullmatch(name)
    return match is not None and match[1] in files


def _listed(file: Path) -> set[str] | None:
    """The files that a report says it has; None where there is no such report."""
    try:
        summary = read_object(file)
        if summary["format"] != FORMAT:
            return None
        return {str(name) for name in summary["files"] if not {"..", "/"} & set(Path(name).parts)}
    except (OSError, ValueError, KeyError, TypeError):
        return None
