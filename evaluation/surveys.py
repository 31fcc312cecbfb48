"""Surveys of real people: questions, what each country answered, and how much of it is evaluated."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cultural_palette.countries import find_country, sample_of
from cultural_palette.distributions import Distribution
from cultural_palette.errors import QuestionError, UnknownCountry
from cultural_palette.evaluation.batteries import find_batteries
from cultural_palette.evaluation.labels import has_opinion, is_scale, is_total
from cultural_palette.evaluation.selection import LOCAL, Selection, draw_questions
from cultural_palette.evaluation.survey_formats import (
    EVERYONE,
    Answer,
    Aside,
    Population,
    SurveyError,
    globalopinionqa,
)
from cultural_palette.evaluation.survey_formats.known import read_answers
from cultural_palette.provenance import file_sha256, short_sha256
from cultural_palette.questions import Question

HUB = "global-opinions"
# Small surveys that we made up: for examples and tests, and no source on any country.
MADE_UP = Path(__file__).parent / "data"
# Shares that sum to 0.98..1.02 are rounding and are renormalised; beyond that something is missing.
ROUNDING, NOTABLE = 0.02, 1e-4
# Where missing answers are left out, shares that sum to this much of 100 and more are percent.
LEAST_OF_PARTIAL = 0.5
SHOWN_ASIDE, MOST_SHOWN = 5, 20
MORE_OPTIONS = "questions with more options than wanted"
NOT_LOCAL = "items without the population's own language"
# Below this share of answers with an opinion a country's row is flagged.
HALF = 0.5
# Which of a country's several samples is primary: national before old before non-national.
SAMPLE_RANK = {None: 0, "current national": 0, "old national": 1, "non-national": 2}


@dataclass(frozen=True)
class SurveyQuestion:
    """A question as it is shown: `options` are those of every distribution over it, in the same order.

    `id`: stable, a hash of the survey's own text and options. `survey`: the wave it comes from ("GAS",
    "WVS"). `battery`: shared by questions so alike that a split must not part them. `ordered`: whether the
    options are a scale; None where nobody said and none is recognised. `topic`: as the survey says.
    """

    id: str
    text: str
    options: tuple[str, ...]
    survey: str
    battery: str
    ordered: bool | None = None
    topic: str | None = None

    def __post_init__(self) -> None:
        question = Question(self.text, self.options)  # refuses what can not be asked
        object.__setattr__(self, "text", question.text)
        object.__setattr__(self, "options", question.options)
        if not self.options:
            raise ValueError(f"question {self.id} has no options")


@dataclass(frozen=True)
class SurveyItem:
    """One population's answer to one question. `label`: what the survey calls that country's sample.
    `answered`: the share of all respondents (0..1) that chose an option with an opinion. `population`: whom
    in the country it speaks for. `respondents`: how many answered, None where the survey does not say.
    `labelled`: the survey has one right answer, and `gold` is all on it: score whether it is found, not how
    shares compare. `local`: question and options in the population's language, where the survey has them;
    `in_local`: they are what is asked.
    """

    question: SurveyQuestion
    country: str
    gold: Distribution
    label: str
    answered: float = 1.0
    population: Population = EVERYONE
    respondents: float | None = None
    labelled: bool = False
    local: tuple[str, tuple[str, ...]] | None = None
    in_local: bool = False

    def __post_init__(self) -> None:
        if len(self.gold) != len(self.question.options):
            raise ValueError(
                f"{self.id}: {len(self.gold)} probabilities for {len(self.question.options)} options"
            )

    @property
    def id(self) -> str:
        """`QUESTION/COUNTRY`, such as "3f2a.../KEN"; with a population "3f2a.../USA~sex-female.w54"."""
        key = self.population.key
        return f"{self.question.id}/{self.country}" + (f"~{key}" if key else "")

    @property
    def text_and_options(self) -> tuple[str, tuple[str, ...]]:
        """What a method is asked: question and options, those of the survey's own order. A group is named
        before the question.
        """
        whole = self.question.text, self.question.options
        text, options = self.local if self.in_local and self.local else whole
        group = self.population.in_words
        return (f"(Asked of these people only: {group}.) {text}" if group else text), options


@dataclass(frozen=True)
class Survey:
    """What a selection takes of a survey. `sha256`: of the files read. `counts`: what was read, mended and
    set aside, by reason; `set_aside`: the same with file and line. `items` go by question, then country.
    `whole`: the items before questions were drawn or split off, which is what floors learn from; `items`
    when empty. `everywhere`: those of every country that the file has, whatever was selected; `whole` when
    empty.
    """

    name: str
    source: str
    sha256: str
    items: tuple[SurveyItem, ...]
    selection: Selection
    counts: Mapping[str, int]
    set_aside: tuple[str, ...] = field(default=(), repr=False)
    whole: tuple[SurveyItem, ...] = field(default=(), repr=False)
    everywhere: tuple[SurveyItem, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", MappingProxyType(dict(self.counts)))
        if len({item.id for item in self.items}) < len(self.items):
            raise ValueError(f"survey {self.name} has an item twice")
        object.__setattr__(self, "whole", self.whole or self.items)
        object.__setattr__(self, "everywhere", self.everywhere or self.whole)

    @property
    def questions(self) -> tuple[SurveyQuestion, ...]:
        """Each question once, in the survey's order."""
        return tuple({item.question.id: item.question for item in self.items}.values())

    @property
    def countries(self) -> tuple[str, ...]:
        """The countries that have items; in the selection's order, alphabetical where it names none."""
        codes = {item.country for item in self.items}
        return tuple(code for code in self.selection.countries or sorted(codes) if code in codes)

    @property
    def without_data(self) -> tuple[str, ...]:
        """Countries of the selection that have no item."""
        return tuple(code for code in self.selection.countries if code not in set(self.countries))

    def as_manifest(self) -> dict[str, Any]:
        """What a run's manifest says of its survey."""
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "selection": self.selection.as_dict(),
            "counts": dict(self.counts),
            "set_aside": list(self.set_aside),
            "countries_without_data": list(self.without_data),
        }


def load_survey(source: str | Path, selection: Selection | None = None, *, name: str | None = None) -> Survey:
    """What `selection` (everything, if None) takes of the survey at `source`.

    A path in any of the formats of `survey_formats.known`, told apart by what is in it. Or the hub's
    GlobalOpinionQA, "global-opinions", with "@REVISION" to pin it. What can not be read is set aside and
    counted; SurveyError when nothing can.
    """
    selection = selection or Selection()
    path, source_name = _locate(str(source))
    entries, files = read_answers(path)
    builder = _Builder(selection)
    for entry in entries:
        builder.take(entry)
    if not builder.counts["country rows read"]:
        first = next(builder.asides(), None)
        raise SurveyError(
            f"{path} holds no country's answer to any question."
            + (f" The first thing set aside: {first}." if first else "")
        )
    everywhere = builder.items()
    if not everywhere and builder.every_row_is_lost:
        raise SurveyError(all_set_aside(path, tuple(builder.asides())))
    wanted = set(selection.countries)
    order = {code: place for place, code in enumerate(selection.countries)}
    whole = [item for item in everywhere if not wanted or item.country in wanted]
    if wanted:
        by_question = {key: place for place, key in enumerate(dict.fromkeys(i.question.id for i in whole))}
        whole.sort(key=lambda item: (by_question[item.question.id], order[item.country]))
    if selection.language == LOCAL:
        builder.counts[NOT_LOCAL] = sum(not item.local for item in whole)
        whole = [item for item in whole if item.local]
    items = pinned(whole, selection.items) if selection.items else whole
    if selection.questions is not None:
        items = draw_questions(whole, selection.questions, selection.seed, selection.draw)
    builder.counts["items"] = len(items)
    builder.counts["questions"] = len({item.question.id for item in items})
    builder.counts["items under half answered"] = sum(item.answered < HALF for item in items)
    return Survey(
        name=name or (path.stem if path.is_file() else path.resolve().name),
        source=source_name,
        sha256=file_sha256(*files),
        items=tuple(items),
        selection=selection,
        counts=builder.counts,
        set_aside=tuple(builder.asides()),
        whole=tuple(whole),
        everywhere=tuple(everywhere),
    )


class _Builder:
    """Takes a reader's entries one by one; then makes items of the options that the selection wants."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.counts: Counter[str] = Counter()
        self._questions: dict[str, Answer] = {}
        self._refused: set[str] = set()
        self._rows: dict[tuple[str, str, str], Answer] = {}
        self._asides: defaultdict[tuple[str, str], list[str]] = defaultdict(list)

    def take(self, entry: Answer | Aside) -> None:
        """Count an entry, and hold it when it is a country's readable, primary answer."""
        if isinstance(entry, Aside):
            self._set_aside(entry.where, entry.reason, entry.detail)
            return
        entry = self._without_totals(entry)
        self.counts["country rows read"] += 1
        key = entry.key or question_id(entry.survey, entry.text, entry.options)
        if key not in self._questions and key not in self._refused:
            self._meet(key, entry)
        if key in self._refused:
            self.counts["country rows of questions set aside"] += 1
            return
        known = self._questions[key]
        if (known.text, known.options) != (entry.text, entry.options):
            self._set_aside(entry.where, "corrupt row", f"id {key} has another question at {known.where}")
            return
        country, unknown = _country(entry.label)
        if country is None:
            self._set_aside(entry.where, "unknown country", unknown)
            return
        entry = self._without_percent(entry)
        if (fault := self._fault(entry)) is not None:
            shown = f"{', '.join(f'{share:g}' for share in entry.shares)}, in all {sum(entry.shares):g}"
            self._set_aside(entry.where, fault, f"{entry.label}: {shown}")
        else:
            self._hold(key, country, entry)

    def _without_percent(self, entry: Answer) -> Answer:
        """The entry with its shares 0 to 1: those that sum to 100, within the rounding, are percent."""
        low = LEAST_OF_PARTIAL if entry.partial else 1 - ROUNDING
        if not 100 * low <= sum(entry.shares) <= 100 * (1 + ROUNDING):
            return entry
        self.counts["country rows in percent, divided by 100"] += 1
        return replace(entry, shares=tuple(share / 100 for share in entry.shares))

    def _without_totals(self, entry: Answer) -> Answer:
        """The entry without columns of totals, which are no options; what is left sums to less than 1."""
        if not any(map(is_total, entry.options)):
            return entry
        pairs = zip(entry.options, entry.shares, strict=True)
        left = [(option, share) for option, share in pairs if not is_total(option)]
        options, shares = (tuple(column) for column in zip(*left, strict=True)) if left else ((), ())
        key = entry.key or question_id(entry.survey, entry.text, entry.options)
        notes = (*entry.notes, "a column of totals among the options")
        return replace(entry, options=options, shares=shares, key=key, notes=notes, partial=True)

    def _meet(self, key: str, entry: Answer) -> None:
        """A question seen for the first time: refuse it, or count what was mended in it."""
        self.counts["questions read"] += 1
        try:
            if not entry.text.strip():
                raise QuestionError("The question is empty.")
            if not Question(entry.text, entry.options).options:
                raise QuestionError("The question has no options.")
        except QuestionError as error:
            self._refused.add(key)
            self._set_aside(entry.where, "question that can not be asked", str(error))
            return
        self._questions[key] = entry
        for note in entry.notes:
            self.counts[f"questions: {note}"] += 1

    def _fault(self, entry: Answer) -> str | None:
        total = sum(entry.shares)
        if total <= 0:
            return "all zeros"
        if total > 1 + ROUNDING or (total < 1 - ROUNDING and not entry.partial):
            return "shares that do not sum to 1"
        if abs(total - 1) > NOTABLE:
            self.counts["country rows renormalised"] += 1
        return None

    def _hold(self, key: str, country: str, entry: Answer) -> None:
        """Of several samples of one country, the primary one; the first of equals."""
        where = (key, country, entry.population.key)
        known = self._rows.get(where)
        if known is not None:
            rank, ahead = _rank(entry.label), _rank(known.label)
            if rank == ahead and entry.shares != known.shares:
                was = f"{entry.label}: {known.label} stands at {known.where}, with other shares"
                self._set_aside(entry.where, "country twice, the first counts", was)
                return
            self.counts["country rows behind a primary one"] += 1
            if rank >= ahead:
                return
        self._rows[where] = entry

    @property
    def every_row_is_lost(self) -> bool:
        """Whether no row is held, or none with an opinion; a selection of fewer options is no loss."""
        return not self._rows or bool(self.counts["set aside: no opinion at all"])

    def items(self) -> list[SurveyItem]:
        """Every item of the selected options, by question, then country in alphabetical order."""
        questions = {key: self._shown(key) for key in self._questions}
        by_question: defaultdict[str, list[SurveyItem]] = defaultdict(list)
        for (key, country, _), row in self._rows.items():
            question = questions[key]
            if question is None:
                continue
            pairs = list(zip(row.options, row.shares, strict=True))
            shares = [share for option, share in pairs if self._is_wanted(option)]
            answered = sum(share for option, share in pairs if has_opinion(option)) / sum(row.shares)
            if sum(shares) <= 0:
                self._set_aside(row.where, "no opinion at all", row.label)
                continue
            by_question[key].append(
                SurveyItem(
                    question, country, Distribution.from_counts(shares), row.label, min(1.0, answered),
                    row.population, row.respondents and row.respondents * sum(shares) / sum(row.shares),
                    row.labelled, self._local(row), self.selection.language == LOCAL,
                )
            )  # fmt: skip
        return [
            item
            for key in questions
            for item in sorted(by_question[key], key=lambda item: (item.country, item.population.key))
        ]

    def _local(self, row: Answer) -> tuple[str, tuple[str, ...]] | None:
        """Question and options in the population's language, those that are shown."""
        if row.local is None:
            return None
        text, options = row.local
        pairs = zip(row.options, options, strict=True)
        return text, tuple(local.strip() for option, local in pairs if self._is_wanted(option))

    def _shown(self, key: str) -> SurveyQuestion | None:
        """The question as it will be asked; None when the selection leaves it out."""
        entry = self._questions[key]
        options = tuple(option.strip() for option in entry.options if self._is_wanted(option))
        if len(options) < 2:
            self._set_aside(entry.where, "fewer than two options with an opinion")
            return None
        if self.selection.max_options is not None and len(options) > self.selection.max_options:
            self.counts[MORE_OPTIONS] += 1
            return None
        ordered = entry.ordered if entry.ordered is not None else (is_scale(options) or None)
        return SurveyQuestion(
            key, entry.text, options, entry.survey, self._battery[key], ordered, entry.topic
        )

    @cached_property
    def _battery(self) -> Mapping[str, str]:
        batteries = find_batteries({key: (q.text, q.options) for key, q in self._questions.items()})
        return {key: self._questions[key].battery or battery for key, battery in batteries.items()}

    def _is_wanted(self, option: str) -> bool:
        return self.selection.options == "all" or has_opinion(option)

    def _set_aside(self, where: str, reason: str, detail: str = "") -> None:
        self.counts[f"set aside: {reason}"] += 1
        self._asides[where, reason].append(detail)

    def asides(self) -> Iterator[str]:
        """Everything set aside, a line for each place and reason."""
        for (where, reason), details in self._asides.items():
            named = [detail for detail in details if detail]
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            yield str(Aside(where, reason, "; ".join(named[:3]) + more))


def all_set_aside(path: Path, asides: tuple[str, ...]) -> str:
    """What is said of a survey of which nothing can be used."""
    more = f"\n... and {len(asides) - SHOWN_ASIDE} more" if len(asides) > SHOWN_ASIDE else ""
    listed = "\n".join(asides[:SHOWN_ASIDE])
    return (
        f"{path} has no row that can be used; every one was set aside:\n{listed}{more}\n"
        "Mend those rows: countries by name or ISO code, options that differ, one share for each option, 0 "
        "to 1 or in percent, which sum to 1 or to 100."
    )


def nothing_left(survey: Survey) -> str:
    """Why a selection takes nothing of a survey that can be read, and what it could take."""
    there = sorted({item.country for item in survey.everywhere})
    shown = ", ".join(there[:MOST_SHOWN]) + (", ..." if len(there) > MOST_SHOWN else "")
    wide = survey.counts.get(MORE_OPTIONS, 0)
    if (foreign := survey.counts.get(NOT_LOCAL, 0)) and not survey.items:
        return (
            f"Nothing of {survey.source} is left by this selection: {foreign} items have no wording in the "
            "population's own language. Leave out --language local."
        )
    return f"Nothing of {survey.source} is left by this selection." + (
        f" It has answers of {shown}: name some with --countries."
        if there
        else f" {wide} questions have more options than --max-options takes: raise it."
        if wide
        else " No question has two options with an opinion: take them all (--options all)."
    )


def pinned(items: Sequence[SurveyItem], ids: Sequence[str]) -> list[SurveyItem]:
    """The items that a list names, in the survey's order; SurveyError when the survey lacks some."""
    wanted = set(ids)
    selected = [item for item in items if item.id in wanted]
    if lacking := sorted(wanted - {item.id for item in selected}):
        raise SurveyError(
            f"The pinned list names {len(wanted)} items, and {len(lacking)} of them are not in this "
            f"selection, such as {lacking[0]}. Take the survey, options and countries that the list was made "
            "with."
        )
    return selected


def survey_rows(survey: Survey) -> Iterator[dict[str, Any]]:
    """Any survey's items as rows of our own JSONL, which `load_survey` reads back as they are."""
    for item in survey.items:
        question = item.question
        more: dict[str, Any] = {
            "battery": question.battery, "ordered": question.ordered, "survey": question.survey,
            "topic": question.topic, **item.population.as_dict(), "respondents": item.respondents,
            "labelled": item.labelled or None,
            "local": {"question": item.local[0], "options": list(item.local[1])} if item.local else None,
        }  # fmt: skip
        yield {
            "id": question.id, "question": question.text, "options": list(question.options),
            "country": item.country, "distribution": list(item.gold.probabilities),
            **{name: value for name, value in more.items() if value is not None},
        }  # fmt: skip


def question_id(survey: str, text: str, options: Iterable[str]) -> str:
    """A question's name for ever: a hash of the survey's own text and options, not of a selection."""
    content = "\x1f".join((survey, text.strip(), *(option.strip() for option in options)))
    return short_sha256(content, 12)


@cache
def _country(label: str) -> tuple[str | None, str]:
    """The label's ISO3 code; or None, and why in words."""
    try:
        return find_country(label).iso3, ""
    except UnknownCountry as error:
        return None, label if "Did you mean" not in str(error) else f"{label}: {_hint(error)}"


def _hint(error: UnknownCountry) -> str:
    """The nearest names, out of the whole sentence."""
    return "did you mean" + str(error).partition("Did you mean")[2].partition("?")[0] + "?"


def _rank(label: str) -> int:
    return SAMPLE_RANK.get(sample_of(label), len(SAMPLE_RANK))


def _locate(source: str) -> tuple[Path, str]:
    """The path to read, and the source as a result names it."""
    name, _, revision = source.partition("@")
    if name in (HUB, globalopinionqa.HUB_ID) and not Path(source).exists():
        path, commit = globalopinionqa.download(revision or None)
        return path, f"{globalopinionqa.HUB_ID}@{commit}"
    path = Path(source)
    if not path.exists():
        raise SurveyError(f"No survey {source!r}: give a file, a folder, or {HUB!r} for the hub's.")
    return path, path.name
