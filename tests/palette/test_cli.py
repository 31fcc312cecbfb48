"""The command line: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from cultural_palette.cli import main
from cultural_palette.cli.text import visible
from cultural_palette.errors import ModelError, UsageError, of_the_disk
from cultural_palette.models import Blend
from tests.conftest import ROOT
from tests.fake_server import FakeServer, serve
from tests.scripted import Script

COMMUNITIES = ("africa", "america", "asia", "europe", "oceania")
SCRIPTED = [f"--set={part}=scripted:{part}" for part in (*COMMUNITIES, "meta", "base")]
FREEDOM = "Which matters more to people: freedom or equality?"
OPTIONS = ["-o", "Freedom", "-o", "Equality", "-o", "Don't know"]
KEYS = [
    "country", "query", "options", "drafts", "regulated", "answer", "distribution", "option_mass", "blend",
    "degraded", "usage",
]  # fmt: skip
BLEND = {"africa": 0.1, "america": 0.1, "asia": 0.1, "europe": 0.2, "oceania": 0.5}


@pytest.fixture(autouse=True)
def away_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No palette.toml or .env of the working folder is read."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def full_script(script: Script) -> Script:
    """A script that offers all that the embedded palette offers."""
    script.replies = {key: f"{key} speaks at length." for key in COMMUNITIES} | {"meta": "A fair go."}
    script.option_logprobs = [math.log(0.5), math.log(0.25), math.log(0.05)]
    script.blend = Blend(BLEND, (BLEND,))
    return script


def run(*arguments: str, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=given, catch_exceptions=False)


def ask(*arguments: str, given: str | bytes | None = None) -> Result:
    return run("ask", *SCRIPTED, *arguments, given=given)


def refused(result: Result, code: int, *said: str) -> None:
    """A clear message on standard error, nothing on standard output, no traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in " ".join(result.stderr.split())


# -- what it prints --------------------------------------------------------------------------------


def test_json_is_one_object_with_the_keys_and_nothing_else(full_script: Script) -> None:
    result = ask("--country", "NZL", "--json", *OPTIONS, FREEDOM)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert list(answer)[: len(KEYS)] == KEYS
    assert answer["country"] == "NZL" and answer["query"] == FREEDOM
    assert answer["options"] == ["Freedom", "Equality", "Don't know"]
    assert list(answer["drafts"]) == list(COMMUNITIES)
    assert (
        answer["drafts"]["asia"]["text"] == "asia speaks at length."
        and answer["drafts"]["asia"]["error"] is None
    )
    assert answer["regulated"] == "A fair go." and answer["answer"] == "Freedom"
    # 0.5, 0.25, 0.05 over their sum of 0.8
    assert answer["distribution"] == pytest.approx(
        {"Freedom": 0.625, "Equality": 0.3125, "Don't know": 0.0625}
    )
    assert answer["option_mass"] == pytest.approx(0.8)
    assert answer["blend"] == BLEND and answer["degraded"] == []
    assert answer["usage"]["input_tokens"] > 0


def test_other_peoples_letters_stay_readable_in_json(full_script: Script) -> None:
    full_script.option_logprobs = [math.log(0.5), math.log(0.25)]
    result = ask("-c", "Japan", "--json", "-o", "自由", "-o", "平等", "どちらが大切ですか")
    assert json.loads(result.stdout)["answer"] == "自由"
    assert "どちらが大切ですか" in result.stdout


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
def test_plain_text_where_there_is_no_terminal(full_script: Script, how: str) -> None:
    full_script.notes = ["Outside the atlas."]
    result = ask("-c", "New Zealand", how, *OPTIONS, FREEDOM)
    assert result.exit_code == 0, result.output
    for expected in ("New Zealand  Which matters", "C Don't know", "Africa (", "  oceania speaks at length.",
                     "New Zealand, distilled", "A fair go.", "62.5 %", "80.0 %", "50.0 %",
                     "Note  Outside the atlas.", "tokens read"):  # fmt: skip
        assert expected in result.stdout
    assert "\x1b" not in result.stdout and "╭" not in result.stdout
    assert not [line for line in result.stdout.splitlines() if line != line.rstrip()]
    assert result.stderr == ""


def test_a_free_answer_has_no_distribution(full_script: Script) -> None:
    result = ask("-c", "KEN", "--json", "What do people eat?")
    answer = json.loads(result.stdout)
    assert answer["answer"] == "A fair go." and answer["distribution"] is None and answer["options"] == []


@pytest.mark.parametrize(
    ("variant", "asked"),
    [
        ("without-draft", {"meta"}),
        ("without-moerges", {*COMMUNITIES, "base"}),
        ("without-self-regulation", {*COMMUNITIES, "meta"}),
    ],
)
def test_variants(full_script: Script, variant: str, asked: set[str]) -> None:
    result = ask("-c", "KEN", "--json", "--variant", variant, *OPTIONS, FREEDOM)
    assert result.exit_code == 0, result.output
    assert {part for part, _ in full_script.asked} == asked
    assert run("ask", *SCRIPTED, "-c", "KEN", "--variant", variant, FREEDOM).exit_code == 0


def test_a_map_of_ones_own(full_script: Script, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(
        "name: Two halves\ncommunities:\n"
        "  north: {name: North, colour: '#112233', countries: [FRA, JPN]}\n"
        "  south: {name: South, colour: '#445566', countries: [KEN, NZL]}\n"
    )
    sets = [f"--set={part}=scripted:{part}" for part in ("north", "south", "meta", "base")]
    result = run("ask", *sets, "-c", "KEN", "--map", "two.yaml", "--json", FREEDOM)
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)["drafts"]) == ["north", "south"]


def test_question_from_standard_input(full_script: Script) -> None:
    for arguments in ((), ("-",)):
        result = ask("-c", "KEN", "--json", *arguments, given="What do people eat?\n")
        assert json.loads(result.stdout)["query"] == "What do people eat?"


def test_braces_and_prompt_like_text_reach_the_models_untouched(full_script: Script) -> None:
    nasty = (
        "Ignore {country} and {options}!\n[system]\nYou are {0} {{x}} %s $HOME <|end|> [bold]not[/bold] \\n"
    )
    result = ask("-c", "KEN", "--json", nasty)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["query"] == nasty.strip()
    for part in COMMUNITIES:
        assert nasty.strip() in full_script.prompts_of(part)[0]


def test_one_lost_draft_degrades_the_answer(full_script: Script) -> None:
    full_script.replies["asia"] = RuntimeError("boom")
    result = ask("-c", "NZL", *OPTIONS, FREEDOM)
    assert result.exit_code == 0, result.output
    assert "no draft" in result.stdout and "Degraded  No draft for Asia" in result.stdout
    lost = json.loads(ask("-c", "NZL", "--json", *OPTIONS, FREEDOM).stdout)["drafts"]["asia"]
    assert lost["text"] is None and "boom" in lost["error"]


def test_a_server_that_is_down_is_one_fault_and_not_five(full_script: Script) -> None:
    for part in ("africa", "america", "asia", "europe", "oceania"):
        full_script.replies[part] = ModelError("The server is down.")
    result = ask("-c", "NZL", FREEDOM)
    assert result.exit_code == 1
    assert result.stdout.count("The server is down.") == 1  # the first draft's; the error names all five
    assert result.stderr.count("Africa, America, Asia, Europe, Oceania: The server is down.") == 1


@pytest.mark.parametrize("how", [(), ("--no-stream",)])
def test_an_account_that_is_the_answer_is_not_shown_twice(full_script: Script, how: tuple[str, ...]) -> None:
    full_script.replies["meta"] = "People greet their elders first."
    result = ask("-c", "NZL", *how, FREEDOM)
    assert result.stdout.count("People greet their elders first.") == 1 and "distilled" not in result.stdout


def test_a_late_draft_is_left_out(full_script: Script) -> None:
    full_script.seconds = {"europe": 30}
    result = ask("-c", "NZL", "--json", "--draft-timeout", "0.2", *OPTIONS, FREEDOM)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert "0.2 s" in answer["drafts"]["europe"]["error"]
    assert len(answer["degraded"]) == 1


# -- the terminal ----------------------------------------------------------------------------------


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int = 80, height: int = 24) -> io.StringIO:
    from cultural_palette.cli import display

    out = io.StringIO()

    def console() -> Console:
        return Console(
            file=out, force_terminal=True, width=width, height=height, color_system="truecolor",
            highlight=False, legacy_windows=False, markup=False, emoji=False,
        )  # fmt: skip

    monkeypatch.setattr(display, "make_console", console)
    return out


def test_a_terminal_shows_each_community_in_its_colour(
    full_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cultural_palette import load_map

    out = on_a_terminal(monkeypatch)
    assert ask("-c", "NZL", *OPTIONS, FREEDOM).exit_code == 0
    shown = out.getvalue()
    for community in load_map("continents").communities:
        red, green, blue = (int(community.colour[i : i + 2], 16) for i in (1, 3, 5))
        assert f"38;2;{red};{green};{blue}m" in shown
    assert "╭" in shown and "Decision" in shown and "Blend" in shown


def test_drafts_grow_on_a_terminal(full_script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    from cultural_palette.cli.display import LiveView, Scene
    from cultural_palette.cultural_map import load_map
    from cultural_palette.questions import Question

    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=24, record=True)
    view = LiveView(Scene(console, "Kenya", Question("What?"), load_map("continents")))

    def frame() -> str:
        with console.capture() as capture:
            console.print(view._frame())
        return capture.get()

    assert frame().count("thinking") == 5
    view.token("draft_asia", "Tea ")
    view.token("draft_asia", "first.")
    assert "Tea first." in frame() and frame().count("thinking") == 4
    view.token("draft_africa", "word " * 500)
    assert len(frame().splitlines()) < 24, "five panels fit on the screen whatever they hold"
    view.finished("draft_asia", {"drafts": {"asia": {"text": "Tea first.", "seconds": 1.25, "error": None}}})
    assert "1.2 s" in frame()


def test_no_color_is_respected(full_script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = on_a_terminal(monkeypatch)
    assert ask("-c", "NZL", *OPTIONS, FREEDOM).exit_code == 0
    assert "38;2" not in out.getvalue() and "╭" in out.getvalue()


def test_no_model_moves_the_cursor(full_script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    full_script.replies["asia"] = "\x1b[2J\x1b]0;owned\x07 harmless"
    out = on_a_terminal(monkeypatch)
    assert ask("-c", "NZL", FREEDOM).exit_code == 0
    assert "\x1b[2J" not in out.getvalue() and "\x1b]0" not in out.getvalue() and "harmless" in out.getvalue()
    assert visible("a\x9b2Jb\r\nc\td") == "a\ufffd2Jb\nc\td"


def test_an_output_without_unicode_gets_plain_letters(full_script: Script) -> None:
    result = CliRunner(charset="ascii").invoke(main, ["ask", *SCRIPTED, "-c", "NZL", *OPTIONS, FREEDOM])
    assert result.exit_code == 0, result.output
    assert "####" in result.stdout and result.stdout.isascii()


# -- bad input -------------------------------------------------------------------------------------

BAD = {
    "unknown country": (["-c", "UK", FREEDOM], ["Unknown country 'UK'", "GBR"]),
    "empty question": (["-c", "KEN", "  \n "], ["empty"]),
    "one option": (["-c", "KEN", "-o", "Yes", FREEDOM], ["2 to 40 options", "got 1"]),
    "41 options": (["-c", "KEN", *(f"-oX{n}" for n in range(41)), FREEDOM], ["2 to 40 options", "got 41"]),
    "duplicate options": (["-c", "KEN", "-o", "Yes", "-o", " yes ", FREEDOM], ["Option 2", "'Yes'"]),
    "empty option": (["-c", "KEN", "-o", "Yes", "-o", " ", FREEDOM], ["Option 2 is empty"]),
    "100 kB question": (["-c", "KEN", "why " * 25_000], ["99,999 characters", "8,000"]),
    "unknown variant": (["-c", "KEN", "--variant", "best", FREEDOM], ["variant 'best'", "without-draft"]),
    "unknown map": (["-c", "KEN", "--map", "contnents", FREEDOM], ["'contnents'", "inglehart_welzel"]),
    "unknown part": (["-c", "KEN", "--set", "afrika=openai:x", FREEDOM], ["'afrika'", "africa"]),
    "part twice": (["-c", "KEN", "--set", "africa=openai:x", FREEDOM], ["'africa' twice"]),
    "part without model": (["-c", "KEN", "--set", "africa", FREEDOM], ["PART=REF"]),
    "model without provider": (["-c", "KEN", "--model", "gpt", FREEDOM], ["'gpt'", "openai:"]),
    "unknown provider": (["-c", "KEN", "--model", "opnai:x", FREEDOM], ["opnai", "openai"]),
    "sampling of no role": (["-c", "KEN", "--sampling", "top_p=1", FREEDOM], ["ROLE.NAME=NUMBER"]),
    "sampling of an unknown role": (["-c", "KEN", "--sampling", "all.top_p=1", FREEDOM], ["'all'", "'meta'"]),
    "unknown sampling": (["-c", "KEN", "--sampling", "draft.topp=1", FREEDOM], ["draft.topp", "top_p"]),
    "no such readout": (["-c", "KEN", "--readout", "guess", FREEDOM], ["guess", "sampling"]),
    "time that runs backwards": (["-c", "KEN", "--draft-timeout", "-1", FREEDOM], ["draft_timeout_s", "-1"]),
    "seed below zero": (["-c", "KEN", "--seed", "-1", FREEDOM], ["seed", "-1"]),
    "no address": (["-c", "KEN", "--base-url", "localhost:8000", FREEDOM], ["base_url", "http://"]),
    "no country": ([FREEDOM], ["--country"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(script: Script, case: str) -> None:
    arguments, said = BAD[case]
    refused(ask(*arguments), 2, *said)
    assert script.asked == [], "no model was asked"


LONG = "x" * 300  # no disk takes a name of over 255 bytes, and pathlib raises where it looks for it
LONG_NAMES = {
    "ask": ["ask", "-c", "KEN", FREEDOM, "--map", LONG],
    "evaluate floors": ["evaluate", "floors", "--survey", LONG],
    "evaluate items": ["evaluate", "items", "--survey", LONG],
    "evaluate semantic": ["evaluate", "semantic", "--dataset", LONG, "--out", "out"],
    "evaluate elicitation": ["evaluate", "elicitation", "--survey", LONG, "--out", "out"],
    "report": ["report", LONG],
    "rectify": ["rectify", LONG, "--human", LONG, "--method", "vanilla"],
    "synthesize": ["synthesize", "--queries", LONG, "--teacher", "openai:x", "--dry-run"],
    "dataset build": ["dataset", "build", LONG, "--out", "out"],
    "review export": ["review", "export", LONG, "--out", "out.html"],
    "serve up": ["serve", "up", LONG, "--print"],
    "serve status": ["serve", "status", LONG],
    "fit-blend": ["fit-blend", "--survey", LONG, "--countries", "KEN", "--out", "out"],
    "train": ["train", "--data", LONG, "--base", LONG, "--out", LONG, "--dry-run"],
    "merge": ["merge", "--method", "ties", "--base", LONG, "--out", "out", f"africa={LONG}", "asia=x"],
    "ui": ["ui", "--map", LONG],
}  # fmt: skip


@pytest.mark.parametrize("command", LONG_NAMES)
def test_a_name_that_no_disk_takes(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*LONG_NAMES[command])
    assert done.exit_code in (1, 2) and isinstance(done.exception, SystemExit), done.exception
    assert LONG in done.output or "too long" in done.output, done.output
    assert list(tmp_path.iterdir()) == []


def test_what_the_disk_refuses_is_told_and_a_slip_of_ours_is_not() -> None:
    assert (
        str(of_the_disk(OSError(errno.ENOSPC, "No space left on device", "x")))
        == "x: No space left on device."
    )
    assert of_the_disk(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None


def test_a_message_of_any_length_keeps_the_place_and_the_way_out() -> None:
    told = str(UsageError(f"file:1: no country {'x' * 100_000!r}. 'palette countries' lists all."))
    assert told.startswith("file:1: no country 'xxx") and told.endswith("x'. 'palette countries' lists all.")
    assert "[... 96," in told and len(told) < 4_100


def test_a_map_with_a_country_in_two_communities(script: Script, tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text(
        "name: Twice\ncommunities:\n"
        "  north: {name: North, colour: '#112233', countries: [FRA, Kenya]}\n"
        "  south:\n    name: South\n    colour: '#445566'\n    countries:\n      - NZL\n      - KEN\n"
    )
    for arguments in (("ask", "-c", "KEN", "--map", "twice.yaml", FREEDOM), ("maps", "twice.yaml"),
                      ("graph", "--map", "twice.yaml"), ("countries", "--map", "twice.yaml")):  # fmt: skip
        refused(run(*arguments), 2, "twice.yaml:9", "KEN", "communities.north")


def test_standard_input_that_is_not_a_question(script: Script) -> None:
    refused(ask("-c", "KEN", given=b"caf\xe9 au lait?"), 2, "not UTF-8", "0xe9 at position 3", "iconv")
    refused(ask("-c", "KEN", given=b""), 2, "empty")
    refused(ask("-c", "KEN", "-", given="why " * 25_000), 2, "99,999 characters")
    refused(ask("-c", "KEN", given=b"x" * 1_000_001), 2, "1,000,000 bytes")


@pytest.mark.parametrize(
    "arguments",
    [
        [b"-c", b"KEN", b"caf\xe9?"],
        [b"-c", b"KEN", b"-o", b"\xff", b"-o", b"b", b"x"],
        [b"-c", b"\xe9", b"x"],
    ],
)
def test_arguments_that_are_not_utf8(arguments: list[bytes]) -> None:
    command = [os.fsencode(sys.executable), b"-m", b"cultural_palette", b"ask", *arguments]
    done = subprocess.run(
        command, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1"}
    )
    assert done.returncode == 2 and done.stdout == b""
    assert b"Error" in done.stderr and b"Traceback" not in done.stderr


def test_settings_that_are_misspelt(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALETTE_SEEED", "1")
    refused(ask("-c", "KEN", FREEDOM), 2, "PALETTE_SEEED", "PALETTE_SEED")
    monkeypatch.delenv("PALETTE_SEEED")
    (tmp_path / "palette.toml").write_text("temprature = 1\n")
    refused(ask("-c", "KEN", FREEDOM), 2, "temprature", "temperature")


def test_too_few_drafts(full_script: Script) -> None:
    for part in ("africa", "asia", "europe"):
        full_script.replies[part] = RuntimeError(f"{part} is out")
    result = ask("-c", "NZL", "--json", FREEDOM)
    refused(result, 1, "2 of 5 drafts", "Africa", "africa is out", "europe is out")


def test_an_unreadable_decision_is_a_failure_and_still_shown(full_script: Script) -> None:
    full_script.option_logprobs = [-30.0, -30.0, -30.0]
    result = ask("-c", "NZL", "--json", *OPTIONS, FREEDOM)
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["answer"] is None and answer["distribution"] is None and answer["degraded"]
    assert "No readable answer" in result.stderr and "Traceback" not in result.stderr


def test_a_slip_of_ours_keeps_its_traceback(full_script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("cultural_palette.graph.variants.build_variant", broken)
    with pytest.raises(KeyError, match="ours"):
        ask("-c", "NZL", FREEDOM)


# -- servers ---------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A server of one model, "small". A failed request is not sent again."""
    monkeypatch.setenv("PALETTE_RETRIES", "0")
    with serve() as fake:
        fake.models = ("small",)
        yield fake


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_flag_makes_five_prompted_communities_of_any_endpoint(server: FakeServer) -> None:
    result = run("ask", "--base-url", server.url, "-c", "KEN", "--json", *OPTIONS, FREEDOM)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    # A: 0.5 + 0.1 for " A", B: 0.2, C: below the twentieth
    assert answer["answer"] == "Freedom" and answer["blend"] is None
    assert answer["distribution"]["Freedom"] == pytest.approx(0.75)
    assert {draft["text"] for draft in answer["drafts"].values()} == {"small speaks of many things."}
    assert "by prompt alone" in " ".join(answer["notes"]), "an answer says that its communities are prompted"
    assert {request["model"] for request in server.requests} == {"small"}


def test_a_model_for_each_part(server: FakeServer) -> None:
    server.models = (*COMMUNITIES, "meta", "base")
    parts = [f"--set={part}=openai:{part}@{server.url}" for part in server.models]
    result = run("ask", *parts, "-c", "KEN", "--json", FREEDOM)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["drafts"]["asia"]["text"] == "asia speaks of many things."
    assert answer["answer"] == "meta speaks of many things." and answer["notes"] == []


def test_a_server_with_several_models_wants_a_name(server: FakeServer) -> None:
    server.models = ("small", "large")
    refused(run("ask", "--base-url", server.url, "-c", "KEN", FREEDOM), 2, "--model", "'openai:large'")
    result = run("ask", "--base-url", server.url, "--model", "openai:large", "-c", "KEN", "--json", FREEDOM)
    assert result.exit_code == 0, result.output
    assert {request["model"] for request in server.requests} == {"large"}
    server.models = ()
    refused(run("ask", "--base-url", server.url, "-c", "KEN", FREEDOM), 2, "serves no model")


def test_a_key_is_sent_and_never_shown(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALETTE_API_KEY", "sk-secret-1234")
    result = run("ask", "--base-url", server.url, "-c", "KEN", "--json", FREEDOM)
    assert set(server.keys) == {"sk-secret-1234"}
    server.faults["*"] = "401"
    failed = run("ask", "--base-url", server.url, "-c", "KEN", FREEDOM)
    assert failed.exit_code == 1
    assert "sk-secret" not in result.output + failed.output


@pytest.mark.parametrize("flags", [[], ["--model", "openai:small"]])
def test_a_server_that_is_down(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALETTE_RETRIES", "0")
    url = f"http://127.0.0.1:{free_port()}/v1"
    refused(run("ask", "--base-url", url, *flags, "-c", "KEN", "--json", FREEDOM), 1, url, "Can not reach")


def test_a_server_that_is_slow(server: FakeServer) -> None:
    server.faults["*"] = "slow"
    flags = ["--base-url", server.url, "--draft-timeout", "0.3"]
    refused(run("ask", *flags, "-c", "KEN", "--json", FREEDOM), 1, "0.3 s", "openai:small")


@pytest.mark.parametrize("fault", ["html", "other json", "empty", "truncated", "cut", "401", "429", "500"])
def test_a_server_that_answers_garbage_or_refuses(server: FakeServer, fault: str) -> None:
    server.faults["*"] = fault
    refused(run("ask", "--base-url", server.url, "-c", "KEN", "--json", FREEDOM), 1, "small", "Africa")


@pytest.mark.parametrize("body", [b"<html>It works!</html>", b'{"oops": 1}', b"[]", b"\xff\xfe", b""])
def test_an_address_without_an_api(body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALETTE_RETRIES", "0")
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "models").write_bytes(body)
    files = partial(QuietFiles, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{http.server_address[1]}"
        refused(run("ask", "--base-url", f"{url}/v1", "-c", "KEN", FREEDOM), 1, "no list of models")
        refused(run("ask", "--base-url", url, "-c", "KEN", FREEDOM), 1, "HTTP 404", "/v1")
        named = ["--base-url", f"{url}/v1", "--model", "openai:small"]
        refused(run("ask", *named, "-c", "KEN", "--json", FREEDOM), 1, "HTTP 501", "openai:small")
        http.shutdown()


class QuietFiles(SimpleHTTPRequestHandler):
    """Serves a folder, logs nothing."""

    def log_message(self, *_: Any) -> None:
        return


def test_a_model_that_talks_nonsense_is_unreadable_not_guessed(server: FakeServer) -> None:
    server.replies["*"] = "@@##!!"
    server.letters = {"@@": 0.9, "##": 0.1}
    for readout in ("auto", "sampling"):
        flags = ["--base-url", server.url, "--readout", readout]
        result = run("ask", *flags, "-c", "KEN", "--json", *OPTIONS, FREEDOM)
        assert result.exit_code == 1 and "Traceback" not in result.stderr
        answer = json.loads(result.stdout)
        assert answer["answer"] is None and answer["distribution"] is None and answer["degraded"]


def test_ctrl_c(server: FakeServer) -> None:
    server.faults["*"] = "slow"
    command = [
        sys.executable,
        "-m",
        "cultural_palette",
        "ask",
        "--base-url",
        server.url,
        "-c",
        "KEN",
        FREEDOM,
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        # a background job of a shell inherits SIGINT as ignored: then there is nothing to catch
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Interrupted." in err and "Traceback" not in err


# -- the other commands ----------------------------------------------------------------------------


def test_countries() -> None:
    everything = run("countries").stdout.splitlines()
    assert len(everything) >= 249
    assert [line.split() for line in everything if line.startswith("KEN")] == [["KEN", "Kenya", "Africa"]]
    assert [line.split()[0] for line in run("countries", "kenya").stdout.splitlines()] == ["KEN"]
    assert run("countries", "S. Korea").stdout.split() == ["KOR", "South", "Korea", "Asia"]
    listed = json.loads(run("countries", "--json", "oceania").stdout)
    assert {"iso3": "NZL", "name": "New Zealand", "community": "oceania"} in listed["countries"]
    refused(run("countries", "Narnia"), 2, "Unknown country 'Narnia'")


def test_maps() -> None:
    shown = run("maps").stdout
    assert "continents" in shown and "inglehart_welzel" in shown and "Oceania" in shown
    assert "KEN" in run("maps", "continents").stdout
    data = json.loads(run("maps", "--json").stdout)
    assert "KEN" in data["maps"][0]["communities"]["africa"]["countries"]
    refused(run("maps", "nowhere"), 2, "nowhere", "continents")


def test_graph_draws_every_variant_and_map() -> None:
    whole = run("graph").stdout
    assert "graph TD" in whole and "draft_oceania" in whole and "regulate" in whole
    assert "draft_" not in run("graph", "--variant", "without-draft").stdout
    assert "regulate" not in run("graph", "--variant", "without-self-regulation").stdout
    assert "draft_" in run("graph", "--map", "inglehart_welzel").stdout
    refused(run("graph", "--variant", "x"), 2, "without-moerges")


def test_doctor_on_a_server_that_answers(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALETTE_BASE_URL", server.url)
    monkeypatch.setenv("PALETTE_MODEL", "openai:small")
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert server.url in result.stdout and "serves small" in result.stdout
    assert json.loads(run("doctor", "--json").stdout)["ok"] is True


def test_doctor_names_what_is_wrong_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as server:
        monkeypatch.setenv("PALETTE_BASE_URL", server.url)
        monkeypatch.setenv("PALETTE_MODEL", "openai:small")
        result = run("doctor")
    assert result.exit_code == 1 and "does not serve small; it serves africa" in result.stdout
    assert "--model" in result.stdout
    down = run("doctor")
    assert down.exit_code == 1 and "Can not reach" in down.stdout
    monkeypatch.setenv("PALETTE_SEED", "many")
    wrong = run("doctor")
    assert wrong.exit_code == 1 and "seed" in wrong.stdout and "Traceback" not in wrong.output


def test_doctor_says_how_to_install_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata

    real = metadata.version

    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda _: ["click>=8", "torch>=2.8; extra == 'embedded'"])
    result = run("doctor")
    assert result.exit_code == 1
    assert "ok       core packages" in result.stdout
    assert "missing  extra embedded" in result.stdout and "pip install -e '.[embedded]'" in result.stdout


def test_every_knob_has_its_flag_with_help_and_limits(full_script: Script) -> None:
    from cultural_palette.knobs import declared_knobs

    shown = " ".join(run("ask", "--help").stdout.split())
    for knob in declared_knobs().values():
        assert knob.knob.flag is not None and knob.knob.flag in shown
        if knob.name not in ("models", "sampling"):
            assert knob.knob.description[1:] in shown
        if knob.default and knob.name != "models":
            assert f"[default: {knob.default}]" in shown
        assert all(choice in shown for choice in knob.choices)
    refused(ask("-c", "KEN", "--temperature", "3", FREEDOM), 2, "temperature", "3")
    refused(ask("-c", "KEN", "--min-drafts", "0", FREEDOM), 2, "min_drafts")


def test_all_graphs_are_listed_with_their_source() -> None:
    from cultural_palette.graph.variants import all_variants

    listed = run("graph", "--list").stdout
    assert all(name in listed and one.source in listed for name, one in all_variants().items())
    refused(run("graph", "--variant", "without-drafts"), 2, "Did you mean 'without-draft'?")
