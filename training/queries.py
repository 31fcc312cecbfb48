"""Queries to answer: from PRISM, or from any CSV or JSONL file with a `query` column. What is left out is
counted, a row that can not be read is named.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import UnknownCountry, UsageError
from cultural_palette.jsonl import read_rows
from cultural_palette.provenance import file_sha256, short_sha256

MOST_CHARACTERS = 8000
SHOWN_FAULTS = 100
TIMES_AS_LIKELY = 4  # to lingua, Dutch is three times as likely for "Star wars or Star trek?"
PLAIN_ENGLISH = frozenset(
    [
        *("the", "is", "are", "what", "how", "you", "of", "and", "can", "my", "why", "with", "that", "this"),
        *("should", "does", "would", "think", "about", "i", "your", "it", "there", "who", "tell", "when"),
    ]
)
LANGUAGES = (
    *("ARABIC", "BENGALI", "CHINESE", "DUTCH", "ENGLISH", "FRENCH", "GERMAN", "GREEK", "HEBREW", "HINDI"),
    *("INDONESIAN", "ITALIAN", "JAPANESE", "KOREAN", "PERSIAN", "POLISH", "PORTUGUESE", "RUSSIAN"),
    *("SPANISH", "SWAHILI", "SWEDISH", "TAGALOG", "THAI", "TURKISH", "UKRAINIAN", "VIETNAMESE"),
)
GREETINGS = re.compile(
    r"(?:hi+|hello+|hey+|hiya|howdy|yo|greetings|good (?:morning|afternoon|evening|day)|test(?:ing)?)"
    r"(?: (?:there|all|everyone|again|ai|bot|friend|chat ?gpt|my friend|how are you(?: doing)?(?: today)?))*"
    r"|how are you(?: doing)?(?: today)?|what(?:'s| is|s) up"
)


@dataclass(frozen=True)
class Source:
    """Where a query comes from. `birth_country`: ISO3 of who asked it; `community`: that country's in the
    map; None when not told."""

    dataset: str
    conversation_id: str | None = None
    user_id: str | None = None
    birth_country: str | None = None
    community: str | None = None


@dataclass(frozen=True)
class Query:
    """One question for every community to answer."""

    id: str
    text: str
    source: Source

    def __post_init__(self) -> None:
        if not self.text.strip() or len(self.text) > MOST_CHARACTERS:
            raise ValueError(f"a query has 1 to {MOST_CHARACTERS} characters, this one {len(self.text)}")


@dataclass(frozen=True)
class Queries:
    """What was read. `counts`: rows read, then what each filter took, then what is kept; `faults`: rows
    that could not be read, as "file:line: why" (the first hundred; `counts` has them all)."""

    items: tuple[Query, ...]
    origin: Mapping[str, Any]
    counts: Mapping[str, int]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Filters:
    """What is left out beside empty, unreadable and repeated queries."""

    greetings: bool = True
    english_only: bool = False


USUAL = Filters()


@dataclass
class Sieve:
    """Keeps the first of each query that passes and counts the rest; languages where lingua is installed."""

    filters: Filters
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("rows", "unreadable", "empty", "duplicates", "greetings", "kept"), 0
        )
    )
    detector: Any = field(default_factory=lambda: language_detector())
    faults: list[str] = field(default_factory=list)
    exact: set[bytes] = field(default_factory=set)
    seen: set[bytes] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.detector is not None:
            self.counts["non_english"] = 0
        elif self.filters.english_only:
            raise UsageError("Telling English needs lingua: pip install 'cultural-palette[data]'.")

    def fault(self, place: str, why: str) -> None:
        """A row that can not be read."""
        self.counts["unreadable"] += 1
        if len(self.faults) < SHOWN_FAULTS:
            self.faults.append(f"{place}: {why}")

    def takes(self, text: str) -> bool:
        """Whether a query is new and wanted. Counts it either way."""
        if not text.strip():
            self.counts["empty"] += 1
            return False
        self.exact.add(_digest(text))
        plain = normalised(text)
        if (key := _digest(plain)) in self.seen:
            self.counts["duplicates"] += 1
            return False
        self.seen.add(key)
        if self.filters.greetings and GREETINGS.fullmatch(plain):
            self.counts["greetings"] += 1
            return False
        if self.detector is not None and not is_english(text, self.detector):
            self.counts["non_english"] += 1
            if self.filters.english_only:
                return False
        self.counts["kept"] += 1
        return True

    def done(self, items: Iterable[Query], origin: Mapping[str, Any]) -> Queries:
        """All that was kept, with the counts. `non_english` are left out only if that was asked for."""
        counts = {**self.counts, "unique_by_exact_text": len(self.exact)}
        filters = {"greetings_left_out": self.filters.greetings, "english_only": self.filters.english_only}
        return Queries(tuple(items), {**origin, **filters}, counts, tuple(self.faults))


def normalised(text: str) -> str:
    """A query folded for comparison: compatibility forms, case, spaces and marks at its ends are one."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    words = re.sub(r"[^\w\s']+", " ", text).split()
    return " ".join(words) or " ".join(text.split())


def read_queries(path: Path, cultural_map: CulturalMap, filters: Filters = USUAL) -> Queries:
    """A CSV or JSONL file with a `query` column; `id` and `country` (any spelling) may stand beside it."""
    if not path.is_file():
        raise UsageError(f"No file {path}. Give a CSV or JSONL file with a 'query' column, or 'prism'.")
    if path.suffix.lower() not in (".csv", ".jsonl", ".ndjson"):
        raise UsageError(f"{path}: queries are read from .csv or .jsonl files.")
    sieve, items = Sieve(filters), []
    rows = csv_rows if path.suffix.lower() == ".csv" else read_rows
    for row, place in rows(path, sieve.fault):
        sieve.counts["rows"] += 1
        text = row.get("query")
        if not isinstance(text, str):
            sieve.fault(place, "no text under 'query'")
            continue
        try:
            iso3 = find_country(str(row["country"])).iso3 if row.get("country") else None
        except UnknownCountry as error:
            sieve.fault(place, str(error))
            continue
        if len(text) > MOST_CHARACTERS:
            sieve.fault(
                place, f"the query has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read"
            )
            continue
        if not sieve.takes(text):
            continue
        home = cultural_map.community_of(iso3) if iso3 else None
        source = Source(path.stem, None, None, iso3, home.key if home else None)
        name = str(row.get("id") or row.get("query_id") or f"q-{_digest(text).hex()[:12]}")
        if name in sieve.ids:
            sieve.counts["kept"] -= 1
            sieve.fault(place, f"the id {name!r} stands above already")
            continue
        sieve.ids.add(name)
        items.append(Query(name, text.strip(), source))
    origin = {"dataset": path.stem, "file": path.name, "sha256": file_sha256(path)}
    if not items:
        raise UsageError(f"{path} has no query to answer: {_spelled(sieve)}.")
    return sieve.done(items, origin)


def csv_rows(path: Path, fault: Callable[[str, str], None]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row of a CSV file with the "file:line" it ends on."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        try:
            columns = list(rows.fieldnames or ())
        except csv.Error as error:
            raise UsageError(f"{path}:1: not CSV ({error})") from None
        if "query" not in columns:
            raise UsageError(f"{path}:1: no 'query' column; it has {', '.join(columns)[:200] or 'none'}.")
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                fault(f"{path}:{rows.line_num}", f"not CSV ({error})")
                continue
            place = f"{path}:{rows.line_num}"
            if None in row or None in row.values():
                fault(place, f"expected {len(columns)} columns")
                continue
            if "\ufffd" in row["query"]:
                fault(place, "not UTF-8")
                continue
            yield row, place


def is_english(text: str, detector: Any) -> bool:
    """Whether a text may be English. Short ones are hard to tell: only a clear other language says no."""
    if text.isascii() and len(PLAIN_ENGLISH & set(normalised(text).split())) > 1:
        return True
    sureness = {
        value.language.name: value.value for value in detector.compute_language_confidence_values(text)
    }
    return bool(TIMES_AS_LIKELY * sureness["ENGLISH"] >= max(sureness.values()))


def language_detector() -> Any:
    """Lingua's, for the languages most spoken; None where it is not installed."""
    try:
        from lingua import Language, LanguageDetectorBuilder
    except ImportError:
        return None
    return LanguageDetectorBuilder.from_languages(*(getattr(Language, name) for name in LANGUAGES)).build()


def _digest(text: str) -> bytes:
    return bytes.fromhex(short_sha256(text.strip(), 32))


def _spelled(sieve: Sieve) -> str:
    counts = ", ".join(f"{name} {number}" for name, number in sieve.counts.items() if number)
    return counts + (f"; {sieve.faults[0]}" if sieve.faults else "")
