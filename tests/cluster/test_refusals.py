"""What is refused before any call is paid: addresses, and nodes with another installation."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("ray")

from cultural_palette.cli import main
from cultural_palette.cluster import ray_engine
from cultural_palette.cluster.ray_engine import PACKAGES, Install, NodeMismatch
from cultural_palette.provenance import installed_versions
from tests.conftest import ROOT
from tests.fake_server import serve
from tests.graph.server_runs import free_port


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("rays", "--on 'rays': expected 'ray', or 'ray://HOST:PORT'"),
        ("ray://head", "--on 'ray://head': expected"),
        ("ray://head:many", "--on 'ray://head:many': expected"),
        ("ray://head:10001/x", "expected 'ray', or 'ray://HOST:PORT', such as ray://head:10001"),
        ("http://head:8265", "--on 'http://head:8265': expected"),
        ("ray://127.0.0.1:PORT", "No Ray cluster answers at ray://127.0.0.1:"),
    ],
)
def test_an_address_that_is_none_or_where_nobody_listens(where: str, message: str, tmp_path: Path) -> None:
    with serve() as fake:
        done = CliRunner().invoke(main, [
            "synthesize", "--queries", f"prism:{ROOT / 'training/synthesis/example'}", "--limit", "2",
            "--teacher", f"openai:teacher@{fake.url}", "--out", str(tmp_path / "run"),
            "--on", where.replace("PORT", str(free_port())),
        ])  # fmt: skip
        assert done.exit_code in (1, 2) and message in done.output, done.output
        assert fake.requests == [] and not (tmp_path / "run" / "config.json").exists()


def test_a_node_with_another_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Install.here(PACKAGES)
    assert driver.difference(driver) is None
    version = installed_versions(PACKAGES)["langgraph"]
    others = {
        f"Python 3.9, the driver {sys.version_info[0]}.{sys.version_info[1]}": replace(driver, python="3.9"),
        f"langgraph 0.1, the driver {version}": replace(
            driver, versions={**driver.versions, "langgraph": "0.1"}
        ),
        f"langgraph not installed, the driver {version}": replace(
            driver, versions={k: v for k, v in driver.versions.items() if k != "langgraph"}
        ),
        "other sources of cultural-palette (0000": replace(driver, sources="0" * 64),
    }
    for words, other in others.items():
        assert words in (driver.difference(other) or "")
        monkeypatch.setattr(Install, "here", classmethod(lambda cls, packages, other=other: other))
        with pytest.raises(NodeMismatch, match=r"Node .* has .* install the same on every node"):
            ray_engine._same_install(driver, PACKAGES)
