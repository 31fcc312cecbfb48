"""Countries and options read off what people write."""

from __future__ import annotations

import pytest

from cultural_palette.countries import all_countries
from cultural_palette.mentions import countries_in, country_alone, options_in


@pytest.mark.parametrize(
    ("text", "located", "others"),
    [
        ("What is a good life in Kenya?", ["KEN"], []),
        ("What do Kenyans eat?", ["KEN"], []),
        ("what do kenyans eat in kenya?", ["KEN"], []),
        ("Is China a threat?", [], ["CHN"]),
        ("Ask New Zealanders: is the US a threat?", ["NZL"], ["USA"]),
        ("In Kenya and Japan, what is tea?", ["KEN", "JPN"], []),
        ("Kenya: what is a good life?", ["KEN"], []),
        ("What do people in the United States of America think of Mexico?", ["USA"], ["MEX"]),
        ("What do South Sudanese people eat?", ["SSD"], []),  # the longer name wins
        ("Is tea drunk in Papua New Guinea?", ["PNG"], []),
        ("What does an Irish pub mean to Irishmen?", ["IRL"], []),
        ("Is the American dream alive?", [], ["USA"]),
        ("How do Swiss families live?", ["CHE"], []),
        ("Tell us how to polish a table.", [], []),  # neither the US nor Poland
        ("Is Nigerien food like Nigerian food?", [], ["NER", "NGA"]),
        ("What is a good life?", [], []),
    ],
)
def test_whose_view_is_asked_for_and_who_is_only_named(text, located, others) -> None:
    mentions = countries_in(text)
    assert [country.iso3 for country in mentions.located] == located
    assert [country.iso3 for country in mentions.others] == others


@pytest.mark.parametrize("country", all_countries(), ids=lambda country: country.iso3)
def test_every_country_is_found_by_its_name(country) -> None:
    (found,) = countries_in(f"What do people eat in {country.in_text}?").located
    assert found == country


@pytest.mark.parametrize(
    ("text", "code"),
    [("Kenya", "KEN"), ("in Kenya, please", "KEN"), ("KEN", "KEN"), ("kenyans.", "KEN"), ("the UK", "GBR")],
)
def test_a_reply_that_is_a_country(text: str, code: str) -> None:
    country = country_alone(text)
    assert country is not None and country.iso3 == code


@pytest.mark.parametrize("text", ["What do people eat in Kenya at home?", "Kenya or Japan", "tea", ""])
def test_a_reply_that_is_more_than_a_country_or_none(text: str) -> None:
    assert country_alone(text) is None


@pytest.mark.parametrize(
    ("text", "question", "options"),
    [
        ("Which matters more? A) Freedom B) Equality", "Which matters more?", ("Freedom", "Equality")),
        (
            "Which?\nA. Freedom\nB. Equality of all.\nC. None",
            "Which?",
            ("Freedom", "Equality of all.", "None"),
        ),
        ("Which?\n1) tea\n2) coffee", "Which?", ("tea", "coffee")),
        ("Which? Options: (a) tea, (b) coffee", "Which?", ("tea", "coffee")),
        ("Is tea good?\n\nOptions:\n* Yes\n* No", "Is tea good?", ("Yes", "No")),
        ("Is plan A. good? I like B. more.", "Is plan A. good? I like B. more.", ()),
        ("A) is all there is", "A) is all there is", ()),
        ("Is 1. better than 2. here?", "Is 1. better than 2. here?", ()),
        ("Is tea good?\n- at home", "Is tea good?\n- at home", ()),
        ("B) tea A) coffee", "B) tea A) coffee", ()),
    ],
)
def test_options_that_a_text_lists(text, question, options) -> None:
    assert options_in(text) == (question, options)
