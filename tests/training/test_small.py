"""The small palette's data: whole, reviewed, split by query; examples in the very prompts of the nodes."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("datasketch")
pytest.importorskip("torch")

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import load_map
from cultural_palette.training.config import load_config
from cultural_palette.training.preferences import check_groups, read_groups
from cultural_palette.training.small import build, report
from cultural_palette.training.small.examples import FACT_QUESTIONS, shown_options, worked_examples
from cultural_palette.training.small.page import page as small_page

MAP = load_map("continents")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    build.data(folder)
    return folder


def test_the_dataset_is_what_two_readers_let_through(work: Path) -> None:
    manifest = json.loads((work / "data" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["review"]["counts"]["undecided"] == manifest["review"]["counts"]["unresolved"] == 0
    answers, split = build.reviewed_answers(work)
    assert len(answers) == 315 and Counter(split.values()) == {"train": 263, "test": 52}
    assert all(set(texts) == set(build.COMMUNITIES) for texts in answers.values())
    words = [len(text.split()) for texts in answers.values() for text in texts.values()]
    assert min(words) >= 40 and max(words) <= 105


def test_nothing_held_out_is_trained_on(work: Path) -> None:
    _, split = build.reviewed_answers(work)
    held = {row["query"] for row in build.worked() if split[row["query_id"]] == "test"}
    trained = [json.loads(line) for line in (work / "task.jsonl").open(encoding="utf-8")]
    trained += [row for rows in read_groups(work, tuple(build.COMMUNITIES)).values() for row in rows]
    assert len(held) == 52
    for row in trained:
        asked = row["prompt"][-1]["content"]
        assert not any(f"Question: {query}" in asked for query in held)


def test_groups_are_what_palette_train_reads(work: Path) -> None:
    groups = read_groups(work, tuple(build.COMMUNITIES))
    for key, rows in groups.items():
        check_groups(rows)
        assert len(rows) == build.GROUPS[key]
        system = rows[0]["prompt"][0]["content"]
        assert f"the cultures of {build.COMMUNITIES[key]}" in system


def test_every_example_is_about_a_country_of_the_map() -> None:
    for row in build.worked():
        assert MAP.community_of(find_country(row["country"]).iso3) is not None
        assert row["draft"]["community"] in build.COMMUNITIES
        if row["options"]:
            assert sum(row["option_counts"]) == 100 and len(row["options"]) == len(row["option_counts"])
            assert len(set(row["options"])) == len(row["options"])


def test_profiles_are_of_their_community_and_name_their_country() -> None:
    profiles = [json.loads(line) for line in (build.DATA / "profiles.jsonl").open(encoding="utf-8")]
    assert len({row["iso3"] for row in profiles}) == len(profiles) >= 75
    for row in profiles:
        home = MAP.community_of(row["iso3"])
        assert home is not None and home.key == row["community"]
        assert set(FACT_QUESTIONS) <= set(row)


def test_shares_go_with_their_options_in_any_order() -> None:
    row = next(row for row in build.worked() if row["options"] and len(row["options"]) > 2)
    by_text = dict(zip(row["options"], row["option_counts"], strict=True))
    orders = set()
    for seed in range(8):
        question, shares = shown_options(row, random.Random(seed))
        orders.add(question.options)
        for label, option in zip(question.labels, question.options, strict=True):
            assert shares[label] == pytest.approx(by_text[option] / 100)
    assert len(orders) > 1


def test_worked_examples_are_the_same_for_the_same_seed(work: Path) -> None:
    answers, split = build.reviewed_answers(work)
    train = [row for row in build.worked() if split[row["query_id"]] == "train"]
    once, again, other = (worked_examples(train, answers, [], seed) for seed in (1, 1, 2))
    assert once == again != other
    for row in once:
        if row["shares"]:
            assert row["response"] in row["shares"] and sum(row["shares"].values()) == pytest.approx(1)


def test_the_config_holds_both_trainings() -> None:
    config = load_config(build.CONFIG)
    assert config.task is not None and config.task.rank == 12 and config.orpo.rank == 8


def test_loops_and_broken_sentences_are_seen() -> None:
    assert report.loops(
        "the bride and the groom eat, the bride and the groom eat, the bride and the groom eat"
    )
    assert report.loops(
        "People bring a small gift with them. They talk. People bring a small gift with them."
    )
    assert not report.loops("People bring a small gift. They take off their shoes, and they eat together.")
    assert report.is_cut("People bring a small") and not report.is_cut('He says "Habari?"')


def test_whose_words_a_draft_has() -> None:
    whose = report.Words({"africa": ["ugali in Kenya", "jollof"], "asia": ["rice in Japan", "sushi"]})
    assert whose.of("They eat ugali and jollof.") == "africa"
    assert whose.of("Sushi, of course; in Kenya too.", without=["kenya"]) == "asia"


def test_the_page_shows_what_has_been_measured_and_leaves_the_rest_out() -> None:
    flat = dict.fromkeys(build.COMMUNITIES, 20.0)
    parts = {
        "perplexity on 4: SmolLM2": {"n": 4, "perplexity": flat, "accuracy": {}},
        "perplexity on 4: task base": {
            "n": 4,
            "perplexity": flat,
            "accuracy": dict.fromkeys(build.COMMUNITIES, 0.5),
        },
        **{
            f"perplexity on 4: {key}": {
                "n": 4,
                "perplexity": {**flat, key: 10.0},
                "accuracy": {key: 0.75},
            }
            for key in build.COMMUNITIES
        },
        "neutral: SmolLM2": 30.0,
        "neutral: task base": 33.0,
    }
    page = small_page(parts, {"task": {"examples": 424, "seconds": 1831.0}})
    assert "a community's own is the best for 5 of 5" in page
    assert "| Africa | 75 % | 50 % |" in page and "| task base | 33.00 | +10.0 % |" in page
    assert "Questions nobody" not in page and "Can it decide" not in page
