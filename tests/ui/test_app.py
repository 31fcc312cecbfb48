"""The page's server side without a browser: what it offers, its headers, whom it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from cultural_palette.cli import main
from cultural_palette.countries import all_countries
from cultural_palette.embedded.manifest import read_manifest
from cultural_palette.embedded.scope import scope_notes
from cultural_palette.errors import UsageError
from cultural_palette.graph.variants import BASELINES, VARIANTS
from cultural_palette.prompts import template_of
from cultural_palette.settings import get_settings, use_settings
from cultural_palette.ui.catalogue import QUESTIONS, catalogue
from cultural_palette.ui.routes import STATIC, page_routes
from cultural_palette.ui.serve import free_port
from cultural_palette.ui.survey import ShownSurvey, Surveyed

HERE = "http://127.0.0.1:2024"


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=page_routes()), base_url=HERE)


def test_the_catalogue_offers_what_there_is() -> None:
    offered = catalogue()
    assert [country["iso3"] for country in offered["countries"]] == [c.iso3 for c in all_countries()]
    assert [method["name"] for method in offered["methods"]] == [*VARIANTS, *BASELINES]
    assert offered["map"] == offered["maps"][0]["key"] == "continents"
    assert {m["key"] for m in offered["maps"]} == {"continents", "inglehart_welzel"}
    prompts = {prompt["name"]: prompt for prompt in offered["prompts"]}
    assert list(prompts) == ["draft", "regulate", "account", "decide", "decide_option"]
    assert prompts["draft"]["text"] == template_of("draft")
    assert (prompts["account"]["node"], prompts["decide_option"]["node"]) == ("regulate", "decide")
    knobs = {knob["name"]: knob for knob in offered["knobs"]}
    assert knobs["temperature"]["default"] == 0.3 and knobs["temperature"]["at_most"] == 2
    assert knobs["readout"]["choices"] == ("auto", "exact", "top_logprobs", "sampling")
    json.dumps(offered)


def test_the_catalogue_says_who_plays_a_map() -> None:
    nano, other = catalogue()["maps"]
    assert nano["missing"] is None and "KEN" in nano["scope"] and "FRA" in nano["scope"]
    assert "has no model for african_islamic" in other["missing"] and other["models"] == []
    with use_settings(get_settings(model="openai:x", map="inglehart_welzel")):
        own, continents = catalogue()["maps"]
    assert (own["key"], own["models"], own["scope"], own["missing"]) == (
        "inglehart_welzel", ["openai:x"], None, None,
    )  # fmt: skip
    assert continents["missing"] is None


def test_a_survey_answers_for_its_own_questions_only() -> None:
    survey = ShownSurvey("tea", [Surveyed("Tea?", "KEN", {"Yes": 0.7, "No": 0.3}, "Kenya (2020)")])
    assert survey.described() == {
        "name": "tea",
        "questions": [{"question": "Tea?", "options": ["Yes", "No"]}],
    }
    found = survey.shares("Kenya", " tea? ", ["no", "Yes"])
    assert found == {"survey": "tea", "sample": "Kenya (2020)", "shares": {"Yes": 0.7, "no": 0.3}}
    assert survey.shares("KEN", "Tea?", ["Yes", "No", "Don't know"]) is None
    assert survey.shares("JPN", "Tea?", ["Yes", "No"]) is None
    assert survey.shares("nowhere", "Tea?", ["Yes", "No"]) is None
    assert ShownSurvey().described() is None and ShownSurvey().shares("KEN", "Tea?", ["Yes", "No"]) is None


def test_the_nano_palette_can_answer_what_the_page_suggests() -> None:
    manifest = read_manifest("nano")
    questions = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))
    assert len(questions) >= 10
    for question in questions:
        assert scope_notes(manifest, question["question"], "KEN", question.get("options", ())) == []


def test_the_page_and_its_files(client: TestClient) -> None:
    page = client.get("/palette/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert client.get("/palette").url.path == "/palette/"
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
        answer = client.get(f"/palette/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/palette/static/main.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/palette/static/../app.py").status_code == 404
    assert client.get("/palette/catalogue.json").json()["map"] == "continents"


def test_nothing_comes_from_elsewhere_and_nothing_is_run_from_text() -> None:
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?://|innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function", text
        ), file
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "style=" not in page and not re.search(r"\son\w+=", page)


def test_a_taken_port_is_said() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} of 127.0.0.1 is taken"):
            free_port(port)
    assert free_port(port) == port
    assert free_port(None) > 0


def test_a_bad_map_is_said_before_the_server_starts(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["ui", "--map", str(tmp_path / "none.yaml")])
    assert done.exit_code == 2 and "none.yaml" in done.output and "Starting" not in done.output


def test_graphs_on_the_other_maps() -> None:
    from cultural_palette.graph import on_maps

    described = on_maps.graphs_on_maps("continents")
    assert set(described) == {f"{name}@inglehart_welzel" for name in VARIANTS}
    assert all(hasattr(on_maps, graph["path"].rpartition(":")[2]) for graph in described.values())
    assert "palette@continents" in on_maps.graphs_on_maps("mine.yaml")
