"""A dataset folder out of a synthesis run: gated, split by query, exported in every form, manifest last."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cultural_palette.artifacts import MANIFEST, whole_folder, write_whole
from cultural_palette.errors import ArtifactError, UsageError
from cultural_palette.jsonl import read_object, read_rows
from cultural_palette.provenance import installed_versions
from cultural_palette.training.pentachromatic.card import CARD, Licence, card_of
from cultural_palette.training.pentachromatic.forms import FORMS
from cultural_palette.training.pentachromatic.splits import SPLITS, Splits, assign
from cultural_palette.training.pentachromatic.streams import FileFacts, JsonLines, ParquetRows, facts
from cultural_palette.training.pentachromatic.synthesis_run import (
    SET_ASIDE,
    IndexedQuery,
    RunIndex,
    SynthesisedAnswer,
    SynthesisRun,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from cultural_palette.training.review.reconcile import Review

PACKAGES = ("cultural-palette", "pyarrow", "datasketch")
KIND = "pentachromatic-dataset"
ANSWERS = "answers.jsonl"
INCOMPLETE = "incomplete.jsonl"
JSONL, PARQUET = "jsonl", "parquet"
FORMATS = (JSONL, PARQUET)
ABSENT, REJECTED, UNDECIDED, EXCLUDED = "absent", "rejected", "undecided", "excluded"


@dataclass(frozen=True)
class Excluded:
    """Queries to leave out whole, such as those that `palette dataset measure leakage` found in a survey."""

    name: str
    sha256: str
    reasons: Mapping[str, str]


def read_excluded(path: Path) -> Excluded:
    """JSONL of {"query_id": .., "reason": ..}; raises UsageError with the line."""
    reasons = {}

    def fault(place: str, why: str) -> NoReturn:
        raise UsageError(f'{place}: expected {{"query_id": .., "reason": ..}} ({why})')

    for row, place in read_rows(path, fault):
        if "query_id" not in row:
            fault(place, 'no "query_id"')
        reasons[str(row["query_id"])] = str(row.get("reason") or "no reason given")
    return Excluded(path.name, facts(path).sha256, reasons)


@dataclass(frozen=True)
class DatasetSettings:
    """How a dataset is built. `gate`: only answers that a reviewer approved or edited pass."""

    test_share: float = 0.1
    seed: int = 0
    gate: bool = False
    formats: tuple[str, ...] = FORMATS
    licence: Licence = field(default_factory=Licence)
    excluded: Excluded | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            raise UsageError(f"test share {self.test_share}: expected 0 or more, and less than 1")
        if not self.formats or set(self.formats) - set(FORMATS):
            raise UsageError(
                f"formats {', '.join(self.formats) or '(none)'}: expected {' or '.join(FORMATS)}"
            )


def build(
    run: SynthesisRun,
    out: Path,
    settings: DatasetSettings,
    *,
    index: RunIndex | None = None,
    review: Review | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the dataset folder `out` and return its manifest.

    Without a gate, a review still drops what was rejected and applies edits. The folder is there when it is
    whole, or not at all. Raises UsageError when it is there already, or when no query is complete.
    """
    if settings.gate and review is None:
        raise UsageError(
            "The gate is on, and there are no decisions: say --decisions FILE, or leave --gate out."
        )
    index = index or run.index()
    splits = assign(
        ((query.query_id, query.query) for query in index.queries), settings.test_share, settings.seed
    )
    with new_folder(out, overwrite) as folder:
        tally = _write_rows(run, index, splits, settings, review, folder)
        if not tally.complete:
            raise UsageError(
                f"No query of {run.path} is answered by all of {', '.join(run.communities)}: "
                f"{sum(tally.lost.values())} answers are missing ({_counted(tally.lost)})."
            )
        manifest = _manifest(run, index, splits, settings, review, tally)
        finish(folder, manifest)
    return manifest


@contextmanager
def new_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` when the block ends well; else nothing changes."""
    if out.exists() and not overwrite and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there already. Take another --out, or say --overwrite.")
    if overwrite and out.exists() and not _ours(out):
        raise UsageError(f"{out} is no dataset folder, so it is not overwritten. Take another --out.")
    try:
        with whole_folder(out) as part:
            yield part
    except OSError as error:
        raise ArtifactError(f"{out} can not be written: {error}") from error


def finish(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write card and, last, the manifest."""
    write_whole(folder / CARD, card_of(manifest))
    write_whole(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


class Exports:
    """Every file of a dataset's forms, open at once: (form, split, community, format)."""

    def __init__(self, folder: Path, communities: Sequence[str], formats: Sequence[str]) -> None:
        self.folder, self._communities, self._formats = folder, communities, formats
        self._files: dict[tuple[str, str, str], list[JsonLines | ParquetRows]] = {}

    def __enter__(self) -> Exports:
        for name, form in FORMS.items():
            schema = form.schema() if PARQUET in self._formats else None
            for split in SPLITS:
                for key in self._communities:
                    stem = self.folder / name / split / form.file.format(key)
                    self._files[name, split, key] = _open(stem, self._formats, schema)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for files in self._files.values():
            for file in files:
                file.abandon()

    def add(self, query: str, texts: Mapping[str, str], split: str) -> None:
        """One query that every community answered. `texts`: in the map's order."""
        for name, form in FORMS.items():
            for key in texts:
                for row in form.rows(query, texts, key):
                    for file in self._files[name, split, key]:
                        file.write(row)

    def close(self) -> dict[str, FileFacts]:
        """Put all on the disk; path within the folder to its facts."""
        file_facts = {}
        while self._files:
            _, files = self._files.popitem()
            for file in files:
                file_facts[file.path.relative_to(self.folder).as_posix()] = file.close()
        return dict(sorted(file_facts.items()))


@dataclass
class _Tally:
    answers: Counter[str]
    complete: Counter[str]
    lost: Counter[str]
    files: dict[str, FileFacts]
    edited: int = 0
    incomplete: int = 0


def _write_rows(
    run: SynthesisRun,
    index: RunIndex,
    splits: Splits,
    settings: DatasetSettings,
    review: Review | None,
    folder: Path,
) -> _Tally:
    tally = _Tally(Counter(), Counter(), Counter(), {})
    answers_file, incomplete_file = JsonLines(folder / ANSWERS), JsonLines(folder / INCOMPLETE)
    tables = (
        {split: ParquetRows(folder / "answers" / f"{split}.parquet", answers_schema()) for split in SPLITS}
        if PARQUET in settings.formats
        else {}
    )
    with Exports(folder, run.communities, settings.formats) as exports:
        try:
            for query, answers in run.answers(index):
                split = splits.of[query.query_id]
                passed, missing = _sift(run.communities, query, answers, settings, review)
                for answer, decision in passed.values():
                    row = {**answer.row, "split": split, "complete": not missing}
                    if decision:
                        row["review"] = decision
                        tally.edited += decision == "edit"
                    answers_file.write(row)
                    if tables:
                        tables[split].write(_flat(row, answer))
                tally.answers[split] += len(passed)
                if missing:
                    tally.lost.update(missing.values())
                    tally.incomplete += 1
                    incomplete_file.write(
                        {"query_id": query.query_id, "query": query.query, "missing": missing}
                    )
                    continue
                tally.complete[split] += 1
                exports.add(
                    query.query, {key: answer.response or "" for key, (answer, _) in passed.items()}, split
                )
            files = {ANSWERS: answers_file.close(), INCOMPLETE: incomplete_file.close()}
            for split, table in tables.items():
                files[f"answers/{split}.parquet"] = table.close()
            tally.files = {**files, **exports.close()}
        except BaseException:
            open_files: list[JsonLines | ParquetRows] = [answers_file, incomplete_file, *tables.values()]
            for file in open_files:
                file.abandon()
            raise
    return tally


def _sift(
    communities: Sequence[str],
    query: IndexedQuery,
    answers: Mapping[str, SynthesisedAnswer],
    settings: DatasetSettings,
    review: Review | None,
) -> tuple[dict[str, tuple[SynthesisedAnswer, str | None]], dict[str, str]]:
    """A query's answers that pass, each with what the review said; and why the others are missing."""
    passed: dict[str, tuple[SynthesisedAnswer, str | None]] = {}
    missing: dict[str, str] = {}
    for key in communities:
        answer = answers.get(key)
        verdict = review.verdicts.get((query.query_id, key)) if review else None
        if settings.excluded and query.query_id in settings.excluded.reasons:
            missing[key] = EXCLUDED
        elif answer is None or not answer.passed:
            missing[key] = ABSENT if answer is None else SET_ASIDE
        elif verdict is None:
            if settings.gate:
                missing[key] = UNDECIDED
            else:
                passed[key] = answer, None
        elif not verdict.passes:
            missing[key] = REJECTED if verdict.decision == "reject" else verdict.decision
        elif verdict.decision == "edit":
            row = {**answer.row, "response": verdict.text}
            passed[key] = replace(answer, response=verdict.text, row=row), verdict.decision
        else:
            passed[key] = answer, verdict.decision
    return passed, missing


def answers_schema() -> pa.Schema:
    """Columns of the answers' Parquet: the row, flat."""
    import pyarrow as pa

    text = pa.string()
    finding = pa.struct([("kind", text), ("detail", text), ("quote", text)])
    return pa.schema(
        [
            *((name, text) for name in ("query_id", "query", "community", "split", "response")),
            *((name, text) for name in ("respond", "feedback", "aggregate")),
            ("rounds", pa.int64()),
            ("findings", pa.list_(finding)),
            *((name, text) for name in ("teacher", "prompts", "review", "dataset", "conversation_id")),
            *((name, text) for name in ("user_id", "birth_country", "home_community")),
            ("complete", pa.bool_()),
        ]
    )


def _flat(row: Mapping[str, Any], answer: SynthesisedAnswer) -> dict[str, Any]:
    steps, source = row.get("steps") or {}, row.get("source") or {}
    return {
        **{name: row[name] for name in ("query_id", "query", "community", "split", "response", "complete")},
        **{name: steps.get(name) for name in ("respond", "feedback", "aggregate")},
        "rounds": row.get("rounds"),
        "findings": [asdict(finding) for finding in answer.findings],
        "teacher": row.get("teacher"),
        "prompts": json.dumps(row["prompts"], sort_keys=True) if row.get("prompts") else None,
        "review": row.get("review"),
        **{name: source.get(name) for name in ("dataset", "conversation_id", "user_id", "birth_country")},
        "home_community": source.get("community"),
    }


def _open(stem: Path, formats: Sequence[str], schema: pa.Schema | None) -> list[JsonLines | ParquetRows]:
    files: list[JsonLines | ParquetRows] = []
    if JSONL in formats:
        files.append(JsonLines(stem.with_name(f"{stem.name}.jsonl")))
    if schema is not None:
        files.append(ParquetRows(stem.with_name(f"{stem.name}.parquet"), schema))
    return files


def _manifest(
    run: SynthesisRun,
    index: RunIndex,
    splits: Splits,
    settings: DatasetSettings,
    review: Review | None,
    tally: _Tally,
) -> dict[str, Any]:
    complete = sum(tally.complete.values())
    pairs = complete * (len(run.communities) - 1)
    return {
        "kind": KIND,
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
        "map": run.map,
        "communities": list(run.communities),
        "splits": {
            "test_share": settings.test_share,
            "seed": settings.seed,
            "near_same_queries": len(splits.leaders),
            "queries": {split: tally.complete[split] for split in SPLITS},
        },
        "counts": {
            "queries": len(index.queries),
            "complete": complete,
            "incomplete": tally.incomplete,
            "answers": sum(tally.answers.values()),
            "answers_by_split": {split: tally.answers[split] for split in SPLITS},
            "edited": tally.edited,
            "pairs_per_community": pairs,
            "pairs": pairs * len(run.communities),
            "missing_answers": dict(sorted(tally.lost.items())),
        },
        "gate": settings.gate,
        "excluded": {
            "file": settings.excluded.name,
            "sha256": settings.excluded.sha256,
            "queries": len(settings.excluded.reasons),
            "unknown": len(settings.excluded.reasons.keys() - {query.query_id for query in index.queries}),
        }
        if settings.excluded
        else None,
        "review": review.summary() if review else None,
        "source": {
            "run": run.name,
            "finished": run.finished,
            "rows": index.rows,
            "rows_replaced": index.again,
            "rows_sha256": index.rows_sha256,
            "manifest_sha256": facts(run.path / MANIFEST).sha256 if run.finished else None,
            "statuses": dict(sorted(index.statuses.items())),
            "findings": dict(sorted(index.findings.items())),
            "datasets": dict(sorted(index.datasets.items())),
            "teachers": dict(sorted(index.teachers.items())),
            "prompts": {name: list(digests) for name, digests in index.prompts.items()},
            "manifest": dict(run.manifest),
        },
        "reports": {},
        "licence": asdict(settings.licence),
        "formats": list(settings.formats),
        "files": {path: asdict(file_facts) for path, file_facts in tally.files.items()},
        "versions": installed_versions(PACKAGES),
    }


def _ours(out: Path) -> bool:
    try:
        kind = read_object(out / MANIFEST)["kind"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(kind == KIND)


def _counted(lost: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(lost.items()))
