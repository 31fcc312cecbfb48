"""Worked examples of the graph's own steps, as chats to tune a small base on: the task adapter's data.

A small model neither distils five drafts nor chooses a letter unless it is shown how. Each example is one
prompt of `palette/prompts`, filled as the nodes fill it, with the reply that we wrote. Where a question has
options, they come in any order, and the reply is the whole answer's distribution over their letters.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap, load_map
from cultural_palette.messages import role_dicts
from cultural_palette.prompts import render
from cultural_palette.questions import Question

Row = dict[str, Any]

SHARES = {  # of the training queries that make an example of a kind
    "draft": 0.2,
    "regulate": 0.13,
    "account": 0.12,
    "decide": 0.25,
    "decide_option": 0.35,
    "baselines/prompting": 0.05,
    "baselines/prompting_option": 0.15,
    "baselines/draft": 0.03,
    "baselines/select": 0.01,
    "baselines/route": 0.05,
}
FACTS_A_COUNTRY = 1
FACT_QUESTIONS = {
    "wedding": ("What happens at a wedding?", "How do people marry?", "What should I know about weddings?"),
    "food": ("What do people like to eat?", "What is a typical meal?", "What food should I try?"),
    "greeting": ("How do people greet each other?", "How should I say hello?"),
    "festival": ("Which festival matters to people?", "What do people celebrate?"),
    "belief": ("What do people believe in?", "What part does religion play?"),
    "family": ("What is family life like?", "How do families live?"),
    "work": ("What work do people do?", "What is working life like?"),
    "time": (
        "How do people think about time?",
        "What should I know about the rhythm of the day or the year?",
    ),
    "rank": ("How do people show respect?", "How do I treat an older person?"),
    "joy": ("What do people do for fun?", "What do people enjoy?"),
}


def worked_examples(
    examples: Sequence[Mapping[str, Any]],
    answers: Mapping[str, Mapping[str, str]],
    profiles: Sequence[Mapping[str, str]],
    seed: int,
) -> list[Row]:
    """Chats in every prompt form: {"form", "query_id", "prompt", "response", "shares"}, shuffled by the seed.

    `answers`: query id -> community -> text. `shares`: letter -> share of the people, for a reply that is a
    letter; None for a text.
    """
    draw = random.Random(seed)
    continents = load_map("continents")
    rows = [row for example in examples for row in _of_query(example, answers, continents, draw)]
    rows += [row for profile in profiles for row in _of_country(profile, draw)]
    draw.shuffle(rows)
    return rows


def _of_query(
    example: Mapping[str, Any],
    answers: Mapping[str, Mapping[str, str]],
    continents: CulturalMap,
    draw: random.Random,
) -> Iterator[Row]:
    names = {c.key: c.name for c in continents.communities}
    country = find_country(example["country"]).in_text
    query, account = example["query"], example["account"]
    memory = memory_of(example, answers, names)
    wanted = {form for form, share in SHARES.items() if draw.random() < share}
    question, shares = shown_options(example, draw)
    lettered = question.lettered() if draw.random() < 0.5 else ""

    def row(form: str, response: str, letters: Mapping[str, float] | None = None, **fields: str) -> Row:
        messages = role_dicts(render(form, **fields))
        return {
            "form": form, "query_id": example["query_id"], "prompt": messages, "response": response,
            "shares": letters,
        }  # fmt: skip

    if "draft" in wanted:
        community = names[example["draft"]["community"]]
        text = example["draft"]["text"]
        yield row("draft", text, community=community, country=country, question=query, options=lettered)
    if "regulate" in wanted:
        yield row("regulate", account, memory=memory, country=country, question=query)
    if "account" in wanted:
        yield row("account", account, country=country, question=query)
    if "baselines/draft" in wanted:
        yield row("baselines/draft", account, country=country, question=query, options=lettered)
    if "decide" in wanted:
        yield row("decide", example["answer"], account=account, country=country, question=query)
    if "baselines/prompting" in wanted:
        yield row("baselines/prompting", example["answer"], country=country, question=query)
    if shares and "decide_option" in wanted:
        fields = {"country": country, "question": query, "options": question.lettered()}
        yield row("decide_option", _likeliest(shares), shares, account=account, **fields)
    if shares and "baselines/prompting_option" in wanted:
        again, shares_again = shown_options(example, draw)
        fields = {"country": country, "question": query, "options": again.lettered()}
        yield row("baselines/prompting_option", _likeliest(shares_again), shares_again, **fields)
    home = continents.community_of(example["country"])
    order = draw.sample(list(names), len(names))
    models = Question(query, tuple(names[key] for key in order))
    letter = models.labels[order.index(home.key)] if home else ""
    if home and "baselines/route" in wanted:
        yield row("baselines/route", letter, {letter: 1.0}, country=country, question=query,
                  options=models.lettered())  # fmt: skip
    if home and "baselines/select" in wanted:
        yield row("baselines/select", letter, {letter: 1.0}, memory=memory, country=country, question=query,
                  options=models.lettered())  # fmt: skip


def memory_of(
    example: Mapping[str, Any], answers: Mapping[str, Mapping[str, str]], names: Mapping[str, str]
) -> str:
    """The five drafts as the distilling node shows them. `names`: community's key -> name."""
    given = dict(answers[example["query_id"]]) | {example["draft"]["community"]: example["draft"]["text"]}
    return "\n\n".join(f"{names[key]}: {given[key]}" for key in names)


def step_prompt(
    form: str, example: Mapping[str, Any], answers: Mapping[str, Mapping[str, str]], names: Mapping[str, str]
) -> list[dict[str, str]]:
    """The prompt of "regulate" or "decide" about this query and country."""
    fields = {"country": find_country(example["country"]).in_text, "question": example["query"]}
    if form == "regulate":
        return role_dicts(render(form, memory=memory_of(example, answers, names), **fields))
    return role_dicts(render(form, account=example["account"], **fields))


def shown_options(example: Mapping[str, Any], draw: random.Random) -> tuple[Question, dict[str, float]]:
    """The query with its options in an order drawn anew, and each letter's share; no options: no shares."""
    if not example["options"]:
        return Question(example["query"]), {}
    order = draw.sample(range(len(example["options"])), len(example["options"]))
    question = Question(example["query"], tuple(example["options"][i] for i in order))
    total = sum(example["option_counts"])
    counts = [example["option_counts"][i] / total for i in order]
    return question, dict(zip(question.labels, counts, strict=True))


def _likeliest(shares: Mapping[str, float]) -> str:
    return max(shares, key=lambda letter: shares[letter])


def _of_country(profile: Mapping[str, str], draw: random.Random) -> Iterator[Row]:
    """Plain questions about a country's customs, answered from its profile: accounts of one or two facts."""
    country = find_country(profile["iso3"]).in_text
    for field in draw.sample(list(FACT_QUESTIONS), FACTS_A_COUNTRY):
        question = draw.choice(FACT_QUESTIONS[field])
        other = draw.choice([name for name in FACT_QUESTIONS if name != field])
        near = {"wedding": "family", "food": "greeting", "festival": "joy", "belief": "festival"}.get(
            field, other
        )
        yield {
            "form": "account", "query_id": None, "shares": None,
            "prompt": role_dicts(render("account", country=country, question=question)),
            "response": f"{profile[field]} {profile[near]}",
        }  # fmt: skip
