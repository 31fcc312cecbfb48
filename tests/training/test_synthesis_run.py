"""The run against a server with every fault a real one has: nothing asked twice, nothing lost, nothing kept
that failed.
"""

from __future__ import annotations

import errno
import json
import os
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cultural_palette.artifacts import RunFolder
from cultural_palette.calls import Call, CallStore
from cultural_palette.cultural_map import load_map
from cultural_palette.errors import ArtifactError
from cultural_palette.models import ModelRef
from cultural_palette.nodes.synthesis.state import SynthesisContext
from cultural_palette.training.queries import Queries, Query, Source
from cultural_palette.training.synthesis.prices import Price
from cultural_palette.training.synthesis.run import Outcome, SynthesisSpec, missing
from cultural_palette.training.synthesis.session import Sitting
from cultural_palette.training.synthesis.sitting import preview, sit
from cultural_palette.training.synthesis.teacher import KIND
from cultural_palette.training.synthesis.teacher_servers import TeacherLost
from tests.fake_server import FakeServer, serve

CONTINENTS = load_map("continents")
GOOD = "People greet one another with care and take their time."
PASSED = '{"passed": true, "findings": []}'
ROW = {
    "query_id", "query", "community", "status", "response", "steps", "rounds", "validation", "teacher",
    "prompts", "usage", "error", "source",
}  # fmt: skip


@pytest.fixture
def server() -> Any:
    with serve() as fake:
        fake.models = ("teacher",)
        fake.replies["teacher"] = honest
        yield fake


def honest(body: dict[str, Any]) -> str:
    return PASSED if is_validation(body) else GOOD


def is_validation(body: dict[str, Any]) -> bool:
    return '"passed"' in body["messages"][0]["content"]


class Faults(dict):
    """The fault of each request in turn, then none."""

    def __init__(self, *faults: str) -> None:
        super().__init__()
        self.left = list(faults)

    def get(self, key: str, default: Any = None) -> str:
        return self.left.pop(0) if self.left and key != "*" else ""


def spec(number: int = 3, limit: int | None = None, **context: Any) -> SynthesisSpec:
    items = tuple(
        Query(
            f"q{n}",
            f"Is question {n} asked here?",
            Source("made up", birth_country="KEN", community="africa"),
        )
        for n in range(number)
    )
    queries = Queries(items, {"dataset": "made up", "sha256": "0"}, {"kept": number, "unreadable": 0})
    context = {"timeout_s": 5.0, **context}
    return SynthesisSpec(
        queries, CONTINENTS, ModelRef("openai", "teacher"), SynthesisContext(**context), limit
    )


def run(
    out: Path,
    server: FakeServer | None,
    given_spec: SynthesisSpec | None = None,
    answering: Any = None,
    **sitting: Any,
) -> Outcome:
    options = {"concurrency": 8, "retries": 2, "first_pause_s": 0.01, **sitting}
    how = Sitting(urls=options.pop("urls", (server.url,) if server else ()), answering=answering, **options)
    return sit(given_spec or spec(), out, how, lambda tally, ledger: None, lambda text: None)


def rows_of(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = list(RunFolder(out).rows())
    keyed = {(row["query_id"], row["community"]): row for row in rows}
    assert len(keyed) == len(rows), "a row stands twice"
    return keyed


def asked(server: FakeServer) -> Counter[str]:
    return Counter(json.dumps(body, sort_keys=True) for body in server.requests)


def test_a_whole_run(tmp_path, server):
    outcome = run(tmp_path / "x", server)
    assert outcome.finished
    rows = rows_of(tmp_path / "x")
    assert len(rows) == 15 and all(set(row) == ROW for row in rows.values())
    row = rows["q1", "asia"]
    assert (row["status"], row["response"], row["rounds"], row["error"]) == ("ok", GOOD, 1, None)
    assert row["teacher"] == "openai:teacher"  # never its address
    assert row["steps"] == {"respond": GOOD, "feedback": GOOD, "aggregate": GOOD}
    assert row["source"]["birth_country"] == "KEN" and row["source"]["community"] == "africa"
    assert set(row["prompts"]) == {"respond", "feedback", "aggregate", "validate"}
    assert all(len(digest) == 16 for digest in row["prompts"].values())
    assert len(server.requests) == 60 and max(asked(server).values()) == 1

    manifest = RunFolder(tmp_path / "x").manifest
    assert manifest["counts"]["ok"] == 15 and manifest["counts"]["by_community"]["asia"] == {"ok": 3}
    assert manifest["tokens"]["input"] == sum(row["usage"]["input_tokens"] for row in rows.values())
    assert manifest["cost_usd"] is None and manifest["validation"] == "teacher"
    assert manifest["map"]["key"] == "continents" and manifest["teacher"] == "openai:teacher"


def test_a_finished_run_is_not_begun_again(tmp_path, server):
    run(tmp_path / "x", server)
    before = len(server.requests)
    with pytest.raises(ArtifactError, match=r"is finished"):
        run(tmp_path / "x", server)
    assert len(server.requests) == before


def test_an_interrupted_run_goes_on_without_a_second_call(tmp_path, server):
    """Stopped after some calls, at any place: the next sitting asks only what is missing."""
    undisturbed = run(tmp_path / "whole", server)
    whole = rows_of(tmp_path / "whole")
    for stop_after in (1, 7, 31, 59):
        server.requests.clear()
        out = tmp_path / f"stopped-{stop_after}"
        count = 0

        def says(body: dict[str, Any], stop_after: int = stop_after) -> str:
            nonlocal count
            count += 1
            if count == stop_after:
                server.faults["teacher"] = "401"  # from the next request on nothing works
            return honest(body)

        server.replies["teacher"] = says
        with pytest.raises(TeacherLost, match="refused the key"):
            run(out, server, concurrency=1)
        assert not RunFolder(out).finished
        served = count
        server.faults.clear()
        server.replies["teacher"] = honest
        server.requests.clear()
        assert run(out, server).finished
        assert len(server.requests) == 60 - served
        assert rows_of(out) == whole
    assert undisturbed.finished


def test_replies_that_can_not_be_used_are_never_kept_as_ok(tmp_path, server):
    """Empty, garbage, refusals, truncated JSON: rounds, then set aside with findings."""

    def says(body: dict[str, Any]) -> str:
        system, user = (message["content"] for message in body["messages"])
        if "Africa" in system[:60]:
            return ""
        if "Asia" in system[:60] and not is_validation(body):
            return "I'm sorry, but I can't help with that."
        if "Europe" in user + system[:120] and is_validation(body):
            return PASSED[:-3]
        return honest(body)

    server.replies["teacher"] = says
    outcome = run(tmp_path / "x", server, spec(1, max_rounds=2))
    assert outcome.finished
    rows = {key[1]: row for key, row in rows_of(tmp_path / "x").items()}
    kinds = {
        key: (row["status"], row["rounds"], [f["kind"] for f in row["validation"]["findings"]])
        for key, row in rows.items()
    }
    assert kinds["africa"] == kinds["asia"] == ("set_aside", 2, ["format"])
    assert "was empty" in rows["africa"]["validation"]["findings"][0]["detail"]
    assert "refuses" in rows["asia"]["validation"]["findings"][0]["detail"]
    assert kinds["europe"] == ("set_aside", 2, ["format"])
    assert "could not be read in 3 attempts" in rows["europe"]["validation"]["findings"][0]["detail"]
    assert kinds["oceania"] == ("ok", 1, [])
    assert max(asked(server).values()) == 1  # every attempt was another call
    assert RunFolder(tmp_path / "x").manifest["counts"]["set_aside"] == 3


def test_a_storm_of_429_is_waited_out(tmp_path, server):
    server.faults = Faults(*["429"] * 12, "500", "429")
    outcome = run(tmp_path / "x", server, retries=6)
    assert outcome.finished and outcome.tally.ok == 15
    assert len(server.requests) == 60 + 14


def test_hangs_and_garbage_are_asked_again_by_the_next_sitting(tmp_path, server, monkeypatch):
    monkeypatch.setattr("tests.fake_server.SLOW_S", 5.0)
    server.faults = Faults("slow", "html", "other json", "truncated", "500")
    outcome = run(tmp_path / "x", server, spec(2, timeout_s=0.2), retries=0)
    assert not outcome.finished and outcome.stopped is None
    tally = outcome.tally
    assert (tally.failed, tally.written) == (5, 5)
    told = " ".join(tally.errors)
    assert "no reply from" in told and "not JSON" in told and "broke off" in told and "HTTP 500" in told
    assert not RunFolder(tmp_path / "x").finished
    before = rows_of(tmp_path / "x")
    assert all(row["error"] is None for row in before.values())

    served = len(server.requests)
    assert run(tmp_path / "x", server, spec(2, timeout_s=0.2)).finished
    after = rows_of(tmp_path / "x")
    assert len(after) == 10 and before.items() <= after.items()
    assert len(server.requests) - served == 20  # the five that failed, from their first step on


def test_a_server_that_has_gone_ends_the_run_with_one_error(tmp_path):
    with serve() as fake:
        url = fake.url
    with pytest.raises(TeacherLost, match=r"calls failed in a row; the last: .*can not reach"):
        run(tmp_path / "x", fake, spec(40), urls=(url,), retries=0)
    assert rows_of(tmp_path / "x") == {}


@pytest.mark.parametrize(("fault", "why"), [("401", "refused the key"), ("404", "will not answer")])
def test_a_wrong_key_or_model_ends_the_run_and_hides_the_key(tmp_path, server, fault, why):
    if fault == "404":
        server.models = ("another",)
    else:
        server.faults["teacher"] = fault
    with pytest.raises(TeacherLost, match=why) as caught:
        run(tmp_path / "x", server, key="sk-secret")
    assert "sk-secret" not in str(caught.value)


def test_a_request_that_is_always_refused_is_set_aside(tmp_path, server, monkeypatch):
    original = FakeServer.complete

    async def complete(self, request):
        from aiohttp import web

        body = await request.json()
        if "speak for the cultures of Asia" in body["messages"][0]["content"]:
            return web.json_response({"error": {"message": "content policy"}}, status=400)
        return await original(self, request)

    monkeypatch.setattr(FakeServer, "complete", complete)
    with serve() as fake:
        fake.models, fake.replies["teacher"] = ("teacher",), honest
        outcome = run(tmp_path / "x", fake, spec(2))
    assert outcome.finished and (outcome.tally.ok, outcome.tally.set_aside) == (8, 2)
    assert "content policy" in rows_of(tmp_path / "x")["q0", "asia"]["error"]


def test_several_addresses_share_the_calls_and_their_replies(tmp_path, server):
    with serve() as second:
        second.models, second.replies["teacher"] = ("teacher",), honest
        assert run(tmp_path / "x", server, urls=(server.url, second.url)).finished
        shares = len(server.requests), len(second.requests)
        assert sum(shares) == 60 and min(shares) >= 20
        # the same calls, whoever serves them
        (tmp_path / "x" / "manifest.json").unlink()
        (tmp_path / "x" / "rows.jsonl").unlink()
        assert run(tmp_path / "x", server, urls=(second.url,)).finished
        assert (len(server.requests), len(second.requests)) == shares


def test_one_of_two_servers_down_is_worked_around(tmp_path, server):
    with serve() as gone:
        url = gone.url
    assert run(tmp_path / "x", server, urls=(url, server.url), retries=4).finished
    assert len(server.requests) == 60


def test_the_budget_stops_the_run_and_a_higher_one_goes_on(tmp_path, server):
    price = Price(1000.0, 1000.0, "made up")  # a thousandth of a dollar a token
    outcome = run(tmp_path / "x", server, price=price, budget=1.0, concurrency=2)
    assert outcome.stopped == "The budget of 1.00 USD is used up." and not outcome.finished
    with CallStore(tmp_path / "x") as store:
        kept = len(store)
    assert kept == len(server.requests) < 60  # what was paid for is kept
    again = run(tmp_path / "x", server, price=price, budget=1.0, concurrency=2)
    assert again.stopped and len(server.requests) == kept
    whole = run(tmp_path / "x", server, price=price, budget=100.0)
    assert whole.finished and max(asked(server).values()) == 1
    manifest = RunFolder(tmp_path / "x").manifest
    tokens = manifest["tokens"]["input"] + manifest["tokens"]["output"]
    assert manifest["cost_usd"] == pytest.approx(tokens / 1000)
    assert manifest["cost_usd"] > 1.0


@pytest.mark.slow
def test_several_processes_share_the_answers(tmp_path, server):
    assert run(tmp_path / "one", server, spec(12)).finished
    server.requests.clear()
    count = 0

    def says(body: dict[str, Any]) -> str:
        nonlocal count
        count += 1
        if count == 60:
            server.faults["teacher"] = "401"
        return honest(body)

    server.replies["teacher"] = says
    with pytest.raises(TeacherLost, match="refused the key"):
        run(tmp_path / "two", server, spec(12), processes=3)
    assert not RunFolder(tmp_path / "two").finished
    server.faults.clear()
    assert run(tmp_path / "two", server, spec(12), processes=3).finished
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")
    assert count == 240  # twelve queries, five communities, four calls: none served twice
    counts = [RunFolder(tmp_path / name).manifest for name in ("one", "two")]
    assert counts[0]["counts"] == counts[1]["counts"] and counts[0]["tokens"] == counts[1]["tokens"]


def test_two_runs_on_one_folder(tmp_path, server):
    with (
        RunFolder(tmp_path / "x", spec().config()),
        pytest.raises(ArtifactError, match="in use by another run"),
    ):
        run(tmp_path / "x", server)
    assert server.requests == []


def test_answers_whose_keys_share_a_hash_are_told_apart():
    """Keys are compared, not their hashes: with hashes alone q1 and q2 would be skipped as done."""

    class Colliding(str):
        def __hash__(self) -> int:
            return 0

    items = tuple(Query(Colliding(f"q{n}"), f"Is question {n} here?", Source("made up")) for n in range(3))
    queries = Queries(items, {"dataset": "made up"}, {"kept": 3})
    colliding = SynthesisSpec(queries, CONTINENTS, ModelRef("openai", "teacher"), SynthesisContext())
    done = {(Colliding("q0"), community) for community in colliding.communities}
    left = list(missing(colliding, done))
    assert hash((items[0].id, "asia")) == hash((items[1].id, "asia"))
    assert [(query.id, key) for query, key in left] == [
        (f"q{n}", key) for n in (1, 2) for key in colliding.communities
    ]


def test_another_spec_in_the_same_folder_is_refused(tmp_path, server):
    run(tmp_path / "x", server, spec(1))
    (tmp_path / "x" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"begun with another config: .*seed 0, now 1"):
        run(tmp_path / "x", server, spec(1, seed=1))


@pytest.mark.parametrize("full", ["rows", "calls"])
def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path, server, monkeypatch, full):
    def stop_writing() -> Callable[[], None]:
        if full == "rows":
            write = os.write

            def refuse(descriptor: int, data: bytes) -> int:
                if b'"community"' in data:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(descriptor, data)

            monkeypatch.setattr(os, "write", refuse)
            return monkeypatch.undo
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limits[1]))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    mend = stop_writing()
    try:
        with pytest.raises(ArtifactError, match=r"can not be .*(No space|full|disk I/O|too large)"):
            run(tmp_path / "x", server, spec(20))
    finally:
        mend()
    assert not RunFolder(tmp_path / "x").finished
    assert run(tmp_path / "x", server, spec(20)).finished
    assert len(rows_of(tmp_path / "x")) == 100


def test_a_preview_pays_for_the_run(tmp_path, server):
    how = Sitting(urls=(server.url,), concurrency=8)
    shown = preview(spec(), tmp_path / "x", how, 2)
    assert [query.id for query, _ in shown] == ["q0", "q1"]
    assert shown[0][1]["asia"]["status"] == "ok"
    assert len(server.requests) == 40 and rows_of(tmp_path / "x") == {}
    assert run(tmp_path / "x", server).finished
    assert len(server.requests) == 60


def test_the_key_of_a_call_has_no_address_and_no_tag(tmp_path, server):
    run(tmp_path / "x", server, spec(1))
    with CallStore(tmp_path / "x") as store:
        body = server.requests[0]
        shape = {
            "messages": [
                ["system", body["messages"][0]["content"]],
                ["human", body["messages"][1]["content"]],
            ],
            "temperature": body["temperature"],
            "max_tokens": body["max_completion_tokens"],
            "seed": body["seed"],
        }
        assert store.key(Call(KIND, "openai:teacher", shape)) in _keys(tmp_path / "x")


def _keys(out: Path) -> set[str]:
    import sqlite3

    with sqlite3.connect(out / "calls.sqlite") as database:
        return {key for (key,) in database.execute("SELECT key FROM calls")}
