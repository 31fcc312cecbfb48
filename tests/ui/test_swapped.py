"""docs/swap-a-node.md, run as it stands there: in Python, in the table, in the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fake_server import FakeServer, serve
from tests.test_docs import blocks
from tests.ui.serving import PARTS, chromium, opened, palette_ui, parts_on
from tests.ui.swapped import PAGE, commands, copied, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
METHOD = 'article.sheet[data-phase="done"]'


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeServer]:
    with serve() as fake:
        fake.replies["*"] = lambda body: f"{body['model']} speaks of tea. And of bread."
        yield fake


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone, with the node in its place and a row in each table: the page's own commands."""
    return copied(tmp_path_factory.mktemp("swap") / "clone")


@pytest.fixture(scope="module")
def environment(fake: FakeServer) -> dict[str, str]:
    models = {part: f"openai:{part}" for part in PARTS}
    return {"PALETTE_BASE_URL": fake.url, "PALETTE_API_KEY": "x", "PALETTE_MODELS": json.dumps(models)}


def test_the_code_shown_is_the_examples() -> None:
    shown = blocks(PAGE.read_text(encoding="utf-8"), "python")
    files = [file.read_text(encoding="utf-8") for file in (ROOT / "examples" / "own_node").glob("*.*")]
    assert len(shown) == 3
    assert all(any(block.strip() in file for file in files) for block in shown)


def test_a_method_by_its_path_and_by_its_name(clone: Path, environment: dict[str, str]) -> None:
    in_python, by_path, patch, by_name = commands()
    assert in_python.startswith("python examples/own_node/method.py")  # tests/examples runs it
    run(by_path, clone, environment)
    assert re.match(r"quoted +mine: two takes", run(patch, clone, environment))
    run(by_name, clone, environment)
    for table, method in (("by-path", "method:quoted"), ("by-name", "quoted")):
        rows = [json.loads(line) for line in (clone / "runs" / table / "rows.jsonl").read_text().splitlines()]
        assert {row["method"] for row in rows} == {"cultural-palette", method} and len(rows) == 4
        assert {row["status"] for row in rows} == {"ok"}
    assert "| quoted |" in (clone / "runs" / "by-name" / "report" / "report.md").read_text()


def test_it_is_a_choice_of_the_page(clone: Path, fake: FakeServer) -> None:
    if not (clone / "nodes" / "quoted.py").exists():
        run(commands("cp ")[0], clone, {})
    with chromium() as browser, palette_ui(clone, parts_on(fake), source=clone / "src") as served:
        link = "#country=KEN&q=What+do+people+eat%3F&seed=0&beside.method=quoted"
        with opened(browser, served.url, fragment=link) as page:
            page.locator("#ask").click()
            page.locator(METHOD).nth(1).wait_for()
            ours, mine = page.locator(".account").all()
            assert ours.is_hidden(), "it is the answer word for word"
            mine = mine.locator(".text").inner_text()
            assert mine.startswith("Africa: “africa speaks of tea.” America: “") and "bread" not in mine
            assert "Quoted" in page.locator(METHOD).nth(1).locator(".who").inner_text()
            assert page.locator(METHOD).nth(1).locator(".draft").count() == 5


def test_the_tour_takes_the_same_steps() -> None:
    """From the own node on its commands are this page's, the first ones the README's."""
    tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    lines = "".join(commands()).replace("\\\n", " ")
    known = {" ".join(line.split()) for line in lines.splitlines()} | {"palette ui"}
    steps = "".join(blocks(tour.partition("## 4.")[2], "bash")).replace("\\\n", " ").splitlines()
    assert len(steps) == 6
    assert [step for step in steps if " ".join(step.split()) not in known] == []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = blocks(tour.partition("## 2.")[0], "bash")[0].splitlines()
    assert all(step in readme for step in first)
