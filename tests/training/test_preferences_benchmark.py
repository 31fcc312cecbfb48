"""`benchmarks/preferences.py`: whose answers stand where, and what is read off them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
from benchmarks.preferences import _alike, _in_order, _measures

from cultural_palette.cultural_map import load_map
from cultural_palette.training.cultural_distance import hofstede_distances
from cultural_palette.training.preferences import weighed
from cultural_palette.training.small import build


def test_each_rejected_answer_has_the_weight_of_its_own_community() -> None:
    examples = build.worked()[:6]
    answers = {row["query_id"]: {key: f"as in {key}" for key in build.COMMUNITIES} for row in examples}
    distances = hofstede_distances(load_map("continents"))
    others = ["africa", "america", "europe", "oceania"]
    for number, row in enumerate(build.groups_of(examples, answers, 4)["asia"]):
        group = weighed(_in_order(row, others, number, "asia"), distances)
        assert group["chosen"] == "as in asia"
        assert group["rejected"] == [f"as in {key}" for key in others]
        assert others[group["weights"].index(max(group["weights"]))] == "oceania"  # by Hofstede
        assert "weights" not in _alike(group)


def test_measures_by_hand() -> None:
    """Odds of 1/2 are 1, of 1/4 a third, of 3/4 three: margins log 3 and -log 3."""
    logs = {"half": -0.693147, "quarter": -1.386294, "three quarters": -0.287682}
    own_nll, right, margin, far = _measures(
        [logs["half"], logs["quarter"], logs["three quarters"]], [0.5, 1.5]
    )
    assert (own_nll, right) == (pytest.approx(0.693147), 50)
    assert margin == pytest.approx(0, abs=1e-5) and far == pytest.approx(-1.098612, abs=1e-5)
