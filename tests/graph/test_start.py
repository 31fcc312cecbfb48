"""What a server of ours is started with, from a clone and from a wheel."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk.runtime import _ExecutionRuntime, _ReadRuntime
from pydantic import SecretStr

from cultural_palette.errors import SettingsError, UsageError
from cultural_palette.graph import export
from cultural_palette.graph.server.start import SERVED, graphs, plan
from cultural_palette.graph.variants import BASELINES, VARIANTS
from cultural_palette.models.allowed import refuse_places
from cultural_palette.settings import get_settings, use_settings
from tests.conftest import ROOT

CONFIGS = ("langgraph.json", "langgraph.ablations.json", "langgraph.production.json")


def config(name: str) -> Any:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def plan_for(host: str = "127.0.0.1", **settings: Any) -> Any:
    return plan(
        get_settings(**settings),
        host=host,
        port=1,
        ablations=False,
        open_browser=False,
        origins=["https://s"],
    )


def test_the_files_list_what_a_person_calls_and_the_second_one_the_ablations() -> None:
    described = {name: graph["description"] for name, graph in config("langgraph.json")["graphs"].items()}
    assert described == SERVED
    assert config("langgraph.production.json")["graphs"] == config("langgraph.json")["graphs"]
    assert (
        set(config("langgraph.ablations.json")["graphs"])
        == {*SERVED, *VARIANTS, *BASELINES}
        == set(graphs(True))
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_path_of_the_files_is_there(name: str) -> None:
    paths = [graph["path"] for graph in config(name)["graphs"].values()]
    paths += [config(name)["http"]["app"]]
    paths += [config(name)[key]["path"] for key in ("auth", "checkpointer") if key in config(name)]
    for path in paths:
        file, _, variable = path.partition(":")
        if file == "./graph/export.py":  # most of its names are the tables' own
            assert variable in vars(export), path
            continue
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^({variable}\b.* = |(async )?def {variable}\()", text, re.MULTILINE), path


def test_only_studio_may_use_a_server_from_another_page_and_none_in_production() -> None:
    assert config("langgraph.json")["http"]["cors"]["allow_origins"] == ["https://smith.langchain.com"]
    assert config("langgraph.production.json")["http"]["cors"]["allow_origins"] == []
    assert plan_for().arguments["http"]["cors"]["allow_origins"] == ["https://s"]


def test_others_need_a_key_and_a_key_guards_all_routes() -> None:
    with pytest.raises(UsageError, match="PALETTE_SERVER_KEY"):
        plan_for("0.0.0.0")
    arguments = plan_for("0.0.0.0", server_key=SecretStr("sesame")).arguments
    assert arguments["auth"]["disable_studio_auth"] and arguments["http"]["enable_custom_route_auth"]
    assert "auth" not in plan_for().arguments


def test_threads_go_to_a_file_unless_the_settings_say_where() -> None:
    assert plan_for().environment["PALETTE_CHECKPOINTS"].endswith("/.palette/threads.sqlite")
    assert "PALETTE_CHECKPOINTS" not in plan_for(checkpoints="sqlite:mine").environment


def test_nothing_is_built_when_the_server_imports_its_graphs() -> None:
    code = (
        "import cultural_palette.graph.build as b; b.build_palette = None\n"
        "import cultural_palette.graph.variants as v; v.build_palette = None\n"
        "import cultural_palette.graph.export"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


async def test_every_path_leads_to_the_graph_of_that_name() -> None:
    reading = _ReadRuntime(access_context="assistants.read", user=None, store=None)  # type: ignore[arg-type]
    for name, served in config("langgraph.ablations.json")["graphs"].items():
        file, _, variable = served["path"].partition(":")
        assert file == "./graph/export.py"
        graph = await getattr(export, variable)(reading)
        assert (graph.name, graph.checkpointer) == (name, None)


async def test_a_graph_is_built_once_and_looks_at_each_runs_context() -> None:
    def runtime(context: Any) -> Any:
        return _ExecutionRuntime(access_context="threads.create_run", user=None, store=None, context=context)  # type: ignore[arg-type]

    first, second = await asyncio.gather(
        export.palette(runtime({"seed": 1})), export.palette(runtime({"langgraph_request_id": "x"}))
    )
    assert first is second
    with pytest.raises(SettingsError, match=r"Unknown knob 'temprature'.*Did you mean temperature"):
        await export.palette(runtime({"temprature": 1}))
    with pytest.raises(SettingsError, match="Unknown knob 'country'"):
        await export.palette(runtime({"country": "KEN"}))
    assert (await export.chat(runtime({"country": "KEN"}))).name == "chat"


@pytest.mark.parametrize(
    ("context", "fits"),
    [
        ({"model": "openai:gpt-4o-mini"}, True),
        ({"model": "openai:x@http://127.0.0.1:8000/v1"}, True),  # base_url of the settings
        ({"model": "openai:x@http://127.0.0.1:9000/v1"}, True),  # allowed
        ({"models": {"asia": "openai:x@https://models.example/v1"}}, True),  # another part's
        ({"model": "embedded:nano"}, True),
        ({"model": "openai:x@http://169.254.169.254/latest"}, False),
        ({"models": {"asia": "openai:x@http://127.0.0.1:8001/v1"}}, False),
        ({"teacher": "openai:x@http://evil.example/v1"}, False),
        ({"model": "openai:x@http://127.0.0.1:8000.evil.example/v1"}, False),
        ({"model": "embedded:/etc"}, False),
        ({"model": "embedded:../secrets/africa"}, False),
        ({"model": "embedded:/srv/ours/africa"}, True),  # of a palette of the settings
        ({"model": "embedded:/srv/ours/../../etc/meta"}, False),
        ({"model": "embedded:nano/../../secrets/africa"}, False),
        ({"blend": "fitted"}, True),
        ({"blend": "fitted:palette"}, True),
        ({"blend": "fitted:wvs"}, True),  # named by the settings
        ({"blend": "fitted:/srv/wvs.json"}, False),  # and not by its path
        ({"blend": "fitted:wvs/../../etc/passwd"}, False),
        ({"blend": "fitted: /etc/passwd"}, False),
        ({"blend": "fitted:~/secrets"}, False),
        ({"blend": "fitted:"}, False),
    ],
)
def test_a_caller_names_no_address_and_no_file_of_its_own(context: Any, fits: bool) -> None:
    settings = get_settings(
        base_url="http://127.0.0.1:8000/v1",
        models={"meta": "openai:m@https://models.example/v1", "asia": "embedded:/srv/ours"},
        allowed_addresses=["http://127.0.0.1:9000"],
        fitted_blends={"wvs": "/srv/wvs.json"},
    )
    with use_settings(settings):
        if fits:
            refuse_places(context)
        else:
            with pytest.raises(SettingsError, match="this server"):
                refuse_places(context)


def test_a_caller_may_repeat_what_the_settings_say() -> None:
    """Studio sends back the defaults that it shows."""
    with use_settings(get_settings(blend="fitted:/srv/wvs.json")):
        refuse_places({"blend": "fitted:/srv/wvs.json"})


@pytest.mark.parametrize("graph", ["palette", "chat", "without_draft"])
async def test_a_served_graph_reads_no_file_that_a_caller_names(graph: str) -> None:
    context = {"blend": "fitted:/etc/passwd"}
    run: Any = _ExecutionRuntime(
        access_context="threads.create_run",
        user=None,
        store=None,
        context=context,  # type: ignore[arg-type]
    )
    with (
        use_settings(get_settings(fitted_blends={"wvs": "/srv/wvs.json"})),
        pytest.raises(
            SettingsError, match=r"reads no file.*here: fitted:palette, fitted:wvs\..*FITTED_BLENDS"
        ),
    ):
        await getattr(export, graph)(run)


@pytest.mark.slow
async def test_palette_mcp_answers_a_desktop_client(tmp_path: Path) -> None:
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters

    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "cultural_palette", "mcp"], cwd=str(tmp_path), env=environment
    )
    async with Client(command) as client:
        (ask, listing) = (await client.list_tools()).tools
        assert (ask.name, listing.name) == ("ask_country", "list_countries")
        assert ask.input_schema["required"] == ["country", "question"]
        asked = {"country": "Kenya", "question": "Is freedom or equality more important?"}
        chosen = await client.call_tool("ask_country", {**asked, "options": ["Freedom", "Equality"]})
        answer = json.loads(chosen.content[0].text)  # type: ignore[union-attr]
        assert answer["country"] == "Kenya" and answer["answer"] in ("Freedom", "Equality")
        assert sum(answer["distribution"].values()) == pytest.approx(1, abs=0.01)
        assert "drafts" not in answer
        failed = await client.call_tool("ask_country", {**asked, "country": "UK"})
        assert failed.is_error and "Did you mean GBR" in failed.content[0].text  # type: ignore[union-attr]
