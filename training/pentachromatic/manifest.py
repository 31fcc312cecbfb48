"""What a dataset's manifest holds, as far as card, hub and summary read it."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict


class StoredFile(TypedDict):
    """A file's rows and hash."""

    rows: int | None
    sha256: str


class StoredCounts(TypedDict):
    """Queries, answers and pairs."""

    queries: int
    complete: int
    incomplete: int
    answers: int
    answers_by_split: StoredQueries
    pairs_per_community: int
    missing_answers: dict[str, int]


class StoredQueries(TypedDict):
    """Queries of each part."""

    train: int
    test: int


class StoredSplits(TypedDict):
    """How the queries were split."""

    test_share: float
    seed: int
    near_same_queries: int
    queries: StoredQueries


class StoredSource(TypedDict):
    """The run that the dataset was built from."""

    run: str
    finished: bool
    rows: int
    rows_sha256: str
    statuses: dict[str, int]
    findings: dict[str, int]
    datasets: dict[str, int]
    teachers: dict[str, int]
    prompts: dict[str, list[str]]
    manifest: dict[str, Any]


class StoredLicence(TypedDict):
    """For the card."""

    id: str
    languages: list[str]


class StoredAgreement(TypedDict):
    """How far reviewers agree."""

    measure: Literal["cohen_kappa", "krippendorff_alpha"] | None
    value: float | None
    n: int
    reviewers: int
    observed: float | None
    note: str | None


class StoredDecisions(TypedDict):
    """Verdicts by kind."""

    approve: int
    edit: int
    reject: int
    unresolved: int
    undecided: int


class StoredReview(TypedDict):
    """What people said."""

    reviewers: list[str]
    answers: int
    counts: StoredDecisions
    agreement: StoredAgreement
    rule: str
    unhashed: int


class StoredExcluded(TypedDict):
    """The list of queries that were left out."""

    file: str
    queries: int


class StoredDataset(TypedDict):
    """The whole."""

    built: str
    map: str | None
    communities: list[str]
    splits: StoredSplits
    counts: StoredCounts
    gate: bool
    excluded: StoredExcluded | None
    review: StoredReview | None
    source: StoredSource
    reports: dict[str, dict[str, Any]]
    licence: StoredLicence
    formats: list[str]
    files: dict[str, StoredFile]
    versions: dict[str, str]
