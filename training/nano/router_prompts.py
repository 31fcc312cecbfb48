"""Prompts that nano's router rows are fitted on and tested on: whole prompts of the meta agent with the
atlas' own questions and accounts, since the atlas is all that nano knows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.moerges.prompts import RouterPrompt, encode, split_countries
from cultural_palette.training.nano.atlas import Atlas, load_atlas
from cultural_palette.training.nano.dialogues import Writer


def atlas_prompts(
    tokenizer: Any, cultural_map: CulturalMap, held_out: float, per_country: int, seed: int
) -> tuple[list[RouterPrompt], list[RouterPrompt]]:
    """Prompts of a fit and of its test, about different countries; the test's with questions that training
    held out.
    """
    atlas = load_atlas()
    fit, test = split_countries(cultural_map, held_out, seed, among=tuple(atlas.places))
    return (
        atlas_rows(tokenizer, cultural_map, atlas, fit, per_country, seed, heldout=False),
        atlas_rows(tokenizer, cultural_map, atlas, test, per_country, seed + 1, heldout=True),
    )


def atlas_rows(
    tokenizer: Any, cultural_map: CulturalMap, atlas: Atlas, countries: Sequence[str], per_country: int,
    seed: int, *, heldout: bool,
) -> list[RouterPrompt]:  # fmt: skip
    """`per_country` prompts about each country, of all three meta steps, by the atlas' writer."""
    writer = Writer(atlas, random.Random(seed), heldout=heldout)
    steps = {"decide": writer.decide, "decide_option": writer.decide_option, "regulate": writer.regulate}
    index = {c.key: number for number, c in enumerate(cultural_map.communities)}
    left = dict.fromkeys(countries, per_country)
    prompts = []
    while any(left.values()):
        step = writer.rng.choice(list(steps))
        row = steps[step]()
        iso3 = str(row.get("country"))
        if not left.get(iso3):
            continue
        left[iso3] -= 1
        place = atlas.places[iso3]
        tokens, mentions = encode(tokenizer, row["messages"][:-1], place.name)
        prompts.append(RouterPrompt(iso3, index[place.community], step, tokens, mentions))
    return prompts
