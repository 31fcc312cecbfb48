"""Every folder of examples/, run as its first lines say."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.fake_server import FakeServer, serve
from tests.graph.server_runs import Studio, free_port, postgres, postgres_programs

EXAMPLES = ROOT / "examples"
KEYS = ("africa", "america", "asia", "europe", "oceania")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeServer]:
    with serve() as fake:
        fake.replies["*"] = lambda body: f"{body['model']} speaks of tea. And of bread."
        yield fake


@pytest.fixture(scope="module")
def cast(fake: FakeServer) -> dict[str, str]:
    """Settings that let the fake server play every part under its own name."""
    parts = {part: f"openai:{part}" for part in (*KEYS, "meta", "base")}
    return {"PALETTE_BASE_URL": fake.url, "PALETTE_API_KEY": "sk-x", "PALETTE_MODELS": json.dumps(parts)}


@pytest.fixture(scope="module")
def studio(cast: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = Studio(tmp_path_factory.mktemp("studio"), {"PYTHONPATH": str(ROOT / "src"), **cast})
    server.start()
    yield server.url
    server.stop()


def run(
    command: Sequence[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PALETTE_", "OPENAI_", "LANG"))}
    return subprocess.run(
        command,
        cwd=folder,
        env={**plain, "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_every_folder_is_listed_and_every_path_is_there() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert all(f"[{folder}]({folder}/" in page for folder in folders)


def test_script(cast: dict[str, str], tmp_path: Path) -> None:
    script = str(EXAMPLES / "script" / "countries.py")
    done = run([sys.executable, script, "Which?", "Freedom;Equality", "NZL", "Atlantis"], tmp_path, cast)
    assert done.returncode == 0, done.stderr
    header, new_zealand, atlantis = csv.reader(done.stdout.splitlines())
    assert header == ["country", "Freedom", "Equality", "largest weight", "error"]
    assert new_zealand == ["NZL", "0.750", "0.250", "", ""]  # the fake server: A 0.5 and " A" 0.1, B 0.2
    assert atlantis[0] == "Atlantis" and "Unknown country 'Atlantis'" in atlantis[-1]


def test_notebook() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "notebook" / "ask.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without its outputs"
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [json.dumps(cell.outputs) for cell in code]
    assert "'Freedom': 0.4" in outputs[0] and "#0072B2" in outputs[1]
    assert "africa: In Kenya" in outputs[2] and "->" in outputs[2] and "'JPN': " in outputs[3]


def test_own_node(cast: dict[str, str], fake: FakeServer, tmp_path: Path) -> None:
    fake.requests.clear()
    method = str(EXAMPLES / "own_node" / "method.py")
    done = run([sys.executable, method, "KEN", "What do people drink?"], tmp_path, cast)
    assert done.returncode == 0, done.stderr
    account, answer = done.stdout.splitlines()
    assert account.startswith("Africa: “africa speaks of tea.” America: “") and "bread" not in account
    assert answer == "-> meta speaks of tea. And of bread."
    assert sorted(body["seed"] for body in fake.sent_to("asia")) == [0, 1]
    assert len(fake.sent_to("meta")) == 1  # the account is a quotation: only the decision asks it


def test_mcp(cast: dict[str, str], tmp_path: Path) -> None:
    command = tmp_path / "bin" / "palette"
    command.parent.mkdir()
    lines = [f"export {name}={value!r}" for name, value in {**cast, "PYTHONPATH": str(ROOT / "src")}.items()]
    lines += ["unset PALETTE_MODEL", f'exec {sys.executable} -m cultural_palette "$@"']
    command.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    command.chmod(0o755)
    path = {"PATH": f"{command.parent}:{os.environ['PATH']}"}
    client = [sys.executable, str(EXAMPLES / "mcp" / "client.py")]
    done = run([*client, "KEN", "Which matters more?", "Freedom", "Equality"], tmp_path, path)
    assert done.returncode == 0, done.stderr
    tools, _, answer = done.stdout.partition("\n")
    assert tools == "tools: ask_country, list_countries"
    assert json.loads(answer)["distribution"] == {"Freedom": 0.75, "Equality": 0.25}


def test_remote_graph(studio: str, tmp_path: Path) -> None:
    script = str(EXAMPLES / "remote_graph" / "compare.py")
    done = run([sys.executable, script, studio, "KEN", "NZL"], tmp_path, {"LANGSMITH_TRACING": "false"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "They differ most on 'Freedom': KEN 75 %, NZL 75 %."


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, and jsdom for the test; skips where there is no npm or no registry."""
    if not shutil.which("npm"):
        pytest.skip("no npm on this machine: the JavaScript examples are not tested")
    folder = tmp_path_factory.mktemp("javascript")
    for file in (EXAMPLES / "javascript").iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    shutil.copy(Path(__file__).with_name("chat_in_jsdom.mjs"), folder)
    install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error", "jsdom@26.1.0"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=240)
    if done.returncode:
        pytest.skip(f"npm can not install here, the JavaScript examples are not tested: {done.stderr[-500:]}")
    return folder


def test_javascript(javascript: Path, studio: str) -> None:
    asked = ["node", "ask.mjs", "KEN", "Which matters more?", "Freedom", "Equality"]
    done = run(asked, javascript, {"PALETTE_URL": studio})
    assert done.returncode == 0, done.stderr
    *drafts, answer, first, second = done.stdout.splitlines()
    assert sorted(drafts) == [f"{key}: {key} speaks of tea. And of bread." for key in KEYS]
    assert (answer, first, second) == ("answer: Freedom", " 75.0 %  Freedom", " 25.0 %  Equality")
    wrong = run(["node", "ask.mjs", "Kenia", "Tea?"], javascript, {"PALETTE_URL": studio})
    assert wrong.returncode and "Did you mean KEN (Kenya)" in wrong.stderr


def test_use_stream_shows_one_bubble_a_turn_and_labelled_drafts(javascript: Path, studio: str) -> None:
    """React's useStream of the SDK before the real server: it asks back, then answers, as a person chats."""
    said = ["What is a good life?", "Kenya"]
    done = run(["node", "chat_in_jsdom.mjs", studio, *said], javascript, {})
    assert done.returncode == 0, done.stderr
    page = json.loads(done.stdout.splitlines()[-1])
    first, second = page["shown"]
    assert first[0] == "human: What is a good life?" and first[1].startswith(
        "ai: Which country should answer?"
    )
    assert second[2:] == ["human: Kenya", "ai: meta speaks of tea. And of bread."] and second[:2] == first
    assert page["most"] == 4, "drafts never flash up as bubbles"
    assert page["drafts"] == {key: f"{key} speaks of tea. And of bread." for key in KEYS}


async def test_fastapi_replicas_share_threads_and_keep_others_out(
    cast: dict[str, str], fake: FakeServer, tmp_path: Path
) -> None:
    """Two servers of the example on one Postgres (an SQLite file where there is none)."""
    database = postgres() if postgres_programs() else nullcontext(f"sqlite:{tmp_path / 'threads.sqlite'}")
    with ExitStack() as stack:
        place = stack.enter_context(database)
        environment = {**cast, "PALETTE_CHECKPOINTS": place, "PALETTE_SERVER_KEY": "secret"}
        first, second = (stack.enter_context(Uvicorn(tmp_path, environment)) for _ in range(2))
        await asyncio.gather(_answers(first), _answers(second))
        async with httpx.AsyncClient(timeout=60) as client:
            question = {"country": "KEN", "question": "Tea or coffee?", "thread": "1"}
            events = await _ask(client, first, question)
            kinds = [event["type"] for event in events]
            assert kinds[0] == "turn_started" and kinds[-1] == "decision" and kinds.count("draft_done") == 5
            assert "draft_token" in kinds  # it streams
            fake.requests.clear()
            await _ask(client, second, {**question, "question": "And at night?"})
            prompts = json.dumps(fake.sent_to("meta"))
            assert "Earlier question: Tea or coffee?" in prompts  # asked on the other server
            (wrong,) = await _ask(client, first, {**question, "country": "Kenia"})
            assert wrong["type"] == "error" and "Did you mean KEN (Kenya)" in wrong["text"]
            url, key = f"{first}/ask", {"x-api-key": "secret"}
            assert (await client.post(url, json=question)).status_code == 401
            assert (await client.post(url, json=question, headers={"x-api-key": "wrong"})).status_code == 401
            elsewhere = {**key, "Origin": "https://evil.example"}
            assert (await client.post(url, json=question, headers=elsewhere)).status_code == 403
            assert (await client.post(url, content=b" " * 2_000_000, headers=key)).status_code == 413


async def _ask(client: httpx.AsyncClient, url: str, question: dict[str, Any]) -> list[dict[str, Any]]:
    asked = await client.post(f"{url}/ask", json=question, headers={"x-api-key": "secret"})
    assert asked.status_code == 200, asked.text
    return [json.loads(line) for line in asked.text.splitlines()]


class Uvicorn:
    """The example under uvicorn, on a free port; the block has its address."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.port = folder, free_port()
        self.environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT / "src")}

    def __enter__(self) -> str:
        command = [
            "-m",
            "uvicorn",
            "--app-dir",
            str(EXAMPLES / "fastapi"),
            "--port",
            str(self.port),
            "app:app",
        ]
        self.log = (self.folder / f"{self.port}.txt").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        return f"http://127.0.0.1:{self.port}"

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


async def _answers(url: str) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(1200):
            try:
                if (await client.get(f"{url}/ok")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.1)
    pytest.fail(f"{url} did not start")
