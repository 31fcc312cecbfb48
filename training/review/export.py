"""The answers of a run, for reviewers: one HTML page that needs nothing else, or CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import random
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import whole_file
from cultural_palette.errors import UsageError
from cultural_palette.safe_text import guarded_cell
from cultural_palette.training.pentachromatic.synthesis_run import (
    STEPS,
    IndexedQuery,
    RunIndex,
    SynthesisedAnswer,
    SynthesisRun,
)
from cultural_palette.training.review.decisions import COLUMNS, FORMAT

PAGE = Path(__file__).parent / "page"
CHUNK = 50  # queries; the page parses one chunk at a time


@dataclass(frozen=True)
class Selection:
    """Which queries a reviewer gets. `sample`: how many, None for all."""

    sample: int | None = None
    seed: int = 0
    only_findings: bool = False

    def of(self, index: RunIndex) -> RunIndex:
        """The index with these queries only, in its order; the same seed draws the same."""
        queries: Sequence[IndexedQuery] = [
            query for query in index.queries if query.flagged or not self.only_findings
        ]
        if self.sample is not None and self.sample < len(queries):
            drawn = set(random.Random(self.seed).sample(range(len(queries)), self.sample))
            queries = [query for number, query in enumerate(queries) if number in drawn]
        if not queries:
            raise UsageError(
                "No query to review: validation found nothing. Leave --only-findings out."
                if self.only_findings and index.queries
                else "No query to review: the run has no rows."
            )
        return replace(index, queries=tuple(queries))


def export_html(run: SynthesisRun, index: RunIndex, out: Path, reviewer: str | None = None) -> int:
    """Write the page; returns how many answers there are to decide on."""
    style, script = (PAGE / "page.css").read_text("utf-8"), (PAGE / "page.js").read_text("utf-8")
    head, _, tail = (PAGE / "page.html").read_text("utf-8").partition("<!-- data -->\n")
    for name, code in (("style", style), ("script", script)):
        head = head.replace(f"{{{{{name}-hash}}}}", _csp_hash(code))
    head = head.replace("{{style}}", style)
    tail = tail.replace("{{script}}", script)
    count = sum(text_hash is not None for query in index.queries for text_hash in query.hashes.values())
    with whole_file(out) as file:
        file.write(head.encode())
        file.write(_data("about", _about(run, index, reviewer)))
        for number, chunk in enumerate(_chunks(run, index)):
            file.write(_data(f"chunk-{number}", chunk))
        file.write(tail.encode())
    return count


def export_csv(run: SynthesisRun, index: RunIndex, out: Path, reviewer: str | None = None) -> int:
    """Write the table, a row for each answer that can be decided on; returns how many."""
    count = 0
    with whole_file(out) as file:
        file.write(b"\xef\xbb\xbf")  # spreadsheets take UTF-8 for something else without it
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        for query, answers in run.answers(index):
            for key, answer in answers.items():
                if not answer.passed:
                    continue
                findings = "; ".join(
                    f"{f.kind}: {f.detail}" + (f' "{f.quote}"' if f.quote else "") for f in answer.findings
                )
                row = {
                    "query_id": query.query_id,
                    "query": query.query,
                    "community": key,
                    "response": answer.response or "",
                    "findings": findings,
                    "text_hash": query.hashes[key] or "",
                    "reviewer": reviewer or "",
                }
                table.writerow({name: guarded_cell(row.get(name, "")) for name in COLUMNS})
                count += 1
        text.detach()
    return count


def _about(run: SynthesisRun, index: RunIndex, reviewer: str | None) -> dict[str, Any]:
    """What the page knows at once; the texts come chunk by chunk."""
    looks = run.looks()
    return {
        "format": FORMAT,
        "run": run.name,
        "id": index.rows_sha256[:16],
        "reviewer": reviewer,
        "chunk": CHUNK,
        "communities": [
            {"key": key, "name": name, "colour": colour} for key, (name, colour) in looks.items()
        ],
        "queries": [
            {"id": query.query_id, "flagged": query.flagged, "hashes": dict(query.hashes)}
            for query in index.queries
        ],
    }


def _chunks(run: SynthesisRun, index: RunIndex) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    for query, answers in run.answers(index):
        source = next(iter(answers.values())).row.get("source") if answers else None
        held.append(
            {
                "query": query.query,
                "source": {
                    name: source.get(name) if isinstance(source, dict) else None
                    for name in ("dataset", "birth_country", "community")
                },
                "answers": {key: _shown(answer) for key, answer in answers.items()},
            }
        )
        if len(held) == CHUNK:
            yield held
            held = []
    if held:
        yield held


def _shown(answer: SynthesisedAnswer) -> dict[str, Any]:
    steps = answer.row.get("steps")
    steps = steps if isinstance(steps, Mapping) else {}
    return {
        "status": answer.status,
        "response": answer.response,
        # the last step mostly is the response: not twice
        "steps": {name: steps[name] for name in STEPS if steps.get(name) and steps[name] != answer.response},
        "rounds": answer.row.get("rounds"),
        "teacher": answer.row.get("teacher"),
        "error": answer.row.get("error"),
        "findings": [asdict(finding) for finding in answer.findings],
    }


def _data(name: str, value: object) -> bytes:
    """A data block: JSON in which nothing can end the script element or begin a comment or an entity."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'.encode()


def _csp_hash(code: str) -> str:
    """What a Content-Security-Policy says of an inline block, so that no other one runs."""
    return f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"
