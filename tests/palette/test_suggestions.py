"""Hints for a name that is not known."""

from __future__ import annotations

import time

import pytest

from cultural_palette.suggestions import did_you_mean, nearest

KNOWN = ("africa", "america", "asia", "europe", "oceania")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("afrika", " Did you mean 'africa'?"), ("Europe", " Did you mean 'europe'?"), ("x", ""), ("", "")],
)
def test_a_hint_stands_behind_a_sentence(name, hint):
    assert did_you_mean(name, KNOWN) == hint


def test_without_quotation_marks():
    assert did_you_mean("afrika", KNOWN, quoted=False) == " Did you mean africa?"


def test_several_best_first_from_any_iterable():
    assert nearest("america", iter(["africa", "america", "asia"]), n=2) == ["america", "africa"]


def test_a_page_in_the_place_of_a_name_takes_no_time():
    start = time.perf_counter()
    assert did_you_mean("ab" * 500_000, ["ab" * 500_000 + "a"] * 5) == ""
    assert time.perf_counter() - start < 1
