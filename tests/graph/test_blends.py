"""The blend of a palette's MoErges: by its routers, fixed, or all on the country's own community; on nano."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import cultural_palette as cp

QUESTION, OPTIONS = (
    "Which matters more to people: freedom or equality?",
    ["Freedom", "Equality", "Don't know"],
)
KEYS = ("africa", "america", "asia", "europe", "oceania")


def blend(country: str = "NZL", **more) -> dict[str, float]:
    answer = cp.ask(country, QUESTION, options=OPTIONS, variant="without-draft", max_tokens=8, **more)
    assert answer.blend is not None and answer.distribution is not None
    assert sum(answer.distribution.values()) == pytest.approx(1)
    return dict(answer.blend)


@pytest.mark.parametrize(
    ("chosen", "weights"),
    [
        ("uniform", dict.fromkeys(KEYS, 0.2)),
        ("africa=0.2, oceania=0.8", {**dict.fromkeys(KEYS, 0), "africa": 0.2, "oceania": 0.8}),
        ("own", {**dict.fromkeys(KEYS, 0), "oceania": 1}),
    ],
)
def test_a_fixed_blend_is_what_was_chosen(chosen: str, weights: dict[str, float]) -> None:
    assert blend(blend=chosen) == pytest.approx(weights, abs=1e-6)


def test_the_paper_router_is_one_of_them_and_looks_at_the_prompt() -> None:
    paper = blend(blend="paper")
    assert sum(paper.values()) == pytest.approx(1) and len(set(paper.values())) == 5
    assert blend("KEN", blend="paper") != paper


def test_the_paper_s_rows_answer_as_nano_did_before_it_had_others() -> None:
    """Against an answer of the engine that held the mixture written out and, beside it, the base with PEFT,
    when nano had no rows but these.
    """
    before = json.loads(Path(__file__).with_name("nano_before_one_base.json").read_text(encoding="utf-8"))
    answer = cp.ask(before["country"], before["query"], options=before["options"], blend="paper")
    assert {key: draft.text for key, draft in answer.drafts.items()} == before["drafts"]
    assert (answer.account, answer.answer) == (before["regulated"], before["answer"])
    assert answer.distribution == pytest.approx(before["distribution"], abs=1e-5)
    assert answer.blend == pytest.approx(before["blend"], abs=1e-5)


def test_nano_goes_by_its_fitted_rows() -> None:
    """Which lean to the country's own community, where the paper's lean to Asia."""
    assert blend("KEN") == blend("KEN", blend="fitted")
    own = {"KEN": "africa", "NZL": "oceania", "DEU": "europe", "BRA": "america", "THA": "asia"}
    for country, community in own.items():
        found = blend(country)
        assert max(found, key=lambda key: found[key]) == community


def test_blends_as_methods() -> None:
    answer = cp.ask("KEN", QUESTION, options=OPTIONS, variant="blend-own", max_tokens=8, min_drafts=1)
    assert answer.blend == pytest.approx({**dict.fromkeys(KEYS, 0), "africa": 1}, abs=1e-6)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("africa=0.2", "sum to 0.2"),
        ("afrika=1", "names 'afrika'; the communities are africa"),
        ("africa=much", "can not be read at 'africa=much'"),
        ("nonsense", "No router 'nonsense'"),
        ("africa=-1,asia=2", "expected 0 to 1"),
        ("uniform]/../../elsewhere/meta[uniform", "can not be read"),  # another palette's folder
        ("uniform]@http://127.0.0.1:9/v1?", "can not be read"),  # another server
    ],
)
def test_a_blend_that_is_none_is_named(chosen: str, message: str) -> None:
    with pytest.raises(cp.PaletteError, match=message):
        blend(blend=chosen)


def test_a_model_without_communities_takes_no_blend() -> None:
    with pytest.raises(cp.PaletteError, match="is for a palette's MoErges"):
        cp.ask("KEN", QUESTION, model="openai:gpt@http://127.0.0.1:9/v1", blend="uniform")
