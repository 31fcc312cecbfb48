"""`palette ui`, for real: a server of its own in a folder of its own, and a headless Chromium before it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.fake_server import FakeServer

KEYS = ("africa", "america", "asia", "europe", "oceania")
PARTS = (*KEYS, "meta", "base")
START_S = 150.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Served:
    """`url`: the page's address; `log`: what the command printed."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]


@contextmanager
def palette_ui(folder: Path, arguments: Sequence[str] = (), source: Path = ROOT / "src") -> Iterator[Served]:
    """Run the command in `folder` until the block ends. `source`: where it finds the package."""
    log = folder / "log.txt"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PALETTE_", "OPENAI_", "LANG", "LOG_"))}
    env |= {"PYTHONPATH": str(source), "PALETTE_API_KEY": "sk-very-secret", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "cultural_palette", "ui", "--no-open", *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield Served(_address(process, log), log, process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        text = log.read_text(errors="replace")
        assert process.poll() is None, text[-4000:]
        if printed := re.search(r"http://127\.0\.0\.1:\d+/palette/", text):
            return printed[0]
        time.sleep(0.2)
    pytest.fail(f"palette ui did not start:\n{log.read_text(errors='replace')[-4000:]}")


def parts_on(fake: FakeServer) -> list[str]:
    """Flags that let the fake server play every part under its own name."""
    return [word for part in PARTS for word in ("--set", f"{part}=openai:{part}@{fake.url}")]


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium; skips without one, but fails where CI has to have it."""
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    why = f"no {', '.join(BROWSERS)} on this machine"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path, why = None, "Playwright is not installed"
    if path is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{why}: the page must be tested here")
        pytest.skip(why)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what must not happen on it: errors, and requests to anywhere else."""

    page: Any
    home: str
    faults: list[str] = field(default_factory=list)

    def watch(self) -> None:
        origin = self.home.removesuffix("/palette/")
        page, faults = self.page, self.faults
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on(
            "request",
            lambda request: None if request.url.startswith((origin, "blob:")) else faults.append(request.url),
        )

    def go(self, fragment: str = "") -> None:
        self.page.goto(self.home + fragment)
        self.page.locator("html[data-ready]").wait_for(timeout=20_000)


@contextmanager
def opened(
    browser: Any, home: str, width: int = 1280, scheme: str = "light", fragment: str = ""
) -> Iterator[Any]:
    """The page in a window of its own. Anything in `Opened.faults` fails the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )  # fmt: skip
    context.set_default_timeout(20_000)
    window = Opened(context.new_page(), home)
    window.watch()
    window.go(fragment)
    yield window.page
    context.close()
    assert window.faults == []
