"""A synthesis run as the dataset and the review read it: an index in memory, the texts on the disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from cultural_palette.artifacts import CONFIG, ROWS, RunFolder
from cultural_palette.errors import ArtifactError, UsageError
from cultural_palette.jsonl import JsonFault, parse_object, read_json
from cultural_palette.provenance import short_sha256
from cultural_palette.shapes import of_shape

OK, SET_ASIDE = "ok", "set_aside"
STEPS = ("respond", "feedback", "aggregate")
GREY = "#767676"
SURROGATE = re.compile(r"[\ud800-\udfff]")


class RunRowError(UsageError):
    """A row that is no synthesised answer; names file, line and what is wrong."""


class _Source(TypedDict, total=False):
    """Where the query comes from."""

    dataset: str | None
    conversation_id: str | None
    user_id: str | None
    birth_country: str | None
    community: str | None


class _Row(TypedDict, total=False):
    """What of a row is exported as it stands."""

    steps: dict[str, str | None] | None
    rounds: int | None
    teacher: str | None
    prompts: dict[str, Any] | None
    source: _Source | None


@dataclass(frozen=True)
class Finding:
    """What validation found. `quote`: the words of the answer that it points at, if any."""

    kind: str
    detail: str
    quote: str | None = None


@dataclass(frozen=True)
class SynthesisedAnswer:
    """One community's answer to one query. `response` is None only when it was set aside."""

    query_id: str
    query: str
    community: str
    status: str
    response: str | None
    findings: tuple[Finding, ...]
    row: Mapping[str, Any] = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("query_id", "query", "community"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise RunRowError(f'"{name}" is {value!r}, expected a text')
        if self.status not in (OK, SET_ASIDE):
            raise RunRowError(f'"status" is {self.status!r}, expected {OK!r} or {SET_ASIDE!r}')
        if self.status == OK and not (isinstance(self.response, str) and self.response.strip()):
            raise RunRowError(f'"response" is {self.response!r} though "status" is {OK!r}')

    @property
    def passed(self) -> bool:
        """Whether the synthesis let it through."""
        return self.status == OK


@dataclass(frozen=True)
class IndexedQuery:
    """Where a query's rows lie. `offsets`: community to the byte where its last row begins;
    `hashes`: community to its answer's `text_hash`, None when it was set aside;
    `flagged`: validation found something, or set an answer aside."""

    query_id: str
    query: str
    offsets: Mapping[str, int]
    hashes: Mapping[str, str | None]
    flagged: bool = False


@dataclass(frozen=True)
class RunIndex:
    """One reading of a run's rows. `queries` come in the order of their first row.

    `rows_sha256` is of the whole rows; `again`: rows whose place a later one of the same query and community
    took.
    """

    queries: tuple[IndexedQuery, ...]
    rows_sha256: str
    rows: int
    again: int
    statuses: Mapping[str, int]
    findings: Mapping[str, int]
    teachers: Mapping[str, int]
    datasets: Mapping[str, int]
    prompts: Mapping[str, tuple[str, ...]]

    def hash_of(self, query_id: str, community: str) -> str | None:
        """The hash of a usable answer's text; KeyError when the run has no such row."""
        return self._by_id[query_id].hashes[community]

    @cached_property
    def _by_id(self) -> dict[str, IndexedQuery]:
        return {query.query_id: query for query in self.queries}


class SynthesisRun:
    """A folder that `palette synthesize` wrote. Refuses one without a manifest unless `unfinished` is set."""

    def __init__(self, path: str | Path, *, unfinished: bool = False) -> None:
        self.path = Path(path)
        if not (self.path / ROWS).is_file():
            raise UsageError(f"{self.path} has no {ROWS}: that is no folder of `palette synthesize --out`.")
        folder = RunFolder(self.path)
        if not folder.finished and not unfinished:
            raise UsageError(
                f"{self.path} is not finished: run the same `palette synthesize` again, "
                "or say --unfinished to take what there is."
            )
        self.finished = folder.finished
        self.manifest: Mapping[str, Any] = folder.manifest if folder.finished else _config(self.path)
        self.communities = communities_of(self.manifest, str(self.path))

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def map(self) -> str | None:
        """Key of the cultural map, where the run says it."""
        key = self.manifest.get("map")
        if isinstance(key, Mapping):
            key = key.get("key")
        return key if isinstance(key, str) else None

    def looks(self) -> dict[str, tuple[str, str]]:
        """Community to (name, "#rrggbb"): the map's, or the key and a grey where the map is not at hand."""
        from cultural_palette.cultural_map import load_map
        from cultural_palette.errors import MapError

        try:
            known = {c.key: (c.name, c.colour) for c in load_map(self.map or "").communities}
        except MapError:
            known = {}
        map_names = _mapping(_mapping(self.manifest.get("map")).get("communities"))
        names = {
            key: str(map_names.get(key) or key.replace("_", " ").capitalize()) for key in self.communities
        }
        return {key: known.get(key, (names[key], GREY)) for key in self.communities}

    def index(self) -> RunIndex:
        """Read every row once. The texts stay on the disk: 40,000 answers take some megabytes."""
        offsets: dict[str, dict[str, int]] = {}
        hashes: dict[str, dict[str, str | None]] = {}
        texts: dict[str, str] = {}
        outcomes: dict[tuple[str, str], tuple[str, tuple[str, ...], str]] = {}
        prompts: dict[str, set[str]] = {}
        datasets: dict[str, str] = {}
        total, rows, again = sha256(), 0, 0
        for number, offset, line in _lines(self.path / ROWS):
            total.update(line)
            rows += 1
            answer = self._answer(line, number)
            known = texts.setdefault(answer.query_id, answer.query)
            if known != answer.query:
                raise RunRowError(
                    f"{self.path / ROWS}:{number}: query {answer.query_id!r} reads {answer.query!r}, "
                    f"in an earlier row {known!r}"
                )
            places = offsets.setdefault(answer.query_id, {})
            again += answer.community in places
            places[answer.community] = offset
            key = (answer.query_id, answer.community)
            hashes.setdefault(answer.query_id, {})[answer.community] = (
                text_hash(answer.response) if answer.passed and answer.response else None
            )
            datasets[answer.query_id] = str(_mapping(answer.row.get("source")).get("dataset") or "unknown")
            kinds = tuple(finding.kind for finding in answer.findings)
            outcomes[key] = (answer.status, kinds, str(answer.row.get("teacher") or "unknown"))
            for name, digest in _mapping(answer.row.get("prompts")).items():
                prompts.setdefault(str(name), set()).add(str(digest))
        return RunIndex(
            queries=tuple(
                IndexedQuery(
                    query_id,
                    texts[query_id],
                    places,
                    hashes[query_id],
                    any(
                        outcomes[query_id, key][1] or outcomes[query_id, key][0] == SET_ASIDE
                        for key in places
                    ),
                )
                for query_id, places in offsets.items()
            ),
            rows_sha256=total.hexdigest(),
            rows=rows,
            again=again,
            statuses=Counter(status for status, _, _ in outcomes.values()),
            findings=Counter(kind for _, kinds, _ in outcomes.values() for kind in kinds),
            teachers=Counter(teacher for _, _, teacher in outcomes.values()),
            datasets=Counter(datasets.values()),
            prompts={name: tuple(sorted(digests)) for name, digests in sorted(prompts.items())},
        )

    def answers(self, index: RunIndex) -> Iterator[tuple[IndexedQuery, dict[str, SynthesisedAnswer]]]:
        """Each query with its answers by community, in the map's order; one query in memory at a time."""
        with (self.path / ROWS).open("rb") as file:
            for query in index.queries:
                answers = {}
                for key in self.communities:
                    if (offset := query.offsets.get(key)) is not None:
                        file.seek(offset)
                        answers[key] = self._answer(file.readline(), 0)
                yield query, answers

    def _answer(self, line: bytes, number: int) -> SynthesisedAnswer:
        where = f"{self.path / ROWS}:{number}"
        try:
            row = parse_object(line, half_pairs=True)
        except JsonFault as error:
            raise RunRowError(f"{where}: {error}. Mend that line, or take it out.") from None
        try:
            answer = answer_from(row)
        except RunRowError as error:
            raise RunRowError(f"{where}: {error}") from None
        if answer.community not in self.communities:
            raise RunRowError(
                f"{where}: community {answer.community!r} is not one of {', '.join(self.communities)}"
            )
        return answer


def answer_from(data: object) -> SynthesisedAnswer:
    """The answer that a row holds; raises RunRowError. Half surrogate pairs become U+FFFD: no file format
    of the exports has them."""
    if not isinstance(data, dict):
        raise RunRowError(f"expected a JSON object, found {type(data).__name__}")
    row: dict[str, Any] = _without_surrogates(data)
    of_shape(row, _Row, "the row", "Mend that line, or take it out.", RunRowError)
    validation = _mapping(row.get("validation"))
    findings = validation.get("findings") or []
    if not isinstance(findings, list):
        raise RunRowError(f'"validation.findings" is {type(findings).__name__}, expected a list')
    texts: dict[str, Any] = {name: row.get(name) for name in ("query_id", "query", "community", "status")}
    return SynthesisedAnswer(
        **texts,
        response=row.get("response"),
        findings=tuple(_finding(finding) for finding in findings),
        row=row,
    )


def text_hash(text: str) -> str:
    """The first 16 hex digits of a text's SHA-256: says whether what was reviewed is what is there."""
    return short_sha256(text)


def communities_of(manifest: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The map's community keys in their order, from a manifest: a list of keys, or of objects with a key."""
    communities = manifest.get("communities")
    if communities is None:
        communities = _mapping(manifest.get("map")).get("communities")
    if isinstance(communities, list | dict) and communities:
        keys = [entry.get("key") if isinstance(entry, dict) else entry for entry in communities]
        texts = tuple(key for key in keys if isinstance(key, str) and key)
        if len(set(texts)) == len(keys) > 1:
            return texts
    raise ArtifactError(f'{where}: the manifest names no "communities", a list of at least two keys.')


def _finding(value: object) -> Finding:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise RunRowError(f"a finding is {value!r}, expected an object with kind, detail, quote")
    quote = value.get("quote")
    return Finding(value["kind"], str(value.get("detail") or ""), str(quote) if quote else None)


def _config(path: Path) -> Mapping[str, Any]:
    file = path / CONFIG
    try:
        config = read_json(file)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} can not be read, and the run has no manifest yet: {error}") from None
    return _mapping(config)


def _lines(file: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number, byte offset, line) of every whole line; a last one cut short by a kill is left out."""
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            yield number, offset, line
            offset += len(line)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value) if not value.isascii() else value
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    return value
