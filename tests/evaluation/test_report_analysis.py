"""What a report says of runs whose effects are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cultural_palette.cultural_map import load_map
from cultural_palette.errors import UsageError
from cultural_palette.evaluation.report.analysis import AVERAGE, Analysis, Analyst, Settings, outcomes
from cultural_palette.evaluation.report.calibration import calibrate
from cultural_palette.evaluation.report.cases import choose_cases, failures
from cultural_palette.evaluation.report.load import OK, Evaluation, load_evaluation
from cultural_palette.evaluation.report.paper import paper_blocks, paper_rows, quoted_values, same_base
from cultural_palette.evaluation.report.roles import assign_roles
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
    assert set(found.against_baseline) == set(skill) - {"prompting"}
    assert found.against_baseline["cultural-palette"].better
    assert found.against_baseline["vanilla"].worse
    assert not found.against_baseline["without-draft"].better
    assert not found.against_baseline["without-draft"].worse
    assert found.best_floor is not None and not found.best_floor.floor.reference
    assert found.against_floor["cultural-palette"].better and found.against_floor["vanilla"].worse


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
    assert found.of("vanilla").average is None and "vanilla" not in found.against_floor
    half = outcomes(run, "prompting")
    assert half.ok + half.unreadable + half.failed == 60 and half.ok < 60
    pairs = found.against_baseline["cultural-palette"].comparison
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
