"""examples/production and docs/production.md: files that Docker reads, held to what they name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from uvicorn import main as uvicorn_command

from cultural_palette.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.test_docs import blocks

FOLDER = ROOT / "examples" / "production"
COMPOSE = sorted(FOLDER.glob("*.compose.yml"))


def services(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    return found


def variables(text: str) -> set[str]:
    return set(re.findall(r"\$\{([A-Z_]+)", text))


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_a_compose_file_hangs_together(file: Path) -> None:
    found = services(file)
    text = file.read_text(encoding="utf-8")
    assert found["api"]["deploy"]["replicas"] > 1 and "ports" not in found["api"], "replicas share no port"
    for service in found.values():
        assert set(service.get("depends_on", ())) <= set(found)
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (FOLDER / source).is_file() or source in yaml.safe_load(text)["volumes"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), "loopback alone"
    ours = {name for name in found["api"]["environment"] if name.startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in ours} <= set(Settings.model_fields)
    offered = re.findall(r"^([A-Z_]+)=", (FOLDER / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    assert variables(text) <= set(offered)
    proxied = re.search(r"http://(\w+):(\d+)", (FOLDER / "nginx.conf").read_text(encoding="utf-8"))
    assert proxied and proxied[1] in found and proxied[2] == "8000"


def test_what_the_image_starts_is_there() -> None:
    lines = (FOLDER / "fastapi.Dockerfile").read_text(encoding="utf-8").splitlines()
    program, *arguments = json.loads(
        next(line for line in lines if line.startswith("CMD")).removeprefix("CMD")
    )
    assert program == "uvicorn"
    with click.Context(uvicorn_command) as context:  # a flag that is none fails
        uvicorn_command.parse_args(context, arguments)
    assert context.params["host"] == "0.0.0.0" and context.params["port"] == 8000
    (build,) = (s["build"] for s in services(FOLDER / "fastapi.compose.yml").values() if "build" in s)
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
    assert (ROOT / "examples/fastapi/app.py").is_file()


def test_langgraph_writes_the_image_of_the_production_file(tmp_path: Path) -> None:
    """`langgraph build` without Docker: the same reading of the file, down to what Docker would be told."""
    file = tmp_path / "Dockerfile"
    command = [sys.executable, "-m", "langgraph_cli", "dockerfile", "--config", "langgraph.production.json"]
    quiet = {**os.environ, "LANGGRAPH_CLI_NO_ANALYTICS": "1"}
    done = subprocess.run([*command, str(file)], cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (install,) = [
        line for line in lines if line.startswith("RUN") and "langgraph-checkpoint-postgres" in line
    ]
    assert not set("<>&|;") & set(install), "its shell would read a version's sign as a redirection"
    assert any("graph/server/auth.py:auth" in line for line in lines)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv*", ".env"} <= set(ignored), "no key and no environment goes into the image"


def test_the_flags_that_the_page_gives_langgraph_are_its_own() -> None:
    from langgraph_cli.cli import cli

    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    given = re.findall(r"^langgraph (\w+) (.*)$", page, re.MULTILINE)
    assert {name for name, _ in given} >= {"build", "validate"}
    for name, arguments in given:
        found = cli.get_command(click.Context(cli), name)
        assert found is not None
        words = [str(ROOT / word) if word.startswith("langgraph.") else word for word in arguments.split()]
        found.make_context(name, words)


def test_the_pages_code_stands_in_the_examples() -> None:
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    code = [*blocks(page, "python"), *blocks(page, "javascript")]
    files = [*ROOT.glob("examples/*/*.py"), *ROOT.glob("examples/*/*.mjs")]
    written = [_bare(file.read_text(encoding="utf-8")) for file in files]
    assert len(code) == 4
    assert [block for block in code if not any(_bare(block) in text for text in written)] == []


def _bare(text: str) -> str:
    """A text without its indents and empty lines."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
