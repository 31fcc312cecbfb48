"""Several reviewers' decisions become one verdict for each answer, checked against the run they are about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from cultural_palette.artifacts import write_whole
from cultural_palette.jsonl import read_json
from cultural_palette.shapes import of_shape
from cultural_palette.training.pentachromatic.manifest import StoredAgreement
from cultural_palette.training.pentachromatic.synthesis_run import RunIndex
from cultural_palette.training.review.agreement import Agreement, agreement
from cultural_palette.training.review.decisions import (
    APPROVE,
    EDIT,
    REJECT,
    Decision,
    DecisionsFile,
    ReviewError,
    read_decisions,
)

REVIEW = "review.json"
REVIEW_FORMAT = "cultural-palette-verdicts/1"
UNRESOLVED = "unresolved"
RULE = (
    "Any reject rejects. Else an edit replaces the answer; edits that differ stay unresolved and do not "
    "pass. Else it is approved. A decision given with --resolve stands alone."
)
NAMED = 5


@dataclass(frozen=True)
class Verdict:
    """What became of one answer. `decision`: approve, edit, reject or unresolved; `votes`: by reviewer."""

    query_id: str
    community: str
    decision: str
    reason: str | None
    text: str | None
    text_hash: str
    votes: Mapping[str, str]
    resolved: bool = False

    @property
    def passes(self) -> bool:
        """Whether a gate lets the answer through."""
        return self.decision in (APPROVE, EDIT)


@dataclass(frozen=True)
class Review:
    """All verdicts on a run's answers. `answers`: usable ones in the run; `unhashed`: decisions that did not
    say which text they are about, and were taken at their word."""

    run: str
    rows_sha256: str
    reviewers: tuple[str, ...]
    answers: int
    agreement: Agreement
    verdicts: Mapping[tuple[str, str], Verdict]
    unhashed: int = 0
    rule: str = RULE

    def counts(self) -> dict[str, int]:
        """Verdicts by kind, how many came by --resolve, and answers that nobody decided."""
        kinds = Counter(verdict.decision for verdict in self.verdicts.values())
        return {
            **{name: kinds[name] for name in (APPROVE, EDIT, REJECT, UNRESOLVED)},
            "resolved": sum(verdict.resolved for verdict in self.verdicts.values()),
            "undecided": self.answers - len(self.verdicts),
        }

    def summary(self) -> dict[str, Any]:
        """Everything but the verdicts, as manifests and cards show it."""
        return {
            "run": self.run,
            "rows_sha256": self.rows_sha256,
            "reviewers": list(self.reviewers),
            "answers": self.answers,
            "counts": self.counts(),
            "agreement": asdict(self.agreement),
            "rule": self.rule,
            "unhashed": self.unhashed,
        }

    def write(self, out: Path) -> Path:
        """Write `out`/review.json, whole."""
        data = {
            "format": REVIEW_FORMAT,
            **self.summary(),
            "verdicts": [asdict(verdict) for verdict in self.verdicts.values()],
        }
        write_whole(out / REVIEW, json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        return out / REVIEW


def reconcile(
    files: Sequence[DecisionsFile], index: RunIndex, run: str, resolve: DecisionsFile | None = None
) -> Review:
    """One verdict for each decided answer, after every decision was found to be about the run's own text.

    `resolve`: decisions that stand alone, whatever the reviewers said. Raises ReviewError for answers that
    the run has not, for texts that changed since, and for a reviewer at odds with themselves.
    """
    if not files:
        raise ReviewError("No decisions files.")
    for file in (*files, *((resolve,) if resolve else ())):
        check(file, index)
    by_answer: dict[tuple[str, str], dict[str, Decision]] = {}
    for file in files:
        for decision in file.decisions:
            there = by_answer.setdefault(decision.key, {}).setdefault(file.reviewer, decision)
            if _content(there) != _content(decision):
                raise ReviewError(
                    f"{file.path}: {file.reviewer} decides on {decision.query_id} / {decision.community} "
                    "otherwise than in another file. Give the newer file only."
                )
    final = {decision.key: decision for decision in resolve.decisions} if resolve else {}
    keys = dict.fromkeys([*by_answer, *final])
    order = {query.query_id: n for n, query in enumerate(index.queries)}
    verdicts = {
        key: _verdict(key, by_answer.get(key, {}), final.get(key), index)
        for key in sorted(keys, key=lambda key: (order[key[0]], key[1]))
    }
    decisions = [decision for by_reviewer in by_answer.values() for decision in by_reviewer.values()]
    votes = {
        key: {name: decision.decision for name, decision in by_reviewer.items()}
        for key, by_reviewer in by_answer.items()
    }
    return Review(
        run=run,
        rows_sha256=index.rows_sha256,
        reviewers=tuple(sorted({file.reviewer for file in files})),
        answers=sum(text_hash is not None for query in index.queries for text_hash in query.hashes.values()),
        agreement=agreement(votes),
        verdicts=verdicts,
        unhashed=sum(decision.text_hash is None for decision in (*decisions, *final.values())),
    )


def check(file: DecisionsFile, index: RunIndex) -> None:
    """Refuse decisions on answers that the run has not, or whose text is another one now."""
    unknown, stale, aside = [], [], []
    for decision in file.decisions:
        try:
            current_hash = index.hash_of(decision.query_id, decision.community)
        except KeyError:
            unknown.append(decision)
            continue
        if current_hash is None:
            aside.append(decision)
        elif decision.text_hash is not None and decision.text_hash != current_hash:
            stale.append(decision)
    if unknown:
        raise ReviewError(
            f"{file.path}: the run has no answer {_named(unknown)}. Is it another run's review?"
        )
    if aside:
        raise ReviewError(f"{file.path}: set aside by the synthesis, not to be decided on: {_named(aside)}.")
    if stale:
        raise ReviewError(
            f"{file.path}: the answer was another when it was reviewed: {_named(stale)}. "
            "Export the review again, and decide on those anew."
        )


class _StoredVerdict(TypedDict):
    """What is decided on one answer."""

    query_id: str
    community: str
    decision: Literal["approve", "edit", "reject", "unresolved"]
    text: str | None
    resolved: bool


class _StoredReview(TypedDict):
    """A review.json."""

    run: str
    rows_sha256: str
    reviewers: list[str]
    answers: int
    agreement: StoredAgreement
    verdicts: list[_StoredVerdict]
    unhashed: int
    rule: str


def load_review(paths: Sequence[Path], index: RunIndex, run: str) -> Review:
    """The review that a dataset is built with: one review.json, or decisions files, reconciled here."""
    if len(paths) == 1 and (review := _verdicts_in(paths[0], index)):
        return review
    return reconcile([read_decisions(path) for path in paths], index, run)


def _verdicts_in(path: Path, index: RunIndex) -> Review | None:
    """The review of a review.json; None when the file is something else."""
    if path.is_dir():
        path = path / REVIEW
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("format") != REVIEW_FORMAT:
        return None
    of_shape(data, _StoredReview, str(path), "Import the decisions again.", ReviewError)
    try:
        verdicts = [Verdict(**row) for row in data["verdicts"]]
        review = Review(
            run=data["run"],
            rows_sha256=data["rows_sha256"],
            reviewers=tuple(data["reviewers"]),
            answers=data["answers"],
            agreement=Agreement(**data["agreement"]),
            verdicts={(verdict.query_id, verdict.community): verdict for verdict in verdicts},
            unhashed=data["unhashed"],
            rule=data["rule"],
        )
    except (KeyError, TypeError) as error:
        raise ReviewError(f"{path}: no review as `palette review import` writes it ({error})") from None
    for verdict in verdicts:
        try:
            current_hash = index.hash_of(verdict.query_id, verdict.community)
        except KeyError:
            current_hash = None
        if current_hash != verdict.text_hash:
            raise ReviewError(
                f"{path}: {verdict.query_id} / {verdict.community} is not the text that was reviewed. "
                "Import the decisions again, for this run."
            )
    return review


def _verdict(
    key: tuple[str, str], by_reviewer: Mapping[str, Decision], final: Decision | None, index: RunIndex
) -> Verdict:
    decision, reason, text = _settled([final] if final else list(by_reviewer.values()))
    text_hash = index.hash_of(*key)
    assert text_hash is not None  # check() refused the others
    votes = {name: by_reviewer[name].decision for name in sorted(by_reviewer)}
    return Verdict(*key, decision, reason, text, text_hash, votes, resolved=final is not None)


def _settled(decisions: Sequence[Decision]) -> tuple[str, str | None, str | None]:
    """(decision, reasons, text) by the RULE."""
    kinds = {decision.decision for decision in decisions}
    reasons = (
        "; ".join(dict.fromkeys(decision.reason.strip() for decision in decisions if decision.reason)) or None
    )
    if REJECT in kinds:
        return REJECT, reasons, None
    if EDIT in kinds:
        texts = {decision.text for decision in decisions if decision.text}
        return (EDIT, reasons, texts.pop()) if len(texts) == 1 else (UNRESOLVED, reasons, None)
    return APPROVE, reasons, None


def _content(decision: Decision) -> tuple[str, str | None]:
    return decision.decision, decision.text


def _named(decisions: Sequence[Decision]) -> str:
    shown = ", ".join(f"{decision.query_id} / {decision.community}" for decision in decisions[:NAMED])
    return shown + (f" and {len(decisions) - NAMED} more" if len(decisions) > NAMED else "")
