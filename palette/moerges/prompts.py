"""Prompts about a map's countries, as the meta agent gets them: what router rows are fitted on and tested on.

Whole prompts of the graph (`regulate`, `decide`, `decide_option`, both layouts) around texts of
`router_prompts.yaml`, which name no country. The texts for tests never stand in a fit.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.messages import role_dicts
from cultural_palette.prompts import render
from cultural_palette.questions import Question

FILE = Path(__file__).parent / "router_prompts.yaml"
FIT, HELD_OUT = "fit", "held_out"
LAYOUTS = ("", "prefix/")
SHARES = {"regulate": 0.2, "decide": 0.4, "decide_option": 0.4}
"""How often each step of the meta agent is drawn."""
NAMED = 0.5
"""Share of accounts that name the country, as a real account does."""


@dataclass(frozen=True)
class Texts:
    """What fills the prompts. `questions`: text and options; `accounts`, `drafts`: one or two sentences."""

    questions: tuple[Question, ...]
    accounts: tuple[str, ...]
    drafts: tuple[str, ...]


@dataclass(frozen=True)
class RouterPrompt:
    """A prompt about one country. `community`: index in the map; `step`: the prompt's name; `tokens`: ids;
    `mentions`: which of them belong to the country's name.
    """

    country: str
    community: int
    step: str
    tokens: tuple[int, ...]
    mentions: tuple[bool, ...]


@functools.cache
def texts_of(split: str) -> Texts:
    """Our own texts, those of a fit or those held out."""
    raw: Mapping[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))[split]
    questions = tuple(Question(row["text"], tuple(row.get("options", ()))) for row in raw["questions"])
    return Texts(questions, tuple(raw["accounts"]), tuple(raw["drafts"]))


def split_countries(
    cultural_map: CulturalMap, share: float, seed: int = 0, among: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Countries for a fit and countries held out of it, ISO3, every community by its share (0..1).

    `among`: leave all others aside (what a small base knows). A community of one country keeps it in the fit.
    """
    rng = random.Random(seed)
    fit: list[str] = []
    held_out: list[str] = []
    for community in cultural_map.communities:
        countries = [iso3 for iso3 in community.countries if among is None or iso3 in among]
        rng.shuffle(countries)
        count = min(round(len(countries) * share), len(countries) - 1)
        held_out += countries[:count]
        fit += countries[count:]
    return fit, held_out


def router_prompts(
    tokenizer: Any,
    cultural_map: CulturalMap,
    countries: Sequence[str],
    per_country: int,
    *,
    texts: Texts,
    seed: int = 0,
) -> list[RouterPrompt]:
    """`per_country` prompts about each country. The same seed gives a country the same prompts, whatever
    other countries are asked for, and the same first ones when more are.
    """
    index = {c.key: number for number, c in enumerate(cultural_map.communities)}
    names = [c.name for c in cultural_map.communities]
    prompts = []
    for iso3 in countries:
        home = cultural_map.community_of(iso3)
        if home is None:
            raise ValueError(f"{iso3} stands in no community of the map {cultural_map.key!r}.")
        name = find_country(iso3).in_text
        rng = random.Random(f"{seed} {iso3}")
        for _ in range(per_country):
            step = rng.choices(list(SHARES), list(SHARES.values()))[0]
            layout, question = rng.choice(LAYOUTS), rng.choice(texts.questions)
            if step == "decide_option" and not question.options:
                step = "decide"
            account = rng.choice(texts.accounts)
            if rng.random() < NAMED:
                account = f"In {name}: {account[0].lower()}{account[1:]}"
            fields = {"country": name, "question": question.text}
            if step == "regulate":
                drafts = rng.sample(texts.drafts, min(len(names), len(texts.drafts)))
                fields["memory"] = "\n\n".join(
                    f"{who}: {text}" for who, text in zip(names, drafts, strict=False)
                )
            else:
                fields["account"] = account
            if step == "decide_option":
                fields["options"] = question.lettered()
            chat = role_dicts(render(layout + step, **fields))
            tokens, mentions = encode(tokenizer, chat, name)
            prompts.append(RouterPrompt(iso3, index[home.key], layout + step, tokens, mentions))
    return prompts


def encode(
    tokenizer: Any, chat: Sequence[Mapping[str, str]], name: str
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Token ids of a chat prompt, and which of them touch the name."""
    text: str = tokenizer.apply_chat_template(list(chat), add_generation_prompt=True, tokenize=False)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = [match.span() for match in re.finditer(re.escape(name), text)]
    mentions = tuple(
        any(start < last and first < end for first, last in spans) for start, end in encoded["offset_mapping"]
    )
    return tuple(encoded["input_ids"]), mentions
