"""What is measured: a dataset's or a run's answers, and a second set of texts to stand beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import MANIFEST, ROWS
from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import UnknownCountry, UsageError
from cultural_palette.jsonl import JsonFault, read_object
from cultural_palette.place_names import hide_names
from cultural_palette.provenance import file_sha256, short_sha256
from cultural_palette.training.pentachromatic.separation.tables import TableError, column, rows_of
from cultural_palette.training.pentachromatic.synthesis_run import RunRowError, answer_from
from cultural_palette.training.queries import normalised

ANSWERS = "answers.jsonl"
PRISM, CONVERSATIONS, SURVEY = "HannahRoseKirk/prism-alignment", "conversations.jsonl", "survey.jsonl"
NOT_TOLD = "prefer not to say"
TEXT_COLUMNS = ("response", "text", "answer")
LABEL_COLUMNS = ("community", "label", "continent", "country", "birth_country")
QUERY_COLUMNS = ("query_id", "query", "prompt", "question")


class NothingToMeasure(UsageError):
    """A set of texts that holds nothing that can be measured."""


@dataclass(frozen=True)
class GivenAnswer:
    """One community's answer. `birth_country`: ISO3 of who asked the query, None when not told."""

    query_id: str
    query: str
    community: str
    response: str
    birth_country: str | None = None


@dataclass(frozen=True)
class Answers:
    """The answers of a dataset or a synthesis run; `file` is what they were read from."""

    file: Path
    sha256: str
    items: tuple[GivenAnswer, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    def queries(self) -> dict[str, GivenAnswer]:
        """One answer of each query, by query id, in the order of their first row."""
        first_answers: dict[str, GivenAnswer] = {}
        for answer in self.items:
            first_answers.setdefault(answer.query_id, answer)
        return first_answers


@dataclass(frozen=True)
class Labelled:
    """A text with its community. `id`: its query's in the file; answers to a query share the hash `query`."""

    id: str
    query: str
    label: str
    text: str


@dataclass(frozen=True)
class TextSet:
    """Labelled texts under a name; `counts` says what was left out, and why."""

    name: str
    texts: tuple[Labelled, ...]
    counts: Mapping[str, int]
    sha256: str = ""

    def __post_init__(self) -> None:
        if not self.texts:
            lost = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in self.counts.items() if n)
            raise NothingToMeasure(f"{self.name} has no text with a community: {lost or 'it is empty'}.")


def read_answers(folder: Path, split: str | None = None) -> Answers:
    """A dataset folder's `answers.jsonl`, or the rows of a synthesis run that are ok, finished or not.

    `split`: train or test only, of a dataset. A later row of the same query and community replaces an
    earlier one. A last row that a kill cut short is left out of a run, and is an error in a dataset.
    """
    file = next((folder / name for name in (ANSWERS, ROWS) if (folder / name).is_file()), None)
    if file is None:
        raise NothingToMeasure(
            f"{folder} has neither {ANSWERS} nor {ROWS}: give a folder of `palette dataset build` or "
            "`palette synthesize`."
        )
    if split and file.name == ROWS:
        raise UsageError(f"{folder} is a synthesis run, which has no splits: leave --split out.")
    items: dict[tuple[str, str], GivenAnswer] = {}
    counts: Counter[str] = Counter()
    for row, place in _whole_rows(file):
        try:
            answer = answer_from(row)
        except RunRowError as error:
            raise RunRowError(f"{place}: {error}") from None
        counts["rows"] += 1
        if split and row.get("split") != split:
            counts["other_split"] += 1
        elif not answer.passed or not answer.response:
            counts["set_aside"] += 1
        else:
            source = row.get("source") if isinstance(row.get("source"), dict) else {}
            born = (source or {}).get("birth_country")
            items[answer.query_id, answer.community] = GivenAnswer(
                answer.query_id, answer.query, answer.community, answer.response, born or None
            )
    if not items:
        where = f" in the split {split!r}" if split else ""
        raise NothingToMeasure(f"{file} has no answer that is ok{where}.")
    return Answers(file, file_sha256(file), tuple(items.values()), dict(counts))


def labelled(answers: Answers, cultural_map: CulturalMap, name: str) -> TextSet:
    """The answers as labelled texts. Raises MapError for a community that the map has not."""
    texts = tuple(
        Labelled(
            answer.query_id,
            query_key(answer.query),
            cultural_map.community(answer.community).key,
            answer.response,
        )
        for answer in answers.items
    )
    return TextSet(name, texts, answers.counts, answers.sha256)


def without_names(given: TextSet, cultural_map: CulturalMap) -> TextSet:
    """The same set with every name of a country or community, and communities' adjectives, as "...".

    What separates then is not that answers say whose they are. Demonyms ("Kenyans") stay.
    """
    return replace(
        given,
        texts=tuple(replace(text, text=hide_names(text.text, cultural_map)) for text in given.texts),
    )


def map_name_of(folder: Path) -> str | None:
    """Key of the map that a folder's manifest names, if it names one."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_object(folder / MANIFEST)
    except JsonFault as error:
        raise TableError(f"{folder / MANIFEST}: {error}.") from None
    name = manifest.get("map")
    name = name.get("key") if isinstance(name, dict) else name
    return name if isinstance(name, str) else None


def read_second(
    path: str, cultural_map: CulturalMap, *, text: str | None = None, label: str | None = None,
    query: str | None = None, name: str | None = None,
) -> TextSet:  # fmt: skip
    """A second set: "prism" (from the hub), PRISM's folder or conversations.jsonl, a dataset's or run's
    folder, or a table with a text and a label: a community of the map by key or name, or a country in any
    spelling.

    `text`, `label`, `query` name the table's columns; without a query column every row is a query of its own.
    """
    place = Path(path)
    if path == "prism":
        return _prism(*_prism_from_hub(), cultural_map, name or "PRISM")
    if place.is_dir() and ((place / ANSWERS).is_file() or (place / ROWS).is_file()):
        return labelled(read_answers(place), cultural_map, name or place.resolve().name)
    if place.is_dir():
        return _prism(_only(place, CONVERSATIONS), _only(place, SURVEY), cultural_map, name or "PRISM")
    if place.is_file() and place.name.endswith(CONVERSATIONS):
        return _prism(place, _only(place.parent, SURVEY), cultural_map, name or "PRISM")
    return _table(place, cultural_map, (text, label, query), name or place.stem)


def query_key(text: str) -> str:
    """Equal for queries that differ in case, spaces or marks only: a query is one, whatever its id."""
    return short_sha256(normalised(text))


def _whole_rows(file: Path) -> Iterable[tuple[Any, str]]:
    if file.name != ROWS:
        yield from rows_of(file)
        return
    from cultural_palette.artifacts import RunFolder

    for number, row in enumerate(RunFolder(file.parent).rows(), 1):
        yield row, f"{file}:{number}"


def _table(path: Path, cultural_map: CulturalMap, names: Sequence[str | None], name: str) -> TextSet:
    texts: list[Labelled] = []
    counts: Counter[str] = Counter()
    for number, (row, place) in enumerate(rows_of(path), 1):
        text_column = column(row, place, names[0], TEXT_COLUMNS, "text")
        label_column = column(row, place, names[1], LABEL_COLUMNS, "community")
        query_column = next((key for key in ((names[2],) if names[2] else QUERY_COLUMNS) if key in row), None)
        if names[2] and query_column is None:
            column(row, place, names[2], (), "query")
        counts["rows"] += 1
        text, home = row[text_column], _community(row[label_column], cultural_map, counts)
        if not isinstance(text, str) or not text.strip():
            counts["empty"] += 1
        elif home is not None:
            question = str(row[query_column]) if query_column else place
            texts.append(Labelled(f"row {number}", query_key(question), home, text))
    return TextSet(name, tuple(texts), dict(counts), file_sha256(path))


def _community(value: Any, cultural_map: CulturalMap, counts: Counter[str]) -> str | None:
    """A community's key from its key or name, or from one of its countries; else None, counted."""
    text = str(value or "").strip()
    if not text or text.casefold() == NOT_TOLD:
        counts["not_told"] += 1
        return None
    for community in cultural_map.communities:
        if text.casefold() in (community.key.casefold(), community.name.casefold()):
            return community.key
    try:
        home = cultural_map.community_of(find_country(text).iso3)
    except UnknownCountry:
        counts["unknown_label"] += 1
        return None
    if home is None:
        counts["outside_map"] += 1
    return home.key if home else None


def _prism(conversations: Path, survey: Path, cultural_map: CulturalMap, name: str) -> TextSet:
    """The chosen answer to each opening prompt, under the community where its reader was born.

    The answers are under CC-BY-NC-4.0: they are read to be compared, and never written out.
    """
    born = {}
    for row, _ in rows_of(survey):
        where = row.get("location") or {}
        born[row.get("user_id")] = where.get("birth_countryISO") or where.get("birth_country")
    texts: list[Labelled] = []
    counts: Counter[str] = Counter()
    for row, place in rows_of(conversations):
        counts["rows"] += 1
        if not isinstance(row.get("conversation_history"), list):
            raise TableError(f"{place}: no 'conversation_history'; is that PRISM's {CONVERSATIONS}?")
        answer = next(
            (
                turn.get("content")
                for turn in row["conversation_history"]
                if turn.get("role") == "model" and turn.get("turn") == 0 and turn.get("if_chosen")
            ),
            None,
        )
        if not isinstance(answer, str) or not answer.strip():
            counts["no_chosen_answer"] += 1
            continue
        if row.get("user_id") not in born:
            counts["not_in_survey"] += 1
            continue
        if (home := _community(born[row["user_id"]], cultural_map, counts)) is not None:
            question = query_key(str(row.get("opening_prompt")))
            texts.append(Labelled(str(row.get("conversation_id")), question, home, answer))
    return TextSet(name, tuple(texts), dict(counts), file_sha256(conversations))


def _only(folder: Path, name: str) -> Path:
    matches = [folder / name] if (folder / name).is_file() else sorted(folder.glob(f"*{name}"))
    if len(matches) != 1:
        raise UsageError(
            f"{folder} has {len(matches) or 'no'} file{'s' * (len(matches) > 1)} {name}: PRISM needs "
            f"{CONVERSATIONS} and {SURVEY} in one folder; 'prism' loads both from the hub."
        )
    return matches[0]


def _prism_from_hub() -> tuple[Path, Path]:
    from huggingface_hub import hf_hub_download

    try:
        first, second = (
            hf_hub_download(PRISM, file, repo_type="dataset") for file in (CONVERSATIONS, SURVEY)
        )
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors and ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"PRISM ({PRISM}) did not come from the hub: {reason} Give its folder.") from None
    return Path(first), Path(second)
