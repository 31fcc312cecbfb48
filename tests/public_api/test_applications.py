"""An application with files of its own named like our rooms, on the wheel and on an editable install."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client

from cultural_palette.graph.server.assistants import make_assistants
from cultural_palette.graph.variants import BASELINES, VARIANTS
from tests.conftest import ROOT
from tests.fake_server import FakeServer, serve
from tests.graph.server_runs import Studio

NAMES = ("graph", "nodes", "training", "evaluation", "palette", "serving", "benchmarks", "tests")
APPLICATION = """
import graph, nodes, training, evaluation, palette, serving
import cultural_palette as cp

for module in (graph, nodes, training, evaluation, palette, serving):
    assert module.MINE, module
settings = cp.get_settings(base_url="{url}", retries=0)
answer = cp.ask("KEN", "What is a good life?", settings=settings, model="openai:africa")
print(answer.answer)
"""
STRICT = """
import asyncio
from collections.abc import Mapping

import cultural_palette as cp

answer: cp.Answer = cp.ask("KEN", "What is a good life?", options=["A", "B"], seed=0, temperature=0.5)
text: str | None = answer.answer
shares: Mapping[str, float] | None = answer.distribution
draft: str | None = answer.drafts["asia"].text


async def main() -> list[cp.Answer]:
    async for event in cp.stream("KEN", "Tea?", models={"meta": "openai:x"}):
        if isinstance(event, cp.DraftToken):
            print(event.community, event.text)
        elif isinstance(event, cp.Decided):
            print(event.answer.blend)
    kept = await cp.batch([("KEN", "Tea?")], errors="keep")
    wrong = [one for one in kept if isinstance(one, cp.PaletteError)]
    print(len(wrong), (await cp.aask("KEN", "Tea?")).answer)
    return await cp.batch([cp.CountryQuestion("KEN", "Tea?", seed=1)], at_once=2)


asyncio.run(main())
context = cp.PaletteContext(seed=1, readout="exact", prompt_decide="x")
"""
WRONG = """
import cultural_palette as cp

cp.ask("KEN", "Tea?", sede=0)
cp.ask("KEN", "Tea?", seed="0")
cp.ask("KEN", "Tea?").answr
cp.PaletteContext(readout="guess")
"""


@dataclass
class Installed:
    """A way to install us: the folder on the path, and what else the environment needs."""

    path: Path
    app: Path

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.app, env=self.environment(**more), capture_output=True, text=True, timeout=240
        )

    def environment(self, **more: str) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("PALETTE_", "OPENAI_", "LANG"))}
        offline = {
            "LANGSMITH_TRACING": "false",
            "LANGGRAPH_NO_VERSION_CHECK": "true",
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        }
        return plain | offline | {"PYTHONPATH": str(self.path), "MYPYPATH": ""} | more


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as pip unpacks it. Built from a copy, so that no build folder is left behind."""
    copy, out = tmp_path_factory.mktemp("source") / "project", tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".venv*", ".git", "runs", "build", "*.egg-info", "tests", "*_cache")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True)
    if done.returncode:  # setuptools may be missing from the environment: let pip fetch it
        build.remove("--no-build-isolation")
        subprocess.run(build, cwd=copy, check=True, capture_output=True)
    (made,) = out.glob("*.whl")
    folder = out / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), str(made)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Installed:
    """An application's folder, which has every one of our rooms' names for itself."""
    app = tmp_path / "app"
    app.mkdir()
    for name in ("graph", "training", "evaluation", "palette", "serving"):
        (app / f"{name}.py").write_text("MINE = True\n")
    (app / "nodes").mkdir()  # as LangGraph applications have it, often without __init__.py
    (app / "nodes" / "own.py").write_text("")
    (app / "nodes" / "__init__.py").write_text("MINE = True\n")
    return Installed(wheel if request.param == "wheel" else ROOT / "src", app)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve() as fake:
        yield fake


def test_the_wheel_has_one_name(wheel: Path) -> None:
    top = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert top - {"bin"} == {"cultural_palette"}
    here = {path.name for path in (wheel / "cultural_palette").iterdir()}
    assert {"py.typed", "graph", "nodes", "training", "evaluation"} <= here and "benchmarks" not in here
    assert not any(path.is_symlink() for path in (wheel / "cultural_palette").rglob("*"))


def test_every_file_of_the_source_is_in_the_wheel(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    missing = []
    for name in listed.stdout.split("\n"):
        room, _, rest = name.partition("/")
        if room not in ("palette", "graph", "nodes", "training", "evaluation") or not rest:
            continue
        inside = rest if room == "palette" else name
        if not (ROOT / name).is_symlink() and not (wheel / "cultural_palette" / inside).exists():
            missing.append(name)
    assert missing == []


def test_ask_from_an_application_with_our_names(installed: Installed, server: FakeServer) -> None:
    (installed.app / "main.py").write_text(APPLICATION.replace("{url}", server.url))
    done = installed.run(sys.executable, "main.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "africa speaks of many things."


def test_the_commands_from_there(installed: Installed, server: FakeServer) -> None:
    ask = [
        "ask",
        "-c",
        "KEN",
        "--base-url",
        server.url,
        "--model",
        "openai:africa",
        "--json",
        "What is good?",
    ]
    done = installed.run(sys.executable, "-m", "cultural_palette", *ask)
    assert done.returncode == 0 and "africa speaks" in done.stdout, done.stderr
    code = "import sys; from cultural_palette.cli import main; main(sys.argv[1:])"
    done = installed.run(sys.executable, "-c", code, *ask)
    assert done.returncode == 0 and "africa speaks" in done.stdout, done.stderr


def test_a_namespace_folder_of_the_application_stays_its_own(installed: Installed) -> None:
    (installed.app / "nodes" / "__init__.py").unlink()
    done = installed.run(sys.executable, "-c", "import nodes.own, cultural_palette; print(nodes.__path__)")
    assert done.returncode == 0, done.stderr
    assert str(installed.app) in done.stdout and str(ROOT) not in done.stdout


def test_strict_types_of_a_snippet(installed: Installed) -> None:
    (installed.app / "snippet.py").write_text(STRICT)
    done = installed.run(sys.executable, "-m", "mypy", "--strict", "snippet.py")
    assert done.returncode == 0, done.stdout
    (installed.app / "wrong.py").write_text(WRONG)
    done = installed.run(sys.executable, "-m", "mypy", "--strict", "wrong.py")
    lines = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [line.split(":")[1] for line in lines] == ["4", "5", "6", "7"], done.stdout


@pytest.mark.slow
def test_langgraph_dev_from_there(installed: Installed, server: FakeServer) -> None:
    (installed.app / "graph.py").write_text(
        "import cultural_palette as cp\nMINE = True\nassistant = cp.build(name='assistant')\n"
    )
    (installed.app / "langgraph.json").write_text(
        '{"dependencies": ["."], "graphs": {"assistant": "./graph.py:assistant"}}'
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
    log = installed.app / "log.txt"
    with log.open("wb") as out:
        dev = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=installed.app,
            env=installed.environment(PALETTE_BASE_URL=server.url, PALETTE_MODEL="openai:africa"),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            answer = _ask_dev(f"http://127.0.0.1:{port}", dev)
        finally:
            dev.send_signal(signal.SIGINT)
            try:
                dev.wait(30)
            except subprocess.TimeoutExpired:
                dev.kill()
    assert "africa speaks of many things." in answer, log.read_text()


def _ask_dev(url: str, dev: subprocess.Popen[bytes]) -> str:
    body = b'{"assistant_id": "assistant", "input": {"country": "KEN", "query": "What is good?"}}'
    deadline = time.monotonic() + 120
    while True:
        request = urllib.request.Request(
            f"{url}/runs/wait", body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return str(response.read().decode())
        except OSError as error:
            if dev.poll() is not None or time.monotonic() > deadline:
                return f"no answer: {error}"
            time.sleep(0.5)


@pytest.mark.slow
async def test_palette_studio_from_a_wheel(wheel: Path, server: FakeServer, tmp_path: Path) -> None:
    """The server with every graph, an assistant for each ablation, and a run, far from any clone."""
    environment = {"PALETTE_BASE_URL": server.url, "PALETTE_API_KEY": "x", "PALETTE_MODEL": "openai:africa"}
    studio = Studio(tmp_path, {"PYTHONPATH": str(wheel), **environment}, "--ablations")
    studio.start()
    try:
        made = await make_assistants(studio.url)
        assert set(made) == {f"Palette: {name}" for name in (*VARIANTS, *BASELINES)}
        asked = {"country": "KEN", "query": "Which?", "options": ["Freedom", "Equality"]}
        assistant = made["Palette: without-self-regulation"]
        result: Any = await get_client(url=studio.url).runs.wait(None, assistant, input=asked)
        assert result["answer"] == "Freedom" and result["regulated"] is None
    finally:
        studio.stop()
