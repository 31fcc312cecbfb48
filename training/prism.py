"""PRISM's opening prompts (Kirk et al. 2024), each once, with the birth country of who wrote it.

The prompts people wrote are under CC-BY-4.0; what the models answered them is under CC-BY-NC-4.0, and is
never read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import UnknownCountry, UsageError
from cultural_palette.jsonl import read_rows
from cultural_palette.provenance import file_sha256
from cultural_palette.training.queries import (
    MOST_CHARACTERS,
    USUAL,
    Filters,
    Queries,
    Query,
    Sieve,
    Source,
)

HUB = "HannahRoseKirk/prism-alignment"
CONVERSATIONS, SURVEY = "conversations.jsonl", "survey.jsonl"
NOT_TOLD = "prefer not to say"
LICENCE = "prompts CC-BY-4.0 (Kirk et al. 2024, PRISM); model responses CC-BY-NC-4.0, not used"


def load_prism(
    cultural_map: CulturalMap,
    path: Path | None = None,
    *,
    revision: str | None = None,
    filters: Filters = USUAL,
) -> Queries:
    """The unique opening prompts: from a folder with both files (or the path of the conversations), else
    from the hub. Counts say how many users told no birth country ("prefer not to say", kept apart), were not
    in the survey, or were born in a country that the map has no place for.
    """
    conversations, survey = _local(path) if path else _from_hub(revision)
    sieve = Sieve(filters)
    homes = {"not_told": 0, "not_in_survey": 0, "unknown_country": 0, "outside_map": 0}
    birth = _births(survey, sieve)
    items: list[Query] = []
    for row, place in read_rows(conversations, sieve.fault):
        sieve.counts["rows"] += 1
        text, name = row.get("opening_prompt"), row.get("conversation_id")
        if not isinstance(text, str) or not isinstance(name, str) or not name:
            lacking = "opening_prompt" if not isinstance(text, str) else "conversation_id"
            sieve.fault(place, f"no text under '{lacking}'")
        elif not isinstance(row.get("user_id"), str | None):
            sieve.fault(place, "'user_id' is no text")
        elif len(text) > MOST_CHARACTERS:
            sieve.fault(
                place, f"the prompt has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read"
            )
        elif name in sieve.ids:
            sieve.fault(place, f"the conversation {name!r} stands above already")
        elif sieve.takes(text):
            sieve.ids.add(name)
            user = row.get("user_id")
            iso3 = _country(user, birth, homes)
            home = cultural_map.community_of(iso3) if iso3 else None
            homes["outside_map"] += iso3 is not None and home is None
            source = Source("prism", name, user, iso3, home.key if home else None)
            items.append(Query(name, text.strip(), source))
    if not items:
        raise UsageError(
            f"{conversations} has no opening prompt to answer."
            + (f" The first trouble: {sieve.faults[0]}." if sieve.faults else "")
        )
    queries = sieve.done(items, _origin(conversations, survey, path, revision))
    countries = {item.source.birth_country for item in items} - {None}
    birth_counts = {f"birth_{key}": number for key, number in homes.items()}
    return Queries(
        queries.items,
        queries.origin,
        {**queries.counts, **birth_counts, "birth_countries": len(countries)},
        queries.faults,
    )


def _births(survey: Path, sieve: Sieve) -> dict[str, Any]:
    """user_id -> birth_countryISO as the survey has it."""
    births: dict[str, Any] = {}
    for row, place in read_rows(survey, sieve.fault):
        user, where = row.get("user_id"), row.get("location")
        if not isinstance(user, str) or not isinstance(where, Mapping):
            sieve.fault(place, "no 'user_id' or no 'location'")
            continue
        births[user] = where.get("birth_countryISO") or where.get("birth_country")
    return births


def _country(user: Any, birth: Mapping[str, Any], homes: dict[str, int]) -> str | None:
    if user not in birth:
        homes["not_in_survey"] += 1
        return None
    country = birth[user]
    if not isinstance(country, str) or country.strip().casefold() in ("", NOT_TOLD):
        homes["not_told"] += 1
        return None
    try:
        return find_country(country).iso3
    except UnknownCountry:
        homes["unknown_country"] += 1
        return None


def _local(path: Path) -> tuple[Path, Path]:
    """Conversations and survey: by their names, or as the only files that end so."""
    folder = path.parent if path.is_file() else path
    conversations = path if path.is_file() else _only(folder, CONVERSATIONS)
    return conversations, _only(folder, SURVEY)


def _only(folder: Path, name: str) -> Path:
    if (folder / name).is_file():
        return folder / name
    matches = [file for file in sorted(folder.glob(f"*{name}")) if file.is_file()]
    if len(matches) != 1:
        there = f"{len(matches)} files that end so" if matches else "none"
        raise UsageError(
            f"PRISM needs {CONVERSATIONS} and {SURVEY} in one folder; {folder} has {there} for {name}. "
            f"'--queries prism' loads both from the hub ({HUB})."
        )
    return matches[0]


def _from_hub(revision: str | None) -> tuple[Path, Path]:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise UsageError(
            "Loading PRISM from the hub needs huggingface_hub: pip install 'cultural-palette[data]', or give "
            "a folder: --queries prism:FOLDER."
        ) from None
    try:
        files = [
            Path(hf_hub_download(HUB, name, repo_type="dataset", revision=revision))
            for name in (CONVERSATIONS, SURVEY)
        ]
    except Exception as error:  # the hub's client has a family of its own for no network, no such revision
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(
            f"PRISM can not be loaded from the hub ({HUB}, {reason}). Download {CONVERSATIONS} and {SURVEY} "
            "into a folder and give it: --queries prism:FOLDER."
        ) from error
    return files[0], files[1]


def _origin(conversations: Path, survey: Path, path: Path | None, revision: str | None) -> dict[str, Any]:
    return {
        "dataset": "prism",
        "hub": None if path else HUB,
        "revision": None if path else (revision or conversations.parent.name),
        "file": conversations.name,
        "sha256": file_sha256(conversations),
        "survey_sha256": file_sha256(survey),
        "licence": LICENCE,
    }
