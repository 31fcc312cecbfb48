"""Does a method flatten the differences between countries? Spread between countries, predicted and surveyed.

The spread of a question is the mean Jensen-Shannon distance (base 2, 0..1) over pairs of its populations.
Below the survey's: countries are made more alike than they are (homogenisation). Of the texts on the way
it is the distance of their words, the countries' own names left out: drafts of one community for two
countries, the accounts of two countries; and, within one country, the drafts of two communities.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cultural_palette.countries import find_country
from cultural_palette.distributions import js_distances
from cultural_palette.evaluation.metrics import Floats
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number
from cultural_palette.evaluation.report.load import OK, Evaluation
from cultural_palette.evaluation.report.roles import title
from cultural_palette.evaluation.report.tables import Subject, range_cell
from cultural_palette.evaluation.statistics import Interval, clustered_interval

MOST_PAIRS = 200
"""Pairs of countries whose texts are compared for one question; the first in the items' order."""


@dataclass(frozen=True)
class Spreads:
    """A method's spread between populations, mean over questions (0..1), and the survey's on the same
    questions. `difference`: predicted minus surveyed, over batteries. Of texts (None without any):
    `drafts` between countries, `voices` between the communities of one country, `accounts` between
    countries.
    """

    predicted: float
    surveyed: float
    difference: Interval
    questions: int
    drafts: float | None = None
    voices: float | None = None
    accounts: float | None = None


def spreads(
    evaluation: Evaluation, method: str, *, permutations: int = 10_000, seed: int = 0
) -> Spreads | None:
    """Over the questions that the method answered, in every run, for two populations at least; None
    without any.
    """
    number_of = evaluation.methods.index(method)
    status, predicted = evaluation.status[number_of], evaluation.predicted[number_of]
    runs = np.flatnonzero((status == OK).any(axis=1))
    if not len(runs):
        return None
    answered = (status[runs] == OK).all(axis=0)
    of_question: defaultdict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(evaluation.items):
        if answered[place]:
            of_question[item.question_id].append(place)
    shared = [places for places in of_question.values() if len(places) > 1]
    if not shared:
        return None
    gold = np.array([_spread(evaluation.gold[places]) for places in shared])
    guess = np.array([[_spread(predicted[run, places]) for places in shared] for run in runs])
    batteries = [evaluation.items[places[0]].battery for places in shared]
    difference = clustered_interval(guess - gold, batteries, permutations=permutations, seed=seed)
    texts = _texts(evaluation, number_of, [place for places in shared for place in places])
    return Spreads(
        float(guess.mean()), float(gold.mean()), difference, len(shared),
        drafts=_mean(_between_countries(evaluation, shared, {k: t["drafts"] for k, t in texts.items()})),
        voices=_mean(
            _distance(a, b)
            for text in texts.values()
            for a, b in itertools.combinations(text["drafts"].values(), 2)
        ),
        accounts=_mean(
            _between_countries(
                evaluation, shared,
                {k: {"account": t["account"]} for k, t in texts.items() if t["account"]},
            )
        ),
    )  # fmt: skip


def diversity_table(subject: Subject) -> Table | None:
    """Every method's spread between countries beside the survey's; None where no question has two
    populations.
    """
    lines = []
    for method in subject.roles.of:
        made = spreads(subject.evaluation, method, permutations=subject.permutations)
        if made is None:
            continue
        lines.append(
            Line(
                title(method),
                (
                    number(made.predicted, digits=3),
                    number(made.surveyed, digits=3),
                    number(made.predicted / made.surveyed if made.surveyed else None, digits=2),
                    number(made.difference.mean, digits=3, signed=True),
                    _three(made.difference),
                    *(number(text, digits=3) for text in (made.voices, made.drafts, made.accounts)),
                    Cell(f"{made.questions:,}", float(made.questions)),
                ),
            )
        )
    if not lines:
        return None
    columns = (
        Column("predicted", "Decisions"), Column("survey", "Decisions"), Column("ratio", "Decisions"),
        Column("difference", "Decisions"), Column("95 %", "Decisions"),
        Column("drafts, between communities", "Texts"), Column("drafts, between countries", "Texts"),
        Column("accounts, between countries", "Texts"), Column("questions"),
    )  # fmt: skip
    notes = (
        "Spread: mean Jensen-Shannon distance (base 2, 0 to 1) over pairs of countries that were "
        "asked the same "
        "question, mean over questions. Ratio below 1: the method makes countries more alike than they are "
        "(homogenisation). A method that does not look at the country has 0, but for what sampled texts add.",
        "Texts: the same distance between the words of two texts, the countries' names left out: "
        "what is different "
        "before the decision. Words and options are not the same thing: compare stages between methods.",
    )
    caption = f"{subject.mark}Spread between countries: what becomes of their differences."
    return Table("diversity", caption, columns, (Section("", tuple(lines)),), notes)


def _three(interval: Interval) -> Cell:
    if interval.low is None or interval.high is None:
        return range_cell(interval)
    return Cell(f"[{interval.low:+.3f}, {interval.high:+.3f}]".replace("-", "−"), interval.low)


def _spread(shares: Floats) -> float:
    """Mean distance over pairs. `shares`: (population, option)."""
    first, second = np.triu_indices(len(shares), 1)
    return float(np.mean(js_distances(shares[first], shares[second], 2)))


def _texts(evaluation: Evaluation, method: int, places: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Words of drafts (by community) and account in the first run that has them, by item's place."""
    lines = {
        int(evaluation.line[method, 0, place]): place for place in places if evaluation.line[method, 0, place]
    }
    texts: dict[int, dict[str, Any]] = {}
    for line, row in evaluation.rows_at(list(lines)).items():
        stages = row.get("stages") or {}
        place = lines[line]
        own = set(re.findall(r"\w+", find_country(evaluation.items[place].country).name.casefold()))
        drafts = {k: _words(text, own) for k, text in (stages.get("drafts") or {}).items() if text}
        account = stages.get("regulated")
        texts[place] = {"drafts": drafts, "account": _words(account, own) if account else None}
    return texts


def _words(text: str, without: set[str]) -> Counter[str]:
    return Counter(word for word in re.findall(r"\w+", text.casefold()) if word not in without)


def _between_countries(
    evaluation: Evaluation, shared: Sequence[Sequence[int]], texts: Mapping[int, Mapping[str, Counter[str]]]
) -> Iterator[float]:
    for places in shared:
        pairs = itertools.islice(itertools.combinations([p for p in places if p in texts], 2), MOST_PAIRS)
        for a, b in pairs:
            for key in texts[a].keys() & texts[b].keys():
                yield _distance(texts[a][key], texts[b][key])


def _distance(a: Counter[str], b: Counter[str]) -> float:
    """Jensen-Shannon distance of two texts' words, base 2; 0 for two empty ones."""
    first, second = sum(a.values()), sum(b.values())
    if not first or not second:
        return 0.0 if first == second else 1.0
    divergence = 0.0
    for word in a.keys() | b.keys():
        p, q = a[word] / first, b[word] / second
        mean = (p + q) / 2
        divergence += sum(x * math.log2(x / mean) / 2 for x in (p, q) if x)
    return math.sqrt(max(0.0, divergence))


def _mean(values: Iterator[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
