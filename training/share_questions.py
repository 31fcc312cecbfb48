"""Survey questions to learn shares from: which countries of which communities chose what, in a JSONL file.

    {"id": "..", "battery": "..", "question": "..", "options": ["..", ".."],
     "shares": {"asia": {"IND": [0.6, 0.4]}, "europe": {"DEU": [0.3, 0.7]}}}

`palette train --survey` writes it from any survey that `palette evaluate surveys` reads, without the
questions and countries that are held out. A country's shares stand in the options' order and sum to 1.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.countries import find_country
from cultural_palette.distributions import Distribution
from cultural_palette.errors import PaletteError, UsageError
from cultural_palette.jsonl import read_rows, refuse
from cultural_palette.messages import role_dicts
from cultural_palette.option_orders import Order, in_order, orders_of
from cultural_palette.prompts import render
from cultural_palette.questions import Question

FIELDS = ("id", "battery", "question", "options", "shares")


class ShareRowError(UsageError):
    """A row of shares that can not be trained on; names the row and what it lacks."""


@dataclass(frozen=True)
class ShareQuestion:
    """A question and what countries answered: ISO3 -> shares in the options' order. `place`: "file:line"."""

    id: str
    battery: str
    question: Question
    shares: Mapping[str, Distribution]
    place: str = "row"


@dataclass(frozen=True)
class Shown:
    """A question as it is put before a model once: with its options in `order`, to `countries` (ISO3)."""

    original: ShareQuestion
    order: Order
    countries: tuple[str, ...]

    @property
    def question(self) -> Question:
        """With the options in the order shown."""
        return in_order(self.original.question, self.order)

    def gold(self, country: str) -> list[float]:
        """A country's shares in the order shown."""
        shares = self.original.shares[country].probabilities
        return [shares[option] for option in self.order]


def share_prompt(question: Question, country: str) -> list[dict[str, str]]:
    """The chat that a survey's question is put in; the country, ISO3, comes last, so that what stands before
    it is the same for all.
    """
    name = find_country(country).name
    return role_dicts(
        render("survey/shares", question=question.text, options=question.lettered(), country=name)
    )


def read_share_questions(path: Path, communities: Sequence[str]) -> dict[str, list[ShareQuestion]]:
    """Each community's questions, in the file's order, with the shares of its own countries.

    Raises ShareRowError with file, line and what is wrong.
    """
    if not path.is_file():
        raise ShareRowError(f"No file {path}.")
    questions: dict[str, list[ShareQuestion]] = {key: [] for key in communities}
    for row, place in read_rows(path, refuse(ShareRowError)):
        if missing := [name for name in FIELDS if name not in row]:
            raise ShareRowError(f"{place}: no {missing[0]!r}; a row has {', '.join(FIELDS)}")
        if not isinstance(row["shares"], dict):
            raise ShareRowError(f"{place}: shares is a {type(row['shares']).__name__}, expected an object")
        if unknown := [key for key in row["shares"] if key not in questions]:
            raise ShareRowError(f"{place}: community {unknown[0]!r} is not one of {', '.join(communities)}")
        for community, of_countries in row["shares"].items():
            questions[community].append(question_of_row(row, of_countries, place))
    return questions


def question_of_row(row: Mapping[str, Any], of_countries: Mapping[str, Any], place: str) -> ShareQuestion:
    """A row's question, with the shares of one community's countries. Raises ShareRowError."""
    try:
        question = Question.read(row["question"], row["options"])
        shares = {find_country(key).iso3: Distribution(tuple(some)) for key, some in of_countries.items()}
    except (PaletteError, ValueError, TypeError, AttributeError) as error:
        raise ShareRowError(f"{place}: {error}") from None
    if not question.options or not shares:
        raise ShareRowError(f"{place}: needs options, and a country in every community that it names")
    for country, gold in shares.items():
        if len(gold) != len(question.options):
            raise ShareRowError(
                f"{place}: {country} has {len(gold)} shares for {len(question.options)} options"
            )
    return ShareQuestion(str(row["id"]), str(row["battery"]), question, shares, place)


def joined(of_communities: Mapping[str, Sequence[ShareQuestion]]) -> list[ShareQuestion]:
    """Every community's countries under one question: what the joint model learns."""
    together: dict[str, ShareQuestion] = {}
    for questions in of_communities.values():
        for one in questions:
            known = together.get(one.id)
            shares = {**(known.shares if known else {}), **one.shares}
            together[one.id] = ShareQuestion(one.id, one.battery, one.question, shares, one.place)
    return list(together.values())


def check_share_questions(questions: Sequence[ShareQuestion], where: str) -> None:
    """Refuse what can not be trained on: nothing, or a question twice. Raises ShareRowError."""
    if not questions:
        raise ShareRowError(
            f"{where}: no survey question to learn from: none of its countries is in the data"
        )
    twice = [key for key, count in Counter(one.id for one in questions).items() if count > 1]
    if twice:
        raise ShareRowError(f"{where}: question {twice[0]!r} stands there twice")


def shown_questions(
    questions: Sequence[ShareQuestion], orders: int, countries: int, seed: int
) -> Iterator[Shown]:
    """One pass over the questions: each in `orders` orders of its options, for at most `countries` countries
    (0: all) drawn for each order anew.

    The orders are balanced over the pass: a question takes the next ones of its number of options' list, own
    and reverse, or rows of Latin squares when there are more. So with one order a question, own and reverse
    alternate, and a place is no hint.
    """
    taken: Counter[int] = Counter()
    for one in questions:
        size = len(one.question.options)
        choice = orders_of(size, max(2, orders), seed)
        for _ in range(orders):
            order = choice[taken[size] % len(choice)]
            draw = random.Random(f"{seed}/{one.id}/{order}")
            taken[size] += 1
            names = sorted(one.shares)
            if countries and len(names) > countries:
                names = sorted(draw.sample(names, countries))
            yield Shown(one, order, tuple(names))


def hold_out_batteries(
    questions: Sequence[ShareQuestion], share: float, seed: int
) -> tuple[list[ShareQuestion], list[ShareQuestion]]:
    """Questions to train on and questions held out, `share` (0..1) of the batteries, drawn by `seed`; at
    least one battery on each side, if there are two.
    """
    batteries = sorted({one.battery for one in questions})
    if not share or len(batteries) < 2:
        return list(questions), []
    count = min(len(batteries) - 1, max(1, round(len(batteries) * share)))
    chosen = set(random.Random(seed).sample(batteries, count))
    train = [one for one in questions if one.battery not in chosen]
    return train, [one for one in questions if one.battery in chosen]
