"""What a report says of runs whose effects are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.errors import UsageError
from cultural_palette.evaluation.methods import METHODS
from cultural_palette.evaluation.metrics import alignments
from cultural_palette.evaluation.report.analysis import AVERAGE, Analysis, Analyst, Settings, outcomes
from cultural_palette.evaluation.report.calibration import calibrate
from cultural_palette.evaluation.report.cases import choose_cases, failures
from cultural_palette.evaluation.report.load import OK, UNREADABLE, Evaluation, load_evaluation
from cultural_palette.evaluation.report.paper import paper_blocks, paper_rows, quoted_values, same_base
from cultural_palette.evaluation.report.peers import culturespa, modular_pluralism
from cultural_palette.evaluation.report.roles import KNOWN, assign_roles
from tests.evaluation.report_runs import made_up_run

MAP = load_map("continents")
QUICK = Settings(permutations=500)


def analysed(run: Evaluation, metric: str = "jsdist_e") -> Analysis:
    return Analyst(run, assign_roles(run.methods), QUICK).analyse(metric)


def test_the_average_is_that_of_the_rows(tmp_path: Path) -> None:
    run = load_evaluation(made_up_run(tmp_path / "run", questions=6), MAP)
    found = analysed(run, "jsdist_e").of("vanilla")
    scores = run.scores["jsdist_e"][0]  # (run, item); every country has as many items: a plain mean
    assert found.average is not None
    assert found.average.mean == pytest.approx(scores.mean())
    assert found.runs == pytest.approx(scores.mean(axis=1))
    assert found.average.clusters == 6 and found.average.n == 30
    kenya = [k for k, item in enumerate(run.items) if item.country == "KEN"]
    assert found.by_country["KEN"].mean == pytest.approx(scores[:, kenya].mean())


def test_known_effects_are_found_and_nothing_else(tmp_path: Path) -> None:
    skill = {
        "vanilla": 0.2,
        "prompting": 0.5,
        "cultural-palette": 0.9,
        "without-draft": 0.5,
        "self-blend": 0.89,
    }
    run = load_evaluation(made_up_run(tmp_path / "run", skill, questions=30), MAP)
    found = analysed(run, "jsdist_e")
    assert found.best_baseline == "prompting"
    assert set(found.scores.against_baseline) == set(skill) - {"prompting"}
    assert found.scores.against_baseline["cultural-palette"].better
    assert found.scores.against_baseline["vanilla"].worse
    assert not found.scores.against_baseline["without-draft"].better
    assert not found.scores.against_baseline["without-draft"].worse
    assert found.best_floor is not None and not found.best_floor.floor.reference
    assert (
        found.scores.against_floor["cultural-palette"].better and found.scores.against_floor["vanilla"].worse
    )


def test_the_best_is_marked_only_where_it_beats_the_next(tmp_path: Path) -> None:
    clear = {"vanilla": 0.1, "prompting": 0.5, "cultural-palette": 0.9}
    run = load_evaluation(made_up_run(tmp_path / "clear", clear, questions=30), MAP)
    marks = analysed(run, "jsdist_e").marks
    assert marks[("cultural-palette", AVERAGE)] == "best"
    assert marks[("prompting", AVERAGE)] == "second"
    tied = {"vanilla": 0.1, "prompting": 0.7, "cultural-palette": 0.7}
    run = load_evaluation(made_up_run(tmp_path / "tied", tied, questions=30, seed=1), MAP)
    assert analysed(run, "jsdist_e").marks == {}


def test_failures_leave_the_average_and_the_pairs_alone(tmp_path: Path) -> None:
    path = made_up_run(tmp_path / "run", questions=12, runs=1, failing={"prompting": 0.5, "vanilla": 1.0})
    run = load_evaluation(path, MAP)
    found = analysed(run, "jsd_e")
    assert found.of("vanilla").average is None and "vanilla" not in found.scores.against_floor
    half = outcomes(run, "prompting")
    assert half.ok + half.unreadable + half.failed == 60 and half.ok < 60
    pairs = found.scores.against_baseline["cultural-palette"].comparison
    assert found.best_baseline == "prompting"
    assert (pairs.difference.n, pairs.only_first) == (half.ok, 60 - half.ok)
    assert found.common == half.ok  # vanilla, which answered nothing, leaves ground for the others
    answered = run.status[1, 0] == OK
    mean = found.of("prompting").average
    assert mean is not None and mean.n == answered.sum()
    assert len(failures(run)) == int((run.status != OK).sum())


def test_runs_are_compared_on_the_items_that_all_of_them_answered(tmp_path: Path) -> None:
    run = load_evaluation(made_up_run(tmp_path / "run", questions=12, failing={"vanilla": 0.3}), MAP)
    always = (run.status[0] == OK).all(axis=0)
    assert 0 < always.sum() < 60
    countries = np.array([item.country for item in run.items])
    by_hand = [
        np.mean([row[always & (countries == code)].mean() for code in run.countries])
        for row in run.scores["jsdist_e"][0]
    ]
    found = analysed(run, "jsdist_e").of("vanilla")
    assert found.runs == pytest.approx(by_hand)
    assert found.spread is not None and found.spread.sd == pytest.approx(np.std(by_hand, ddof=1))


def test_roles_are_explicit() -> None:
    roles = assign_roles(("self-blend", "mine:method", "cultural-palette", "vanilla", "single-draft:asia"))
    assert list(roles.of) == ["vanilla", "cultural-palette", "self-blend", "single-draft:asia", "mine:method"]
    assert roles.baselines == ("vanilla",) and roles.of["mine:method"] == "added"
    named = assign_roles(("vanilla", "joint", "mine:method"), baselines=("joint",), ours="mine:method")
    assert named.baselines == ("joint",) and named.ours == "mine:method" and named.of["vanilla"] == "added"
    with pytest.raises(UsageError, match="no method 'magic'; it has vanilla"):
        assign_roles(("vanilla",), baselines=("magic",))
    with pytest.raises(UsageError, match="can not be ours and a baseline"):
        assign_roles(("vanilla",), baselines=("vanilla",), ours="vanilla")


def test_every_method_of_the_evaluation_has_a_name_and_a_role_in_tables() -> None:
    assert set(METHODS) <= set(KNOWN)
    roles = assign_roles(["fitted-router", "cultural-palette", "blend-own", "blend-uniform"])
    assert roles.ours == "cultural-palette"
    assert roles.of["fitted-router"] == "ours" and roles.of["blend-own"] == "control"


def test_cases_follow_their_rule(tmp_path: Path) -> None:
    run = load_evaluation(made_up_run(tmp_path / "run", questions=7, failing={"vanilla": 0.3}), MAP)
    roles = assign_roles(run.methods)
    found = choose_cases(run, roles, "jsdist_e", drawn=2, seed=1)
    assert [case.why for case in found] == ["best", "median", "worst", "by lot", "by lot"]
    means = sorted(np.nanmean(run.scores["jsdist_e"][2], axis=0), reverse=True)
    assert [case.mean_score for case in found[:3]] == pytest.approx([means[0], means[17], means[34]])
    assert found == choose_cases(run, roles, "jsdist_e", drawn=2, seed=1)
    lots = {
        tuple(c.item.id for c in choose_cases(run, roles, "jsdist_e", drawn=2, seed=s)[3:]) for s in range(6)
    }
    assert len(lots) > 1
    for case in found:
        assert case.ours.row["item"] == case.item.id and case.ours.status == "ok"
        assert [other.method for other in case.others] == ["vanilla", "prompting", "without-draft"]
        assert all((other.scores == {}) == (other.status != "ok") for other in case.others)


def test_the_calibration_by_hand(tmp_path: Path) -> None:
    run = load_evaluation(made_up_run(tmp_path / "run", {"vanilla": 1.0}, questions=8, runs=1), MAP)
    sure = calibrate(run, "vanilla")  # the survey's own shares: every bin lies on the diagonal
    assert sure.error == pytest.approx(0, abs=1e-9)
    assert sure.options == sum(len(item.options) for item in run.items) == sum(b.count for b in sure.bins)
    run.predicted[:] = 0
    run.predicted[..., 0] = 1  # all mass on the first option, which has g: |1 - mean g|, and mean of the rest
    firsts = [item.gold[0] for item in run.items]
    others = [p for item in run.items for p in item.gold[1:]]
    found = calibrate(run, "vanilla")
    by_hand = (sum(1 - g for g in firsts) + sum(others)) / (len(firsts) + len(others))
    assert found.error == pytest.approx(by_hand)
    assert [b.count for b in found.bins if b.count] == [len(others), len(firsts)]


def test_the_papers_numbers_are_whole() -> None:
    rows = paper_rows()
    assert len(rows) == 18 and {len(row.by_country) for row in rows} == {18}
    for row in rows:  # the print's averages are the means of its cells
        assert sum(row.by_country.values()) / 18 == pytest.approx(row.average, abs=0.0051)
    by_name = {(row.base_model, row.method): row for row in rows}
    repeated = by_name["Qwen2.5-7B-Instruct", "joint"].by_country
    assert repeated == by_name["Llama-3.1-8B-Instruct", "prompting"].by_country  # the known slip
    assert by_name["Llama-3.1-8B-Instruct", "cultural-palette"].average == 75.9
    assert len(quoted_values()) == 8


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("openai:Qwen/Qwen2.5-7B-Instruct@http://127.0.0.1:8000/v1", "Qwen2.5-7B-Instruct"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"),
        ("Llama3.1-8B-Instruct", "Llama-3.1-8B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", None),
        ("Qwen/Qwen2.5-7B", None),
        ("embedded:nano/base", None),
    ],
)
def test_the_same_base_model_only(name: str, base: str | None) -> None:
    assert same_base(name) == base


def test_when_the_paper_is_shown() -> None:
    assert paper_blocks("embedded:nano/base", "auto") == () == paper_blocks("Qwen2.5-7B-Instruct", "never")
    assert [b.same_base for b in paper_blocks("embedded:nano/base", "always")] == [False, False]
    (own,) = paper_blocks("Qwen2.5-7B-Instruct", "auto")
    assert own.same_base and any("repeats" in slip for slip in own.slips)


def test_the_right_country_by_hand(tmp_path: Path) -> None:
    run = load_evaluation(
        made_up_run(tmp_path / "run", {"vanilla": 0.5, "prompting": 0.5}, countries=("KEN", "USA", "CHN"),
                    questions=7, runs=1),
        MAP,
    )  # fmt: skip
    run.predicted[0] = run.predicted[0, 0, 0]  # vanilla: one prediction for everybody
    found = Analyst(run, assign_roles(run.methods), QUICK)
    blind = found.discrimination.gains["jsdist_e"][0]
    assert set(blind[~np.isnan(blind)].tolist()) == {0.0}  # exactly
    assert found.discrimination.rank(0) == 0
    for place, item in enumerate(run.items):
        gold = Distribution.from_counts(item.gold)
        scores = {
            k: alignments(gold, Distribution(tuple(run.predicted[1, 0, k, : len(item.options)])))["jsd_2"]
            for k, other in enumerate(run.items)
            if other.question_id == item.question_id
        }
        right = scores.pop(place)
        by_hand = right - sum(scores.values()) / len(scores)
        assert found.discrimination.gains["jsd_2"][1, 0, place] == pytest.approx(by_hand)


def test_a_method_that_knows_the_country_gains_by_it(tmp_path: Path) -> None:
    run = load_evaluation(made_up_run(tmp_path / "run", {"vanilla": 0.0, "cultural-palette": 0.9}), MAP)
    found = analysed(run)
    knows, guesses = found.of("cultural-palette"), found.of("vanilla")
    assert knows.discrimination is not None and guesses.discrimination is not None
    assert knows.discrimination.low is not None and knows.discrimination.low > 3
    assert guesses.discrimination.low is not None and guesses.discrimination.high is not None
    assert guesses.discrimination.low < 0 < guesses.discrimination.high
    assert knows.rank is not None and guesses.rank is not None and knows.rank > 0.5 > guesses.rank


def test_ours_is_compared_with_what_was_planned(tmp_path: Path) -> None:
    skill = {"vanilla": 0.2, "cultural-palette": 0.8, "without-draft": 0.5, "self-blend": 0.8,
             "single-draft:asia": 0.3, "best-single-draft": 0.5}  # fmt: skip
    found = analysed(load_evaluation(made_up_run(tmp_path / "run", skill), MAP))
    assert list(found.scores.planned) == ["without-draft", "best-single-draft", "self-blend"]
    assert {test.family for test in found.scores.planned.values()} == {3}
    assert found.scores.planned["without-draft"].better and not found.scores.planned["self-blend"].better
    # ours minus theirs
    by_hand = found.of("cultural-palette").average, found.of("without-draft").average
    assert by_hand[0] is not None and by_hand[1] is not None
    difference = found.scores.planned["without-draft"].comparison.difference.mean
    assert difference == pytest.approx(by_hand[0].mean - by_hand[1].mean)


def test_questions_of_one_battery_are_one_cluster(tmp_path: Path) -> None:
    path = made_up_run(tmp_path / "run", questions=20, runs=1)
    lines = [json.loads(line) for line in (path / "rows.jsonl").read_text().splitlines()]
    for row in lines:
        row["battery"] = f"b{int(row['question_id'][1:]) // 4}"
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    found = analysed(load_evaluation(path, MAP)).of("vanilla")
    assert found.average is not None
    assert (found.average.n, found.average.clusters) == (100, 5)
    assert found.average.low is None  # of five batteries nothing can be said


def test_with_few_batteries_no_verdict_is_given(tmp_path: Path) -> None:
    skill = {"vanilla": 0.0, "cultural-palette": 1.0}
    found = analysed(load_evaluation(made_up_run(tmp_path / "few", skill, questions=5), MAP))
    test = found.scores.against_baseline["cultural-palette"]
    assert (test.smallest_p, test.can_tell, test.detectable, test.ends) == (2 / 2**5, False, None, None)
    assert not test.better and not test.worse
    told = analysed(load_evaluation(made_up_run(tmp_path / "more", skill, questions=9), MAP))
    assert told.scores.against_baseline["cultural-palette"].better


@pytest.mark.parametrize("seed", range(4))
def test_a_verdict_and_its_interval_never_contradict_each_other(tmp_path: Path, seed: int) -> None:
    skill = {"vanilla": 0.30, "prompting": 0.35, "moe": 0.4, "cultural-palette": 0.45, "self-blend": 0.42,
             "without-draft": 0.36}  # fmt: skip
    run = load_evaluation(made_up_run(tmp_path / "run", skill, questions=7 + seed, seed=seed), MAP)
    found = analysed(run)
    tests = [
        *found.scores.against_baseline.values(),
        *found.scores.against_floor.values(),
        *found.scores.planned.values(),
    ]
    assert tests
    for test in tests:
        assert test.ends is not None or not (test.better or test.worse)
        if test.ends is not None:
            low, high = test.ends
            assert (low <= 0 <= high) == (not test.better and not test.worse)
            assert low <= test.comparison.difference.mean <= high


def test_an_average_and_its_runs_are_over_the_same_items(tmp_path: Path) -> None:
    run = load_evaluation(made_up_run(tmp_path / "run", questions=12, failing={"vanilla": 0.3}), MAP)
    found = analysed(run).of("vanilla")
    assert found.average is not None and found.partly > 0
    assert found.average.mean == pytest.approx(np.mean(found.runs))
    assert found.average.n == found.answered == int((run.status[0] == OK).all(axis=0).sum())


def test_among_ones_own_methods_the_best_is_followed() -> None:
    names = ("mine:a", "mine:b", "mine:c")
    assert assign_roles(names, averages={"mine:a": 60, "mine:b": 70}).ours == "mine:b"
    assert assign_roles((*names, "vanilla"), averages={"mine:a": 60, "vanilla": 80}).ours == "mine:a"
    assert assign_roles(("cultural-palette", *names), averages={"mine:a": 99}).ours == "cultural-palette"


def test_peers_scores_by_hand(tmp_path: Path) -> None:
    run = load_evaluation(
        made_up_run(tmp_path / "run", {"vanilla": 0.5}, countries=("KEN", "USA"), questions=3, runs=1), MAP
    )
    run.predicted[:] = 0
    run.predicted[..., 0] = 1  # always the first option
    run.status[0, 0, 0] = UNREADABLE
    found = modular_pluralism(run, "vanilla")
    assert found is not None and (found.rows, found.uniform) == (6, 1)
    by_hand = []
    for place, item in enumerate(run.items):
        size = len(item.options)
        guess = Distribution.uniform(size) if place == 0 else Distribution((1.0,) + (0.0,) * (size - 1))
        by_hand.append(Distribution.from_counts(item.gold).js_distance(guess, math.e))
    assert found.distance == pytest.approx(sum(by_hand) / 6)
    # a country: 1 - sqrt(sum of squared steps from the survey's option / sum of the most steps squared)
    scores = {}
    for code in ("USA", "KEN"):
        own = [item for place, item in enumerate(run.items) if item.country == code and place != 0]
        steps = sum(int(np.argmax(item.gold)) ** 2 for item in own)
        scores[code] = 100 * (1 - math.sqrt(steps / sum((len(item.options) - 1) ** 2 for item in own)))
    assert culturespa(run, "vanilla") == pytest.approx(sum(scores.values()) / 2)
