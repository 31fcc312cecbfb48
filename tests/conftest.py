"""What every test may lean on: a clean environment, and a scripted model in the place of real ones."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

os.environ.setdefault("LANGSMITH_TRACING", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Under nohup, or in the background of a shell, signals are ignored, and children inherit that: the tests
    of signals are about commands that hear them.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    if threading.current_thread() is threading.main_thread():
        for number, handler in usual.items():
            if signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, a file's tests share a process and its fixtures; all that ask vLLM share one server."""
    for item in items:
        asks_vllm = {"vllm_servers", "vllm_python"}.intersection(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("vllm" if asks_vllm else item.nodeid.partition("::")[0]))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on a person's settings, keys, proxies or colours."""
    for name in list(os.environ):
        if name.startswith(("PALETTE_", "OPENAI_")) or name in (
            "NO_COLOR",
            "FORCE_COLOR",
            "COLUMNS",
            "LINES",
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A Script behind the provider "scripted": the model "scripted:africa" plays its part "africa"."""
    from cultural_palette import models
    from tests.scripted import Script, scripted_provider

    script = Script()
    monkeypatch.setitem(models.PROVIDERS, "scripted", scripted_provider(script))
    return script
