"""What a run will take, what it has cost, how far it is, and how fast it may go."""

from __future__ import annotations

import asyncio

import pytest

from cultural_palette.cultural_map import load_map
from cultural_palette.errors import UsageError
from cultural_palette.models import ModelRef
from cultural_palette.nodes.synthesis.state import SynthesisContext
from cultural_palette.settings import get_settings
from cultural_palette.training.synthesis.estimate import estimate
from cultural_palette.training.synthesis.pace import Pace
from cultural_palette.training.synthesis.prices import Price, price_of
from cultural_palette.training.synthesis.progress import progress_line
from cultural_palette.training.synthesis.run import Tally
from cultural_palette.training.synthesis.teacher import Ledger, parse_teacher

PAPERS = ModelRef("openai", "gpt-4o-2024-08-06")


def papers_size(**context):
    price = price_of(PAPERS)
    return estimate(7805, load_map("continents"), PAPERS, SynthesisContext(**context), price)


def test_the_papers_counts():
    found = papers_size()
    assert found.answers == 39_025  # 7,805 x 5
    assert found.pairs == 31_220  # 7,805 x 4
    assert found.three_steps == 117_075  # 39,025 x 3
    assert found.calls["validate"] == 39_025
    # 15 % fail each of the first two rounds: 0.15 + 0.15^2 = 0.1725 of 39,025 = 6,732 more rounds of 4 calls
    assert found.again == 6_732 * 4
    assert found.all_calls == 117_075 + 39_025 + 26_928
    assert found.cost_usd == pytest.approx((found.input_tokens * 2.5 + found.output_tokens * 10) / 1e6)
    assert 100 < found.cost_usd < 2000
    lines = "\n".join(found.lines("continent"))
    for told in ("7,805 queries x 5", "39,025 answers", "31,220 preference pairs per continent", "117,075"):
        assert told in lines
    assert "(assumed: 15%" in lines


def test_one_round_and_plain_checks_need_fewer():
    one = papers_size(max_rounds=1)
    assert one.again == 0 and one.all_calls == 156_100
    checks = papers_size(validation="checks")
    assert "validate" not in checks.calls and "plain checks only" in "\n".join(checks.lines())


def test_an_unknown_price_is_said():
    found = estimate(10, load_map("continents"), ModelRef("openai", "mine"), SynthesisContext(), None)
    assert found.cost_usd is None and "cost: unknown" in found.lines()[-1]


def test_prices(tmp_path):
    assert price_of(PAPERS).of(1_000_000, 100_000) == pytest.approx(2.5 + 1.0)
    assert price_of(PAPERS, batch=True).of(1_000_000, 100_000) == pytest.approx(1.75)
    assert "2025" in price_of(PAPERS).note
    assert price_of(PAPERS, own_server=True) is None  # somebody else's price
    assert price_of(ModelRef("openai", "mine")) is None
    assert price_of(ModelRef("embedded", "nano")).of(10, 10) == 0
    mine = tmp_path / "prices.yaml"
    mine.write_text("models:\n  openai:gpt-4o-2024-08-06: {input: 1, output: 2}\n")
    assert price_of(PAPERS, mine, own_server=True).of(1_000_000, 1_000_000) == 3
    assert price_of(ModelRef("openai", "gpt-4o-mini"), mine).input == 0.15


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models: {openai:m: {input: -1, output: 2}}", r"models\.openai:m\.input"),
        ("models: {openai:m: {input: 1}}", r"models\.openai:m\.output: Field required"),
        ("[1", "can not be read"),
        ("prices: {}", "models"),
    ],
)
def test_a_price_file_that_is_none(tmp_path, text, told):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UsageError, match=told):
        price_of(PAPERS, tmp_path / "p.yaml")


def test_the_ledger_counts_what_is_under_way():
    ledger = Ledger(Price(1_000_000.0, 0.0, "a dollar a token"), budget=10.0)
    assert not ledger.spent_with(5)  # nothing known yet of what a call costs
    ledger.add({"input_tokens": 2, "output_tokens": 9})
    assert ledger.cost == 2.0
    assert not ledger.spent_with(3)  # 2 + 3 x 2 = 8
    assert ledger.spent_with(4)  # 2 + 4 x 2 = 10
    ledger.add(None)
    assert (ledger.uncounted, ledger.replies) == (1, 2)


def test_progress_says_rate_time_left_and_cost():
    tally = Tally(wanted=100, before=10, ok=28, set_aside=2, failed=1)
    ledger = Ledger(Price(1.0, 2.0, "x"), None, 2_000_000, 1_000_000, replies=120, calls_made=80)
    line = progress_line(tally, ledger, seconds=40)
    # 20 rows in 40 s: 0.5 a second; 100 - 30 - 1 are left: 138 s; 4 dollars for 30 rows: 13.33 for 100
    assert line == (
        "30 of 100 answers (28 ok, 2 set aside, 1 without reply) · 2.0 calls/s · 2 min left · "
        "2.0M tokens read, 1.0M written · 4.00 USD so far, 13.33 projected"
    )
    assert "cost unknown" in progress_line(tally, Ledger(), seconds=40)
    ledger.uncounted = 1
    assert "at least 4.00 USD" in progress_line(tally, ledger, seconds=40)


def test_teachers_are_one_model_at_any_number_of_addresses():
    settings = get_settings()
    assert parse_teacher(["openai:m@http://a/v1,http://b/v1/"], settings) == (
        ModelRef("openai", "m"),
        ("http://a/v1", "http://b/v1"),
    )
    assert parse_teacher(["openai:m@http://a/v1", "openai:m@http://b/v1"], settings)[1] == (
        "http://a/v1",
        "http://b/v1",
    )
    assert parse_teacher(["openai:m"], settings)[1] == ("https://api.openai.com/v1",)
    assert parse_teacher(["openai:m"], get_settings(base_url="http://c/v1"))[1] == ("http://c/v1",)
    assert parse_teacher(["embedded:nano"], settings) == (ModelRef("embedded", "nano"), ())
    with pytest.raises(UsageError, match="several models"):
        parse_teacher(["openai:m", "openai:n"], settings)
    with pytest.raises(UsageError, match="No teacher"):
        parse_teacher([], settings)


async def test_pace_holds_the_bound_and_serves_in_turn():
    pace, active, most, order = Pace(3), 0, 0, []

    async def call(number):
        nonlocal active, most
        async with pace:
            active += 1
            most = max(most, active)
            order.append(number)
            await asyncio.sleep(0)
            active -= 1

    await asyncio.gather(*(call(number) for number in range(20)))
    assert (most, pace.active, order) == (3, 0, list(range(20)))


async def test_pace_halves_once_a_storm_and_comes_back():
    pace = Pace(16)
    for _ in range(10):
        pace.busy(0.0)
    assert (pace.allowed, pace.storms) == (8.0, 1)
    for _ in range(200):
        pace.good()
    assert pace.allowed == 16
    assert Pace(1).allowed == 1


async def test_pace_is_closed_while_a_server_asks_to_wait():
    pace = Pace(2)
    pace.busy(0.05)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with pace:
        assert loop.time() - begun >= 0.04


async def test_a_cancelled_waiter_leaves_its_place():
    pace = Pace(1)
    waiters = []

    async def wait():
        async with pace:
            return True

    async with pace:
        waiters = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.sleep(0)
    assert await waiters[1] and await waiters[2]
    assert pace.active == 0


async def test_shut_reaches_those_who_wait_and_those_who_come():
    pace = Pace(1)

    async def wait():
        async with pace:
            return True

    async with pace:
        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0)
        pace.shut(RuntimeError("over"))
        with pytest.raises(RuntimeError, match="over"):
            await waiter
    with pytest.raises(RuntimeError, match="over"):
        await wait()
    assert pace.active == 0
