"""The run: every query through the communities' chains, rows as they finish, the manifest last.

The chains are those in the boxes of the synthesis graph. A run fans out by itself: a row is written when its
own chain is done, and the graph around them would take a third of the processor time.

`rows.jsonl` holds one row for each (query, community); `calls.sqlite` every finished call. Killed at any
moment and begun again, a run repeats no finished call and writes no row twice. A call that failed is no row:
it is asked again by the next sitting.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from cultural_palette.artifacts import ROWS, RunFolder
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import ArtifactError, PaletteError
from cultural_palette.graph.synthesis import answerings, cast_teacher
from cultural_palette.models import ModelRef
from cultural_palette.nodes.synthesis.state import Answer, SynthesisContext
from cultural_palette.prompts import template_of
from cultural_palette.provenance import installed_versions, short_sha256
from cultural_palette.shapes import of_shape
from cultural_palette.training.queries import Queries, Query
from cultural_palette.training.synthesis.teacher import KIND, Ledger, RunStopped, Teacher

PROMPTS = ("respond", "feedback", "aggregate", "validate")
UNCHECKED = ("teacher",)
"""What a run's config tells by name, and holds by content under another key."""
MOST_ERRORS_SHOWN = 5
MEND_LINE = "Mend that line, or take it out: its answer is then made again from the kept calls."
AnswerKey = tuple[str, str]  # (query id, community)
Show = Callable[["Tally", Ledger], None]


@dataclass(frozen=True)
class SynthesisSpec:
    """All that settles what the rows will say. `limit`: the first so many queries only."""

    queries: Queries
    cultural_map: CulturalMap
    teacher: ModelRef
    context: SynthesisContext
    limit: int | None = None

    @property
    def items(self) -> tuple[Query, ...]:
        """The queries to answer."""
        return self.queries.items[: self.limit]

    @property
    def communities(self) -> tuple[str, ...]:
        """Keys, in the map's order."""
        return tuple(community.key for community in self.cultural_map.communities)

    @property
    def validation(self) -> str:
        """ "checks" or "teacher"."""
        return self.context.validation_by(str(self.teacher))

    @cached_property
    def prompts(self) -> dict[str, str]:
        """Prompt -> the first sixteen digits of its SHA-256, of those in use."""
        used = PROMPTS if self.validation == "teacher" else PROMPTS[:-1]
        return {name: short_sha256(template_of(f"synthesis/{name}")) for name in used}

    def config(self) -> dict[str, Any]:
        """What a run that goes on, and a finished one, must share with the command, but for `UNCHECKED`."""
        agents = cast_teacher(self.cultural_map, str(self.teacher))
        return {
            "kind": "synthesis",
            "queries": dict(self.queries.origin),
            "limit": self.limit,
            "map": self.cultural_map.key,
            "map_sha256": self.cultural_map.sha256,
            "communities": {c.key: list(c.countries) for c in self.cultural_map.communities},
            "teacher": str(self.teacher),
            "teachers": {key: ModelRef.parse(ref).content for key, ref in agents.items()},
            "prompts": self.prompts,
            **self.context.model_dump(exclude={"teacher", "validation", "timeout_s"}),
            "validation": self.validation,
        }


class StoredFinding(TypedDict):
    """What of a finding is counted."""

    kind: str


class StoredValidation(TypedDict):
    """What of a row's validation is read."""

    findings: list[StoredFinding]


class StoredUsage(TypedDict):
    """Tokens."""

    input_tokens: Annotated[int, Field(ge=0)]
    output_tokens: Annotated[int, Field(ge=0)]


class StoredRow(TypedDict):
    """What a run that goes on reads of the rows that are there."""

    query_id: str
    community: str
    status: Literal["ok", "set_aside"]
    rounds: Annotated[int, Field(ge=1)]
    validation: StoredValidation
    prompts: dict[str, Any]
    usage: StoredUsage


class StoredCounts(TypedDict):
    """Rows, by what became of them."""

    queries: int
    rows: int
    ok: int
    set_aside: int
    by_community: dict[str, dict[str, int]]
    findings: dict[str, int]


class StoredMap(TypedDict):
    """Names by key."""

    communities: dict[str, str]


class StoredTokens(TypedDict):
    """Tokens."""

    input: int
    output: int


class StoredManifest(TypedDict):
    """What of a finished run is told."""

    counts: StoredCounts
    map: StoredMap
    tokens: StoredTokens
    cost_usd: float | None


@dataclass
class Tally:
    """Rows wanted and written; `failed`: those that got no answer this sitting."""

    wanted: int
    before: int = 0
    ok: int = 0
    set_aside: int = 0
    failed: int = 0
    rounds: Counter[int] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    communities: dict[str, Counter[str]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.perf_counter)

    @property
    def written(self) -> int:
        """Rows in the folder."""
        return self.ok + self.set_aside

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row."""
        status = row["status"]
        self.ok += status == "ok"
        self.set_aside += status == "set_aside"
        self.rounds[row["rounds"]] += 1
        self.findings.update(finding["kind"] for finding in row["validation"]["findings"])
        self.communities.setdefault(row["community"], Counter())[status] += 1

    def fail(self, why: str) -> None:
        """Count an answer that did not come."""
        self.failed += 1
        if why in self.errors or len(self.errors) < MOST_ERRORS_SHOWN:
            self.errors[why] += 1


@dataclass(frozen=True)
class Outcome:
    """How a sitting ended. `stopped`: why before its end; the run is finished when nothing is left."""

    tally: Tally
    stopped: str | None

    @property
    def finished(self) -> bool:
        """Whether every row is there."""
        return self.tally.written >= self.tally.wanted and not self.stopped


def row_of(spec: SynthesisSpec, query: Query, community: str, answer: Answer) -> dict[str, Any]:
    """An answer as `rows.jsonl` keeps it."""
    return {
        "query_id": query.id,
        "query": query.text,
        "community": community,
        "status": answer["status"],
        "response": answer["response"],
        "steps": answer["steps"],
        "rounds": answer["rounds"],
        "validation": answer["validation"],
        "teacher": answer["teacher"],
        "prompts": spec.prompts,
        "usage": answer["usage"],
        "error": answer["error"],
        "source": asdict(query.source),
    }


def already_there(spec: SynthesisSpec, folder: RunFolder, ledger: Ledger) -> tuple[set[AnswerKey], Tally]:
    """The answers that earlier sittings wrote, counted, and paid into the ledger."""
    done: set[AnswerKey] = set()
    tally = Tally(len(spec.items) * len(spec.communities))
    wanted = {query.id for query in spec.items}
    for number, row in enumerate(folder.rows(), 1):
        check_row(row, f"{folder.path / ROWS}:{number}")
        key = sys.intern(row["query_id"]), sys.intern(row["community"])  # one text for all rows of a query
        if key in done or key[0] not in wanted or key[1] not in spec.communities:
            why = "stands above already" if key in done else "is none of this run's answers"
            raise ArtifactError(f"{folder.path / ROWS}:{number}: {', '.join(key)} {why}. Take that line out.")
        done.add(key)
        tally.add(row)
        pay(ledger, row)
    tally.before = tally.written
    return done, tally


def check_row(row: Mapping[str, Any], place: str) -> None:
    """Raise ArtifactError, with the place and the field, for a row that can not be one of a run's."""
    of_shape(row, StoredRow, place, MEND_LINE)


def checked(manifest: dict[str, Any], place: str) -> dict[str, Any]:
    """The manifest, or an ArtifactError with the field that can not be one's."""
    of_shape(manifest, StoredManifest, place, "Mend it, or take it away: the same command writes it again.")
    return manifest


def missing(
    spec: SynthesisSpec, done: Collection[AnswerKey], share: int = 0, of: int = 1
) -> Iterator[tuple[Query, str]]:
    """What is to be answered: all communities of a query, then those of the next. `share`: each `of`-th
    answer of the whole run only, done or not, so that shares never meet.
    """
    for number, (query, key) in enumerate(product(spec.items, spec.communities)):
        if number % of == share and (query.id, key) not in done:
            yield query, key


async def write_missing_rows(
    spec: SynthesisSpec,
    folder: RunFolder,
    teacher: Teacher,
    *,
    concurrency: int,
    show: Show = lambda tally, ledger: None,
) -> Outcome:
    """Write the rows that are missing, then the manifest if all are there. `concurrency`: calls at once.

    Stops when the teacher is told to stop, and passes on what stopped it when that was a fault; the calls
    under way come to their end first.
    """
    folder.open()
    done, tally = already_there(spec, folder, teacher.ledger)

    def took(query: Query, key: str, answer: Answer) -> None:
        keep(folder, tally, row_of(spec, query, key, answer))
        show(tally, teacher.ledger)

    await answer_all(spec, teacher, missing(spec, done), concurrency, took)
    return end(spec, folder, tally, teacher.ledger, teacher.stopped, teacher.store.saved[KIND])


async def answer_all(
    spec: SynthesisSpec,
    teacher: Teacher,
    wanted: Iterator[tuple[Query, str]],
    concurrency: int,
    took: Callable[[Query, str, Answer], None],
) -> None:
    """Answer what is wanted, and hand each answer to `took`."""
    answering = answerings(spec.cultural_map, teacher.ask)
    context = spec.context.model_copy(update={"teacher": str(spec.teacher)})

    async def work() -> None:
        for query, key in wanted:
            if teacher.stopped:
                return
            took(query, key, await answering[key](query.text, context))

    # twice as many chains as calls: one always waits where another has ended
    workers = [asyncio.create_task(work()) for _ in range(2 * concurrency)]
    try:
        await _all_or_first_fault(workers, teacher)
    finally:
        with suppress(asyncio.CancelledError):
            await teacher.drain()


def keep(folder: RunFolder, tally: Tally, row: Mapping[str, Any]) -> None:
    """Write a row; one that failed is counted only, for the next sitting to ask again."""
    if row["status"] == "failed":
        tally.fail(row["error"] or "")
    else:
        folder.append(row)
        tally.add(row)


def end(
    spec: SynthesisSpec, folder: RunFolder, tally: Tally, ledger: Ledger, stopped: str | None, saved: int
) -> Outcome:
    """The manifest, if every row is there. `saved`: calls that earlier sittings had made."""
    outcome = Outcome(tally, stopped)
    if outcome.finished:
        folder.finish(manifest_of(spec, tally, ledger, saved))
    return outcome


async def _all_or_first_fault(workers: list[asyncio.Task[None]], teacher: Teacher) -> None:
    """Wait for all; a fault stops the others, and is raised once they have come to rest."""
    fault: BaseException | None = None
    try:
        pending = set(workers)
        while pending:
            ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for worker in ended:
                error = worker.exception() if not worker.cancelled() else None
                if error is not None and not isinstance(error, RunStopped):
                    fault = fault or error
                    teacher.stop(str(error) if isinstance(error, PaletteError) else repr(error))
    except asyncio.CancelledError:
        teacher.stop("Interrupted.")
        teacher.cancel()
        for worker in workers:
            worker.cancel()
        raise
    if fault is not None:
        raise fault


def pay(ledger: Ledger, row: Mapping[str, Any]) -> None:
    """What a row of an earlier sitting has used: at least the three steps and its validation."""
    ledger.input_tokens += row["usage"]["input_tokens"]
    ledger.output_tokens += row["usage"]["output_tokens"]
    ledger.replies += 3 * row["rounds"] + ("validate" in row["prompts"])


def manifest_of(spec: SynthesisSpec, tally: Tally, ledger: Ledger, saved: int) -> dict[str, Any]:
    """The manifest of a finished run."""
    cost = ledger.cost
    return {
        "kind": "synthesis",
        "counts": {
            "queries": len(spec.items),
            "rows": tally.written,
            "ok": tally.ok,
            "set_aside": tally.set_aside,
            "by_community": {key: dict(tally.communities.get(key, {})) for key in spec.communities},
            "rounds": {str(number): rows for number, rows in sorted(tally.rounds.items())},
            "findings": dict(tally.findings.most_common()),
        },
        "queries": {
            **spec.queries.origin,
            "filters": dict(spec.queries.counts),
            "unreadable_rows": list(spec.queries.faults),
        },
        "limit": spec.limit,
        "map": {
            "key": spec.cultural_map.key,
            "name": spec.cultural_map.name,
            "communities": {c.key: c.name for c in spec.cultural_map.communities},
        },
        "teacher": str(spec.teacher),
        "validation": spec.validation,
        "prompts": spec.prompts,
        **spec.context.model_dump(include={"temperature", "max_tokens", "seed", "max_rounds"}),
        "tokens": {
            "input": ledger.input_tokens,
            "output": ledger.output_tokens,
            "replies_without_count": ledger.uncounted,
        },
        "cost_usd": None if cost is None else round(cost, 6),
        "price": None if ledger.price is None else asdict(ledger.price),
        "last_sitting": {
            "seconds": round(time.perf_counter() - tally.started, 1),
            "rows": tally.written - tally.before,
            "calls_asked": ledger.calls_made,
            "calls_kept": saved,
        },
        "versions": {
            **installed_versions(("cultural-palette", "langgraph")),
            "python": platform.python_version(),
        },
    }
