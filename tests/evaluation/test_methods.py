"""The table of methods: names, what lacks a model, methods of one's own, and what each asks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cultural_palette.distributions import Distribution
from cultural_palette.errors import MapError, SettingsError, UsageError
from cultural_palette.evaluation.methods import METHODS, Method, methods_named, predictor
from cultural_palette.evaluation.predictions import Prediction
from cultural_palette.graph.build import build_palette
from cultural_palette.graph.variants import BASELINES, BLENDS, RIVALS, VARIANTS
from cultural_palette.settings import get_settings, use_settings
from tests.evaluation.made_up import CONTINENTS, KEYS, SCRIPTED, survey

JOINT = {"joint": "openai:joint"}


def names(*wanted: str, others=None) -> list[str]:
    return [method.name for method in methods_named(wanted, CONTINENTS, others or {})[0]]


def test_every_graph_has_its_method_and_every_method_its_source():
    variants = {method.variant for method in METHODS.values() if method.variant}
    assert variants == {*VARIANTS, *BASELINES, *BLENDS, *RIVALS}
    assert all(method.source for method in METHODS.values())


def test_all_and_paper():
    singles = [f"single-draft:{key}" for key in KEYS]
    baselines = ["vanilla", "prompting", "joint", "moe"]
    modular = [f"modular-{mode}" for mode in ("overton", "steerable", "distributional")]
    ours = ["cultural-palette", "without-moerges", "without-draft", "without-self-regulation"]
    assert names("paper", others=JOINT) == [*baselines, *modular, *ours]
    assert names("all", others=JOINT) == [
        *baselines, *modular, *ours, "own-draft", *singles, "best-single-draft", "self-blend",
        "debate", "personas", "values-retrieval",
    ]  # fmt: skip


def test_what_lacks_a_model_is_left_out_with_the_reason_or_refused_by_name():
    chosen, left_out = methods_named(["all"], CONTINENTS, {})
    assert "joint" not in [method.name for method in chosen]
    assert left_out["joint"].startswith("needs a model of its own: --model-of joint=REF")
    with pytest.raises(SettingsError, match=r"Method 'joint' needs a model of its own: --model-of joint=REF"):
        names("joint")
    with pytest.raises(SettingsError, match=r"No method needs a model 'jiont'\. There are joint"):
        names("all", others={"jiont": "scripted:x"})


def test_blends_are_methods_where_the_meta_agent_is_a_palette_s_moerges():
    left_out = methods_named(["all"], CONTINENTS, JOINT)[1]
    needs = (
        "needs a palette's MoErges as the meta agent, in process: --model embedded:nano, or a palette "
        "folder. A served one blends as it was started, or in all methods by --blend."
    )
    assert left_out == dict.fromkeys(("fitted-router", "blend-uniform", "blend-own"), needs)
    with pytest.raises(SettingsError, match="Method 'fitted-router' needs a palette's MoErges"):
        names("fitted-router")
    paper, left_out = methods_named(["paper"], CONTINENTS, JOINT, blends=True)
    named = [method.name for method in paper]
    assert named.index("fitted-router") == named.index("cultural-palette") + 1
    assert not {"blend-uniform", "blend-own"} & {*named} and not left_out
    assert {"blend-uniform", "blend-own"} <= {
        method.name for method in methods_named(["all"], CONTINENTS, JOINT, blends=True)[0]
    }


async def test_the_paper_s_method_goes_by_the_paper_s_rows_whatever_the_palette_s_default(monkeypatch):
    """Unless the person says otherwise; `fitted-router` by the fitted ones all the same."""
    pytest.importorskip("torch")
    asked = []

    async def keep(self, question, *, context):
        asked.append(context.blend)
        raise LookupError

    for name, blend in (("cultural-palette", None), ("cultural-palette", "uniform"), ("vanilla", None)):
        (method,), _ = methods_named([name], CONTINENTS, {}, blends=True)
        with use_settings(get_settings(blend=blend)):
            ask = predictor(method, CONTINENTS, {})
            monkeypatch.setattr("langgraph.pregel.Pregel.ainvoke", keep)
            with pytest.raises((LookupError, TypeError)):
                await ask(survey().items[0])
            monkeypatch.undo()
    assert asked == ["paper", "uniform", None]


def test_unknown_names_say_what_there_is():
    with pytest.raises(UsageError, match=r"Unknown method 'vanila'. Did you mean 'vanilla'\?"):
        names("vanila")
    with pytest.raises(MapError, match="no community 'mars'"):
        names("single-draft:mars")
    assert names("vanilla", "vanilla") == ["vanilla"]


# -- what is asked. By part: one readout each, but for drafts and accounts.

ONCE = {
    "vanilla": ["base"],
    "prompting": ["base"],
    "joint": ["joint"],
    "modular-overton": [*KEYS, "base", "base"],
    "cultural-palette": [*KEYS, "meta", "meta"],
    "without-moerges": [*KEYS, "base", "base"],
    "without-draft": ["meta", "meta"],
    "without-self-regulation": [*KEYS, "meta"],
    "modular-distributional": [*KEYS, *["base"] * 5],
    "own-draft": ["africa", "base"],
    "single-draft:asia": ["asia", "base"],
    "self-blend": [*["base"] * 5, "meta", "meta"],
    "debate": ["base"] * 5,  # two openings, two answers, the judge
    "personas": ["base"] * 6,
    "values-retrieval": ["base"] * 2,
}


@pytest.mark.parametrize("name", ONCE)
async def test_who_is_asked(script, name):
    script.option_logprobs = [math.log(0.6), math.log(0.2)]
    others = {"joint": "scripted:joint"}
    (method,), _ = methods_named([name], CONTINENTS, others)
    (item, *_) = survey().items
    with use_settings(get_settings(models=SCRIPTED)):
        prediction = await predictor(method, CONTINENTS, others, survey())(item)
    assert sorted(part for part, _ in script.asked) == sorted(ONCE[name])
    assert prediction.distribution.probabilities == pytest.approx((0.75, 0.25))
    assert (prediction.answer, prediction.readout) == ("Yes", "exact")


async def test_steerable_chooses_a_comment_and_decides_by_it(script):
    script.replies = {"base": lambda messages: "B" if "fits the people" in messages[0].text else "A"}
    (method,), _ = methods_named(["modular-steerable"], CONTINENTS, {})
    (item, *_) = survey().items
    with use_settings(get_settings(models=SCRIPTED, readout_samples=2)):
        prediction = await predictor(method, CONTINENTS, {})(item)
    assert prediction.regulated == "America: america speaks."
    assert "Account: America: america speaks." in script.prompts_of("base")[-1]
    assert prediction.readout == "sampling" and prediction.distribution == Distribution((1.0, 0.0))


async def test_debaters_read_each_other_and_the_judge_reads_both(script):
    script.option_logprobs = [math.log(0.6), math.log(0.2)]
    script.replies["base"] = lambda messages: (
        "I stay." if "You said" in messages[1].text else "Yes, for rain."
    )
    (method,), _ = methods_named(["debate"], CONTINENTS, {})
    (item, *_) = survey().items
    with use_settings(get_settings(models=SCRIPTED)):
        prediction = await predictor(method, CONTINENTS, {})(item)
    assert prediction.drafts == {"first debater": "I stay.", "second debater": "I stay."}
    answered = [prompt for prompt in script.prompts_of("base") if "You said" in prompt]
    assert len(answered) == 2 and all("The other said: Yes, for rain." in prompt for prompt in answered)
    assert "first debater: I stay." in script.prompts_of("base")[-1]


async def test_retrieval_knows_other_batteries_of_the_country_and_never_the_items_own(script):
    script.option_logprobs = [math.log(0.6), math.log(0.2)]
    script.replies["base"] = "They value rain."
    (method,), _ = methods_named(["values-retrieval"], CONTINENTS, {})
    whole = survey(questions=3)
    item = next(i for i in whole.items if i.id == "q1/USA")
    with use_settings(get_settings(models=SCRIPTED)):
        prediction = await predictor(method, CONTINENTS, {}, whole)(item)
    retrieved, decided = script.prompts_of("base")
    # q0 in the United States: 1 yes and 2 no; q2: 3 and 2
    assert 'Asked: Is thing 0 good? 67 % said "No", 33 % said "Yes".' in retrieved
    assert 'Asked: Is thing 2 good? 60 % said "Yes", 40 % said "No".' in retrieved
    assert "Is thing 1 good? " not in retrieved.split("Country:")[0]
    assert prediction.regulated == "They value rain." and "Account: They value rain." in decided
    with use_settings(get_settings(models=SCRIPTED)), pytest.raises(UsageError, match="library of your own"):
        await predictor(method, CONTINENTS, {})(item)


# -- methods of one's own


async def always_yes(item):
    return Prediction(Distribution((1.0, 0.0)), answer=item.question.options[0])


def shouting():
    async def decide(state, runtime):
        return {"answer": "Yes", "distribution": {"Yes": 0.9, "No": 0.1}}

    return build_palette("continents", draft=None, memory=None, regulate=None, decide=decide)


NUMBER = 3


def no_graph():
    return 3


@pytest.mark.parametrize(("attribute", "shares"), [("always_yes", (1.0, 0.0)), ("shouting", (0.9, 0.1))])
async def test_a_method_of_ones_own(script, attribute, shares):
    (method,), _ = methods_named([f"{__name__}:{attribute}"], CONTINENTS, {})
    (item, *_) = survey().items
    with use_settings(get_settings(models=SCRIPTED)):
        prediction = await predictor(method, CONTINENTS, {})(item)
    assert prediction.distribution == Distribution(shares) and prediction.answer == "Yes"
    assert script.asked == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("no_such_module:x", "can not be loaded: No module named 'no_such_module'"),
        (f"{__name__}:missing", "can not be loaded: .* has no attribute 'missing'"),
        (f"{__name__}:NUMBER", "is a int: expected an async function"),
        (f"{__name__}:no_graph", "returned a int, no compiled graph"),
    ],
)
def test_a_path_that_leads_to_no_method(path, told):
    with pytest.raises(UsageError, match=told):
        predictor(Method(path, "x", path=path), CONTINENTS, {})


def test_the_page_knows_every_method(root: Path):
    page = (root / "docs/methods.md").read_text(encoding="utf-8")
    assert [name for name in METHODS if f"`{name}`" not in page] == []


async def test_the_pages_example_runs(script, root: Path, tmp_path: Path, monkeypatch):
    page = (root / "docs/methods.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "methods_of_mine.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    script.option_logprobs = [math.log(0.6), math.log(0.2)]
    script.replies["asia"] = "Asia has much more to say."
    (item, *_) = survey().items
    found = {}
    for name in ("coin", "longest_draft"):
        (method,), _ = methods_named([f"methods_of_mine:{name}"], CONTINENTS, {})
        with use_settings(get_settings(models=SCRIPTED)):
            found[name] = await predictor(method, CONTINENTS, {})(item)
    assert found["coin"].distribution == Distribution((0.5, 0.5))
    assert found["longest_draft"].regulated == "Asia has much more to say."
    assert "Account: Asia has much more to say." in script.prompts_of("meta")[-1]
