"""The run: rows, resume, shared calls, failures that stay where they belong, and one canonical file."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cultural_palette import models
from cultural_palette.artifacts import RunFolder
from cultural_palette.distributions import Distribution
from cultural_palette.errors import ArtifactError, SettingsError
from cultural_palette.evaluation.best_single import best_single_rows, halves
from cultural_palette.evaluation.methods import orders_shown
from cultural_palette.evaluation.plan import Plan
from cultural_palette.evaluation.predictions import BY_THE_CLOCK, Prediction, key_of, row_of
from cultural_palette.evaluation.progress import Progress
from cultural_palette.evaluation.report.tables import settings_text
from cultural_palette.evaluation.run import evaluate
from cultural_palette.models import Blend
from tests.evaluation.made_up import KEYS, plan, survey
from tests.scripted import ScriptedModel, scripted_provider

SHARES = [math.log(0.6), math.log(0.2)]
# Contract with the report: these, and what `calls` counts.
FIELDS = [
    "method", "run", "item", "question_id", "battery", "survey", "country", "question",
    "options", "ordered", "topic", "population", "respondents", "labelled",
    "gold", "status", "error", "predicted", "answer", "option_mass", "readout", "orders",
    "order_spread", "blend", "stages", "degraded", "usage", "seconds",
    "calls",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _reading(script):
    script.option_logprobs = SHARES


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def sayings(rows) -> list[dict]:
    """Rows without what the clock says, in one order."""
    shown = [{k: v for k, v in row.items() if k not in BY_THE_CLOCK} for row in rows]
    return sorted(shown, key=key_of)


def evaluated(the_plan, folder: Path, **more):
    return asyncio.run(evaluate(the_plan, folder, quiet=True, **more))


def test_rows_and_manifest(script, tmp_path):
    script.blend = Blend(dict.fromkeys(KEYS, 0.2), (dict.fromkeys(KEYS, 0.2),))
    manifest = evaluated(plan("vanilla", "cultural-palette", runs=2, seed=5), tmp_path)
    assert manifest["kind"] == "survey-evaluation"
    assert (manifest["runs"], manifest["seed"], manifest["items"]) == (2, 5, 4)
    assert manifest["countries"] == ["KEN", "USA"] and manifest["models"]["meta"] == "scripted:meta"
    assert manifest["outcomes"]["vanilla"] == {"ok": 8, "unreadable": 0, "failed": 0}
    assert manifest["survey"]["name"] == "made-up" and manifest["left_out"] == {}
    assert "api_key" not in json.dumps(manifest)
    rows = list(RunFolder(tmp_path).rows())
    assert len(rows) == 16 and all(list(row) == FIELDS for row in rows)
    row = next(row for row in rows if row["method"] == "cultural-palette")
    assert row["item"] == f"{row['question_id']}/{row['country']}"
    assert row["predicted"] == pytest.approx([0.75, 0.25]) and row["readout"] == "exact"
    assert row["stages"] == {
        "drafts": {key: f"{key} speaks." for key in KEYS},
        "regulated": "meta speaks.",
    }
    assert row["blend"] == dict.fromkeys(KEYS, 0.2)
    assert next(row for row in rows if row["method"] == "vanilla")["stages"] is None
    floors = json.loads((tmp_path / "floors.json").read_text())
    assert set(floors["uniform"]["per_item"]) == {item.id for item in survey().items}


def test_what_methods_share_is_asked_once(script, tmp_path):
    names = ("cultural-palette", "without-moerges", "modular-distributional", "without-self-regulation")
    manifest = evaluated(plan(*names), tmp_path)
    drafted = Counter(part for part, _ in script.asked if part in KEYS)
    assert drafted == Counter(dict.fromkeys(KEYS, 4))  # 4 items, once each
    # an item: 7 + 7 + 10 + 6 needed; 5 drafts, and 2 + 2 + 5 + 1 of their own
    assert manifest["calls"]["needed"] == 4 * 30
    assert manifest["calls"]["asked"] == 4 * 15
    assert manifest["calls"]["saved"] == 4 * 15
    assert manifest["calls"]["by_kind"]["reply"] == {"needed": 4 * 22, "asked": 4 * 7, "saved": 4 * 15}


def test_options_are_read_in_two_orders_unless_one_is_asked_for(script, tmp_path):
    # the first letter always gets 0.6 of 0.8: a liking for A, which two orders average to even
    manifest = evaluated(plan("vanilla", "prompting", orders=2), tmp_path / "two")
    assert manifest["settings"]["permutations"] == 2
    rows = rows_of(tmp_path / "two")
    assert all(row["predicted"] == pytest.approx([0.5, 0.5]) for row in rows)
    assert {row["orders"] for row in rows} == {2}
    assert {round(row["order_spread"], 6) for row in rows} == {0.25}  # 0.75 and 0.25 around 0.5
    evaluated(plan("vanilla", "prompting"), tmp_path / "one")
    assert all(row["predicted"] == pytest.approx([0.75, 0.25]) for row in rows_of(tmp_path / "one"))
    assert Plan.__dataclass_fields__["orders"].default == 2


def test_a_scale_is_never_shuffled():
    assert (orders_shown(6, True), orders_shown(6, None), orders_shown(6, False)) == (2, 6, 6)
    assert orders_shown(1, True) == 1


def test_a_finished_run_is_returned_as_it_is(script, tmp_path):
    first = evaluated(plan("vanilla"), tmp_path)
    script.asked.clear()
    assert evaluated(plan("vanilla"), tmp_path) == first and script.asked == []
    with pytest.raises(ArtifactError, match="begun with another config: methods"):
        evaluated(plan("prompting"), tmp_path)


def test_another_run_shares_the_calls_folder(script, tmp_path):
    evaluated(plan("cultural-palette"), tmp_path / "one", calls=tmp_path / "calls")
    script.asked.clear()
    manifest = evaluated(plan("cultural-palette", "vanilla"), tmp_path / "two", calls=tmp_path / "calls")
    assert {part for part, _ in script.asked} == {"base"}
    assert manifest["calls"]["asked"] == 2  # the bare question is the same in both countries
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert sayings(row for row in two if row["method"] == "cultural-palette") == sayings(one)


def test_replies_are_decoded_alone_unless_they_are_to_share_batches(script, tmp_path, monkeypatch):
    alone: list[bool] = []
    reply = ScriptedModel.reply

    async def noted(self, *messages, **more):
        alone.append(more["alone"])
        return await reply(self, *messages, **more)

    monkeypatch.setattr(ScriptedModel, "reply", noted)
    each = plan("own-draft")
    evaluated(each, tmp_path / "alone", calls=tmp_path / "calls")
    assert alone and all(alone)
    alone.clear()
    manifest = evaluated(replace(each, together=True), tmp_path / "together", calls=tmp_path / "calls")
    assert alone and not any(alone), "kept apart from those decoded alone"
    assert "replies decoded together" in settings_text(manifest)
    with pytest.raises(ArtifactError, match="together"):
        evaluated(each, tmp_path / "together")


def test_a_stopped_run_goes_on_and_writes_the_same_predictions(script, tmp_path):
    whole = plan("cultural-palette", "modular-overton", "best-single-draft", runs=2)
    undisturbed = evaluated(whole, tmp_path / "whole")
    rows = (tmp_path / "whole/rows.jsonl").read_bytes().splitlines(keepends=True)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for name in ("config.json",):
        (stopped / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    (stopped / "rows.jsonl").write_bytes(b"".join(rows[:20]) + rows[20][:30])  # the last row cut short
    manifest = evaluated(whole, stopped)
    assert sayings(rows_of(stopped)) == sayings(rows_of(tmp_path / "whole"))
    assert manifest["predictions_sha256"] == undisturbed["predictions_sha256"]
    assert manifest["outcomes"] == undisturbed["outcomes"]
    assert len(list(RunFolder(stopped).rows())) == len(rows)


@pytest.mark.parametrize("shared", [False, True], ids=["its own calls", "shared calls"])
@pytest.mark.parametrize("lost", [1, 7, 24])
def test_calls_of_lost_rows_count_as_asked(script, tmp_path, shared, lost):
    """A kill takes rows whose calls are in the store: the resumed run tells of these too."""
    calls = {"calls": tmp_path / "calls"} if shared else {}
    whole = plan("cultural-palette", "modular-overton")
    if shared:
        evaluated(plan("vanilla"), tmp_path / "other", **calls)
    undisturbed = evaluated(whole, tmp_path / "run", **calls)
    rows = (tmp_path / "run/rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run/rows.jsonl").write_bytes(b"".join(rows[:-lost]))
    (tmp_path / "run/manifest.json").unlink()
    assert evaluated(whole, tmp_path / "run", **calls)["calls"] == undisturbed["calls"]


def test_each_run_has_a_seed_of_its_own(script, tmp_path, monkeypatch):
    seeds = Counter()

    class Counted(ScriptedModel):
        async def reply(self, messages, sampling, **more):
            if self.ref.name in KEYS:
                seeds[sampling.seed] += 1
                assert sampling.temperature == 0.3
            return await super().reply(messages, sampling, **more)

    monkeypatch.setitem(models.PROVIDERS, "scripted", scripted_provider(script, Counted))
    evaluated(plan("cultural-palette", runs=3, seed=10), tmp_path)
    assert seeds == {10: 20, 11: 20, 12: 20}  # 4 items of 5 drafts


# -- what goes wrong


async def half_broken(item):
    if item.country == "USA":
        raise KeyError("no such thing")
    return Prediction(Distribution((0.5, 0.5)))


async def speechless(item):
    return Prediction(None, degraded=("It said nothing.",))


def test_a_method_that_fails_on_half_its_items_disturbs_nobody(script, tmp_path):
    own = f"{__name__}:half_broken"
    manifest = evaluated(plan("vanilla", own), tmp_path)
    assert manifest["outcomes"] == {
        "vanilla": {"ok": 4, "unreadable": 0, "failed": 0},
        own: {"ok": 2, "unreadable": 0, "failed": 2},
    }
    failed = [row for row in rows_of(tmp_path) if row["status"] == "failed"]
    assert {row["country"] for row in failed} == {"USA"}
    assert failed[0]["error"] == "KeyError: 'no such thing'" and failed[0]["predicted"] is None


def test_a_lost_model_fails_its_methods_only_and_can_be_asked_again(script, tmp_path):
    script.replies["meta"] = RuntimeError("down")
    manifest = evaluated(plan("vanilla", "cultural-palette"), tmp_path)
    assert manifest["outcomes"]["cultural-palette"]["failed"] == 4
    assert manifest["outcomes"]["vanilla"]["ok"] == 4
    del script.replies["meta"]
    script.asked.clear()
    manifest = evaluated(plan("vanilla", "cultural-palette"), tmp_path, retry_failed=True)
    assert manifest["outcomes"]["cultural-palette"] == {"ok": 4, "unreadable": 0, "failed": 0}
    assert {part for part, _ in script.asked} == {"meta"}  # the drafts were kept
    assert len(rows_of(tmp_path)) == 8


def test_an_unreadable_answer_is_counted_as_such(script, tmp_path):
    own = f"{__name__}:speechless"
    manifest = evaluated(plan(own), tmp_path)
    assert manifest["outcomes"][own] == {"ok": 0, "unreadable": 4, "failed": 0}
    assert rows_of(tmp_path)[0]["degraded"] == ["It said nothing."]


def test_a_fault_of_our_own_graph_is_no_row(script, tmp_path, monkeypatch):
    async def broken(*_, **__):
        raise TypeError("a bug")

    monkeypatch.setattr("cultural_palette.nodes.answer.choose", broken)
    with pytest.raises(TypeError, match="a bug"):
        evaluated(plan("vanilla"), tmp_path)


def test_wrong_settings_end_the_run(script, tmp_path):
    with pytest.raises(SettingsError, match="Unknown part 'afrika'"):
        evaluated(plan("vanilla", models={"afrika": "scripted:x"}), tmp_path)
    with pytest.raises(SettingsError, match="0 runs"):
        plan("vanilla", runs=0)


# -- the best single draft, cross-fitted


def single(community: str, item, yes: float) -> dict:
    return row_of(f"single-draft:{community}", 0, item, Prediction(Distribution((yes, 1 - yes))))


def test_the_best_single_draft_is_chosen_on_the_other_half():
    items = {item.id: item for item in survey(questions=2, countries=("KEN",)).items}
    one, two = items.values()
    assert sorted(halves(["b0", "b1"]).values()) == [0, 1]
    # question 0: gold (1/2, 1/2); question 1: gold (2/3, 1/3). asia is right on question 0, europe on 1.
    rows = [
        single("asia", one, 0.5), single("europe", one, 0.9),
        single("asia", two, 0.1), single("europe", two, 2 / 3),
    ]  # fmt: skip
    chosen = {row["item"]: row for row in best_single_rows(rows, items, 0)}
    assert chosen[one.id]["predicted"][0] == 0.9  # europe was best on the other question
    assert chosen[two.id]["predicted"][0] == 0.1  # asia was
    assert {row["method"] for row in chosen.values()} == {"best-single-draft"}


def test_with_one_battery_no_best_can_be_chosen():
    items = {item.id: item for item in survey(questions=1, countries=("KEN",)).items}
    (item,) = items.values()
    (row,) = best_single_rows([single("asia", item, 0.5)], items, 0)
    assert row["status"] == "failed" and "no question of another battery" in row["error"]


def test_progress_tells_what_is_left(capsys):
    progress = Progress(10, 2)
    progress.advance("ok")
    progress.advance("failed")
    # 2 rows in 4 s, 6 to go: 12 s
    assert progress.line(progress._started + 4) == "4 of 10 rows (40%), 1 failed, 0 min 12 s left"
    assert Progress(10, 10).line(0) == "10 of 10 rows (100%), no pace yet"


@pytest.mark.parametrize(
    ("ref", "wait_s"), [("embedded:nano/{part}", 3600.0), ("openai:{part}@http://127.0.0.1:9/v1", 600.0)]
)
def test_a_run_waits_longer_for_a_queue_of_its_own_process_than_for_a_server(ref: str, wait_s: float) -> None:
    parts = (*KEYS, "meta", "base")
    wanted = plan("vanilla", models={part: ref.format(part=part) for part in parts}, draft_timeout_s=5)
    settings = wanted.settings_of(0)
    assert (settings.draft_timeout_s, settings.request_timeout_s) == (wait_s, wait_s)
    assert wanted.settings.draft_timeout_s == 5
