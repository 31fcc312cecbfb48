"""The small palette's data: whole, reviewed, split by query; examples in the very prompts of the nodes."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasketch")
pytest.importorskip("torch")

from safetensors.torch import load_file

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import load_map
from cultural_palette.embedded.manifest import BUILT_IN, read_manifest
from cultural_palette.embedded.parts import Part
from cultural_palette.training.config import load_config
from cultural_palette.training.jobs import Job
from cultural_palette.training.preferences import check_groups, read_groups
from cultural_palette.training.small import build, duplicates, report
from cultural_palette.training.small.examples import FACT_QUESTIONS, shown_options, worked_examples
from cultural_palette.training.small.page import interval
from cultural_palette.training.small.page import page as small_page
from cultural_palette.training.small.rehearsal import trained_on

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
    trained += [
        json.loads(line) for file in work.glob("*/groups_*.jsonl") for line in file.open(encoding="utf-8")
    ]
    assert len(held) == 52
    for row in trained:
        asked = row["prompt"][-1]["content"]
        assert not any(f"Question: {query}" in asked for query in held)


def test_groups_are_what_palette_train_reads(work: Path) -> None:
    groups = read_groups(work / "round-1", tuple(build.COMMUNITIES))
    for key, rows in groups.items():
        check_groups(rows)
        assert len(rows) == build.ROUNDS[0][key]
        system = rows[0]["prompt"][0]["content"]
        assert f"the cultures of {build.COMMUNITIES[key]}" in system


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.open(encoding="utf-8")]


def test_every_agent_practises_the_later_steps_between_drafts_on_new_questions(work: Path) -> None:
    for rows in read_groups(work / "steps", tuple(build.COMMUNITIES)).values():
        check_groups(rows)
    ours = {row["account"] for row in build.worked()} | {row["answer"] for row in build.worked()}
    steps = {}
    for key in build.COMMUNITIES:
        rows = rows_of(work / "steps" / f"groups_{key}.jsonl")
        steps[key] = [row for row in rows if row["chosen"] in ours]
        five = [row for row in steps[key] if "Africa:" in row["prompt"][-1]["content"]]
        assert len(five) == build.STEPS["regulate"] and len(steps[key]) == sum(build.STEPS.values())
        drafts = {row["query_id"] for row in rows if row not in steps[key]}
        assert len(drafts) == build.DRAFTS_BESIDE_STEPS
        assert not drafts & {row["query_id"] for row in rows_of(work / "joint-data" / f"groups_{key}.jsonl")}
    assert not all(row in steps["africa"] for row in steps["asia"])


def test_after_the_last_round_every_agent_has_read_the_same_questions(work: Path) -> None:
    read: dict[str, list[str]] = {}
    for number in range(1, len(build.ROUNDS) + 1):
        for key in build.COMMUNITIES:
            file = work / f"round-{number}" / f"groups_{key}.jsonl"
            rows = rows_of(file)
            assert len(rows) == build.questions_in(number, key)
            read.setdefault(key, []).extend(row["query_id"] for row in rows)
    for ids in read.values():
        assert len(set(ids)) == len(ids) and ids == read["africa"]


def test_an_agent_of_a_later_round_is_that_of_the_last_round_that_taught_it(tmp_path: Path) -> None:
    assert build.agent_folder(tmp_path, "africa", after=2).parent.parent.name == "round-1"
    assert build.agent_folder(tmp_path, "asia", after=2).parent.parent.name == "round-2"
    assert build.agent_folder(tmp_path, "asia").parent.parent.name == "steps"
    assert build.agent_folder(tmp_path, "asia", after=1).parent.parent.name == "round-1"


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
    def all_at(logp: float) -> dict[str, list[list[float]]]:
        return {key: [[logp * tokens, tokens] for tokens in (80, 90)] for key in build.COMMUNITIES}

    right, half = [[True] * 4] * 2, [[True, False, True, False]] * 2
    parts = {
        "scores on 2: SmolLM2": {"n": 2, "scored": all_at(-4.0), "wins": {}},
        "scores on 2: task base": {
            "n": 2,
            "scored": all_at(-3.0),
            "wins": dict.fromkeys(build.COMMUNITIES, half),
        },
        **{
            f"scores on 2: {key}": {
                "n": 2,
                "scored": {**all_at(-2.5), key: all_at(-2.0)[key]},
                "wins": {key: right},
            }
            for key in build.COMMUNITIES
        },
        "scores on 2: joint": {"n": 2, "scored": all_at(-1.0), "wins": {}},
        "scores on 2: MoErges": {"n": 2, "scored": all_at(-2.0), "wins": {}},
        "steps: SmolLM2": {
            "scored": {"regulate": [[-400.0, 100], [-360.0, 90]], "decide": [[-120.0, 40], [-60.0, 20]]},
            "right": [True, False, False, False],
            "chance": 0.25,
        },
        "steps: task base": {
            "scored": {"regulate": [[-300.0, 100], [-270.0, 90]], "decide": [[-80.0, 40], [-40.0, 20]]},
            "right": [True, True, True, True],
            "chance": 0.25,
        },
        "neutral: SmolLM2": [[-300.0, 100], [-150.0, 50]],
        "neutral: task base": [[-310.0, 100], [-155.0, 50]],
    }
    page = small_page(parts, {"task": {"examples": 424, "seconds": 1831.0}})
    assert "own adapter is the best of the five for 5 of 5" in page
    # e^2.5 against e^2 is 39.3 % lower, e^3 against e^2 63.2 %
    assert "| Africa | America | +39.3 % [+39.3, +39.3] | +63.2 % [+63.2, +63.2] |" in page
    assert "lower than MoErges': Africa +63.2 % [+63.2, +63.2], America" in page
    assert "| Africa | 100 % [100, 100] | 50 % [50, 50] |" in page
    assert "| task base | 22.20 | +10.5 % [+10.5, +10.5] |" in page
    # e^3 against e^4, and e^2 against e^3, are 63.2 % lower
    assert "| SmolLM2 | 54.60 | 20.09 | 25 % [" in page
    assert "| task base | 20.09 (-63 % [-63, -63]) | 7.39 (-63 % [-63, -63]) | 100 % [100, 100] |" in page
    assert "Questions nobody" not in page and "later steps, with" not in small_page({}, {})


def test_the_later_steps_are_scored_on_held_out_questions_in_their_prompts(work: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    def score(chat: list[dict[str, str]], replies: Sequence[str]) -> list[tuple[float, int]]:
        asked.append((chat[-1]["content"], list(replies)))
        return [(-float(place), 1) for place, _ in enumerate(replies)]  # the first option is the likeliest

    figures = report.steps(work, score, 3)
    rows = report.held_out(work, 999)[0]
    assert [replies for _, replies in asked[:6]] == [
        *([row["account"]] for row in rows[:3]), *([row["answer"]] for row in rows[:3]),
    ]  # fmt: skip
    assert all("Africa:" in text for text, _ in asked[:3])
    assert all(row["account"] in text for row, (text, _) in zip(rows[:3], asked[3:6], strict=True))
    assert [len(scored) for scored in figures["scored"].values()] == [3, 3] and len(figures["right"]) == 3
    with_options = [row for row in rows if row["options"]][:3]
    assert [len(replies) for _, replies in asked[6:]] == [len(row["options"]) for row in with_options]
    assert 0 < figures["chance"] < 1


def test_the_joint_agent_goes_on_from_the_rounds_to_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Job] = []

    def run(jobs: Sequence[Job], note: Any) -> None:
        for job in jobs:
            done.append(job)
            job.out.mkdir(parents=True)
            (job.out / "manifest.json").write_text('{"groups": 5, "seconds": 1.0, "measures": {}}')

    monkeypatch.setattr(build, "run_jobs", run)
    build.joint(tmp_path)
    rounds, steps = done
    assert rounds.start is None and steps.start == rounds.out
    assert steps.out == build.agent_folder(tmp_path, "joint")
    assert steps.settings.max_length == build.STEPS_LENGTH > rounds.settings.max_length
    assert set(json.loads((tmp_path / "notes.json").read_text())) == {"joint", "joint_steps"}


def test_a_rehearsal_cuts_every_file_that_is_trained_on(work: Path) -> None:
    names = [str(path.relative_to(work)) for path in trained_on(work)]
    folders = ("joint-data", "round-1", "round-2", "steps")
    keys = sorted(build.COMMUNITIES)
    assert names == ["task.jsonl", *(f"{folder}/groups_{key}.jsonl" for folder in folders for key in keys)]


def test_rivals_are_palettes_that_can_be_asked(tmp_path: Path) -> None:
    small = BUILT_IN["small"]
    shutil.copytree(small / "adapters" / "asia", build.agent_folder(tmp_path, "joint"))
    (tmp_path / "ties").mkdir()
    (tmp_path / "ties" / "config.json").write_text("{}")
    build.rivals(tmp_path)
    assert sorted(path.name for path in (tmp_path / "rivals").iterdir()) == ["joint", "ties"]  # what is there
    joint, ties = (read_manifest(str(tmp_path / "rivals" / name)) for name in ("joint", "ties"))
    assert joint.base == read_manifest("small").base  # one base in the cache, not two
    weights = [load_file(file / "adapter_model.safetensors") for file in (
        joint.adapters["africa"], small / "adapters" / "asia"
    )]  # fmt: skip
    assert weights[0].keys() == weights[1].keys()
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])
    assert (ties.base / "config.json").read_text() == "{}" and ties.task is None
    assert Part.parse("base", ties).name == "base" and Part.parse("africa", joint).name == "africa"
    before = (tmp_path / "rivals" / "joint" / "manifest.json").stat().st_mtime_ns
    build.rivals(tmp_path)
    assert (tmp_path / "rivals" / "joint" / "manifest.json").stat().st_mtime_ns == before


def test_the_interval_covers_what_questions_scatter() -> None:
    low, high = interval(4, lambda chosen: float(chosen.mean()))
    assert low < 1.5 < high and (low, high) == interval(4, lambda chosen: float(chosen.mean()))


def test_a_line_of_a_survey_in_the_data_is_found(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = duplicates.our_texts(work)
    monkeypatch.setattr(
        duplicates, "our_texts", lambda folder: {kind: rows[:40] for kind, rows in ours.items()}
    )
    file = tmp_path / "survey.csv"
    copied = ours["queries"][7]
    file.write_text(f'question\n"{copied}"\nHow much do you trust your bank these days?\n', encoding="utf-8")
    found = duplicates.duplicates(work, [file])["survey.csv"]["kinds"]
    assert found["queries"]["equal"] == 1 and found["queries"]["pairs"] >= 1
    assert found["queries"]["longest_run"] == min(len(copied.split()), duplicates.LONGEST)
    assert found["answers"]["equal"] == 0 and found["answers"]["pairs"] == 0
    assert copied not in "".join(duplicates.lines({"survey.csv": {"texts": 2, "kinds": found}}))
