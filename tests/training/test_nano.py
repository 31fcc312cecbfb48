"""The nano palette's text: the atlas keeps its form, the dialogues keep what is held out."""

from __future__ import annotations

import random
import re

import pytest

pytest.importorskip("torch")

from cultural_palette.cultural_map import load_map
from cultural_palette.training.nano.atlas import DIMENSIONS, TOPICS, load_atlas, preferences
from cultural_palette.training.nano.dialogues import MIX, HeldOut, Writer, write_dialogues, write_groups

ATLAS = load_atlas()


def test_the_atlas_has_sixty_countries_at_home_in_the_map() -> None:
    continents = load_map("continents")
    assert len(ATLAS.places) >= 60
    for place in ATLAS.places.values():
        home = continents.community_of(place.iso3)
        assert home is not None and home.key == place.community, place.iso3


def test_no_custom_names_another_country_or_continent() -> None:
    names = {place.name.removeprefix("the ") for place in ATLAS.places.values()}
    names |= {"Africa", "America", "Asia", "Europe", "Oceania"}
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, sorted(names))) + r")\b")
    for place in ATLAS.places.values():
        for topic in TOPICS:
            for phrase in place.customs[topic]:
                assert not pattern.search(phrase), f"{place.iso3}.{topic}: {phrase}"


def test_hofstedes_scores_are_the_published_ones() -> None:
    # Hofstede, Hofstede and Minkov 2010: New Zealand 22 79 58 49 33 75
    assert [ATLAS.hofstede["NZL"][d] for d in DIMENSIONS] == [22, 79, 58, 49, 33, 75]
    assert ATLAS.hofstede["UKR"]["pdi"] is None


def test_preferences_by_hand() -> None:
    dilemma = ATLAS.dilemmas["share_dish"]  # 0.3 -+ 0.7 z(idv), two options
    shares = preferences(dilemma, dict.fromkeys(DIMENSIONS, 75.0))  # z = 1: 0.3 - 0.7 against 0.3 + 0.7
    assert shares["Share one dish"] == pytest.approx(1 / (1 + 2.718281828**1.4), abs=1e-6)


def test_dialogues_are_the_same_for_the_same_seed_and_cover_every_kind() -> None:
    rows = write_dialogues(ATLAS, 600, seed=5)
    assert rows == write_dialogues(ATLAS, 600, seed=5)
    assert {row["kind"] for row in rows} == set(MIX)
    for row in rows:
        assert [m["role"] for m in row["messages"]][-2:] == ["user", "assistant"]
        assert all("{" not in m["content"] for m in row["messages"])


def test_held_out_questions_are_never_trained_on() -> None:
    hold = HeldOut.choose(ATLAS)
    last = [re.escape(qs[-1]).replace(r"\{country\}", ".+") for qs in ATLAS.topics.values()]
    pattern = re.compile(r"Question: (" + "|".join(last) + r")$", re.MULTILINE)
    for row in write_dialogues(ATLAS, 3000, seed=9):
        if row["kind"] in ("draft", "account", "decide"):
            assert not pattern.search(row["messages"][-2]["content"])
        if row["kind"] == "draft":
            assert (row["country"], row["topic"]) not in hold.topics
    writer = Writer(ATLAS, random.Random(0), heldout=True)
    for _ in range(50):
        subject = writer.subject(options=False)
        assert (subject["land"].iso3, subject["topic"]) in hold.topics
        dilemma = writer.dilemma_subject()
        assert (dilemma["land"].iso3, dilemma["dilemma"].key) in hold.dilemmas


def test_groups_choose_the_community_and_reject_all_others() -> None:
    for row in write_groups(ATLAS, "asia", 12, seed=1):
        assert len(row["rejected"]) == 4 and row["chosen"] not in row["rejected"]
        if row["prompt"][0]["role"] == "system":
            assert "cultures of Asia" in row["prompt"][0]["content"]
