"""Pages can not drift: file tree, commands, examples and the CLI's page are checked against the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cultural_palette.cli import main
from cultural_palette.cli.configuration_page import filled
from cultural_palette.settings import Settings
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
UNLISTED = {"CHANGELOG.md", "LICENSE", "README.md"}
GENERATED = {".venv", "runs", "build", "dist", "site", "palette.toml"}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def listed_paths() -> list[str]:
    """The paths of the README's file tree; two spaces of indent are one folder."""
    tree = next(block for block in blocks(README, "text") if "\npalette/" in block)
    paths, folder = [], ""
    for line in tree.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(" ") else ""
        paths.append(folder + name)
        if not line.startswith(" ") and name.endswith("/"):
            folder = name
    return paths


def test_the_file_tree_of_the_readme() -> None:
    paths = listed_paths()
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing == [], "the README lists what is not there"
    top = {path.rstrip("/") for path in paths if "/" not in path.rstrip("/")}
    there = {
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith((".", "__")) and path.name not in GENERATED and path.suffix != ".egg-info"
    }
    assert there - top - UNLISTED == set(), "the README's tree leaves out"


def test_the_tree_lists_every_module_of_palette() -> None:
    listed = {
        path.removeprefix("palette/").rstrip("/") for path in listed_paths() if path.startswith("palette/")
    }
    modules = {path.name for path in (ROOT / "palette").glob("*.py") if not path.name.startswith("__")}
    assert modules - listed <= {"errors.py"}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []


def test_the_page_of_the_command_line_is_current() -> None:
    # In a process of its own: click keeps the help option of a command that tests call without its parent.
    made = subprocess.run(
        [sys.executable, "-m", "cultural_palette.cli.page"], capture_output=True, encoding="utf-8", check=True
    )
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == made.stdout, "docs/cli.md is old: run `make docs`"


def test_the_tables_of_the_settings_are_current() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == filled(written), "docs/configuration.md is old: run `make docs`"
    assert all(f"| `{name}` |" in written for name in Settings.model_fields)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Every page in the navigation, every link followed, every name of the Python reference found."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    reference = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    assert (
        'id="cultural_palette.graph.front_door.ask"' in reference and "works in scripts" in reference.lower()
    )
    pages = [file.read_text(encoding="utf-8") for file in tmp_path.rglob("*.html")]
    assert not [page for page in pages if re.search(r"""<(link|script)[^>]*(href|src)=["']?https?:""", page)]


def commands() -> list[str]:
    """Every `palette ...` command of the pages' bash blocks, as one line each."""
    found = []
    for file in PAGES:
        for block in blocks(file.read_text(encoding="utf-8"), "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                found += [part.strip() for part in line.split("|") if part.strip().startswith("palette ")]
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_pages_parse(command: str) -> None:
    _, *arguments = shlex.split(command, comments=True)
    name, *rest = arguments
    found = main.get_command(click.Context(main), name)
    assert found is not None, f"no command {name!r}"
    found.make_context(name, rest, resilient_parsing=False)


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    named = {
        word
        for line in re.findall(r"\bmake ((?:[a-z]+ ?)+)", "\n".join(blocks(README, "bash")))
        for word in line.split()
    }
    assert named and named <= targets


EXAMPLES = [
    pytest.param(block, id=f"{page}-{number}")
    for page in ("README.md", "docs/python-api.md", "docs/tour.md")
    for number, block in enumerate(blocks((ROOT / page).read_text(encoding="utf-8"), "python"))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_python_examples_of_the_pages_are_executed(example: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_map_of_the_architecture_page_is_a_map(tmp_path: Path) -> None:
    from cultural_palette import load_map

    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (tmp_path / "north-south.yaml").write_text(blocks(text, "yaml")[0], encoding="utf-8")
    assert [c.key for c in load_map(str(tmp_path / "north-south.yaml")).communities] == ["north", "south"]


def test_extras_are_those_that_doctor_knows() -> None:
    import tomllib

    from cultural_palette.cli.doctor import PURPOSES

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) == set(PURPOSES) - {""}
    from cultural_palette.version import __version__

    assert project["version"] == __version__
