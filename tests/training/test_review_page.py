"""The review page in a headless Chromium: decided by keyboard, saved, imported, and the gate that follows."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("pyarrow")
pytest.importorskip("datasketch")

from cultural_palette.cli import main
from cultural_palette.training.pentachromatic.synthesis_run import text_hash
from cultural_palette.training.preferences import read_groups
from tests.training.pentachromatic_runs import COMMUNITIES, question, row, set_aside, write_run

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EVIL = (
    "</script><img src=x onerror=\"document.title='pwned'\">"
    "<script>document.title='pwned'</script> & \u2028 <!--"
)
FINDING = {"kind": "stereotype", "detail": "One image for all.", "quote": "Patience, and then"}


def answer(n: int, community: str) -> dict[str, Any]:
    if (n, community) == (0, "america"):
        return row(n, community, response=EVIL, query=question(n))
    if (n, community) == (0, "asia"):
        found = {"passed": True, "findings": [FINDING]}
        return row(n, community, validation=found, rounds=2)
    return set_aside(n, community) if (n, community) == (3, "asia") else row(n, community)


def test_the_page_has_no_outside_and_runs_no_other_script(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", 1, lambda n, c: row(n, c, response=EVIL, query=EVIL, steps={"respond": EVIL})
    )
    CliRunner().invoke(
        main, ["review", "export", str(run), "--out", str(tmp_path / "r.html"), "--reviewer", EVIL]
    )
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("</script>") == page.count("<script") == 3  # about, one chunk, the page's own
    assert "<img" not in page and "pwned'</" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!#)|@import|url\(|https?://|innerHTML""", page)
    assert "default-src 'none'" in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found, why = None, "Playwright is not installed"
    else:
        why = f"no {', '.join(BROWSERS)} on this machine"
    if found is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{why}: the review page must be tested here")
        pytest.skip(why)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", 4, answer)


@pytest.fixture
def page(browser: Any, run: Path, tmp_path: Path) -> Iterator[Any]:
    """The page, opened; an error in its script, or a request to anywhere, fails the test."""
    out = tmp_path / "review.html"
    done = CliRunner().invoke(main, ["review", "export", str(run), "--out", str(out)])
    assert done.exit_code == 0, done.output
    context = browser.new_context(accept_downloads=True, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "blob:")) else faults.append(request.url),
    )
    page.goto(out.as_uri())
    yield page
    context.close()
    assert faults == []


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def say(page: Any, reason: str) -> None:
    page.keyboard.type(reason)
    press(page, "Control+Enter")


def states(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".card .state").all_inner_texts()]


def save(page: Any, out: Path) -> dict[str, Any]:
    with page.expect_download() as download:
        press(page, "s")
    download.value.save_as(out / download.value.suggested_filename)
    found: dict[str, Any] = json.loads((out / download.value.suggested_filename).read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_decided_by_keyboard_saved_imported_and_gated(page: Any, run: Path, tmp_path: Path) -> None:
    assert page.locator("#query").inner_text() == question(0)
    assert page.locator(".card").count() == 5
    assert page.locator("mark").all_inner_texts() == [
        "patience, and then"
    ]  # the quote, in the text's own letters
    assert "One image for all." in page.locator(".findings").inner_text()
    page.locator("#reviewer").fill("Zoë of Köln")
    press(page, "Enter")

    press(page, "a")  # Africa; America is next
    press(page, "r")
    assert page.locator("#decide").is_visible()
    press(page, "Control+Enter")
    assert "Say why" in page.locator("#decide-error").inner_text()
    say(page, "Unsafe")
    press(page, "e")  # Asia
    page.locator("#edit-text").fill("A calmer answer, <b>in Asia</b>.")
    page.locator("#reason").focus()
    say(page, "clumsy")
    press(page, "Shift+A")  # Europe and Oceania
    assert states(page) == ["Approved", "Rejected", "Edited", "Approved", "Approved"]
    press(page, "Enter")  # the next undecided query
    assert page.locator("#query").inner_text() == question(1)
    press(page, "Shift+A", "n", "Shift+A")
    assert page.locator("#progress-text").inner_text() == "15 of 19 answers · 3 of 4 queries"
    assert page.title() == "Review of run"  # and not "pwned"

    saved = save(page, tmp_path)
    assert saved["format"] == "cultural-palette-review/1"
    assert saved["reviewer"] == "Zoë of Köln"
    assert len(saved["decisions"]) == 15
    assert saved["decisions"][1] == {
        "query_id": "p00000", "community": "america", "decision": "reject", "reason": "Unsafe", "text": None,
        "text_hash": text_hash(EVIL),
    }  # fmt: skip

    file, out = tmp_path / "decisions-zoe-of-koln.json", tmp_path / "review"
    done = CliRunner().invoke(main, ["review", "import", str(run), str(file), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "13 approve, 1 edit, 1 reject, 4 undecided" in done.output
    arguments = ["dataset", "build", str(run), "--out", str(tmp_path / "ds"), "--gate", "--test-share", "0"]
    done = CliRunner().invoke(main, [*arguments, "--decisions", str(out / "review.json")])
    assert done.exit_code == 0, done.output
    groups = read_groups(tmp_path / "ds" / "groups" / "train", COMMUNITIES)
    # query 0 lost America, query 3 was not decided on: 1 and 2 are left
    assert [each["prompt"][0]["content"] for each in groups["asia"]] == [question(1), question(2)]
    answers = (tmp_path / "ds" / "answers.jsonl").read_text(encoding="utf-8")
    assert "A calmer answer, <b>in Asia</b>." in answers and "pwned" not in answers


@pytest.mark.slow
def test_undo_filter_jump_and_what_survives_a_reload(page: Any) -> None:
    press(page, "a", "a")
    assert states(page)[:3] == ["Approved", "Approved", "Undecided"]
    press(page, "z")
    assert states(page)[:2] == ["Approved", "Undecided"]
    press(page, "4", "a")
    assert states(page)[3] == "Approved"
    press(page, "ArrowLeft", "ArrowLeft", "a")  # Oceania was next; two before it is Asia
    assert states(page) == ["Approved", "Undecided", "Approved", "Approved", "Undecided"]
    page.reload()
    assert states(page)[0] == "Approved"
    assert "of an earlier sitting" in page.locator("#status").inner_text()

    press(page, "Shift+A")
    press(page, "f")  # undecided only: query 0 is decided
    assert page.locator("#filter").input_value() == "undecided"
    assert page.locator("#query").inner_text() == question(1)
    press(page, "p")
    assert "first query" in page.locator("#status").inner_text()
    press(page, "g")
    page.keyboard.type("4")
    press(page, "Enter")
    assert page.locator("#query").inner_text() == question(3)
    assert states(page)[2] == "Set aside"
    press(page, "3", "a")
    assert "no answer to decide on" in page.locator("#status").inner_text()
    press(page, "g")
    page.keyboard.type("99")
    press(page, "Enter")
    assert "No query 99" in page.locator("#status").inner_text()
    press(page, "Escape", "x")
    assert page.locator("details[open]").count() == page.locator("details").count() > 0
    press(page, "?")
    assert page.locator("#keys").is_visible()
    press(page, "a", "Escape")  # the dialog has the keys
    assert states(page)[0] == "Undecided"


@pytest.mark.slow
def test_a_file_is_loaded_and_foreign_or_old_decisions_are_left_out(page: Any, tmp_path: Path) -> None:
    right = text_hash(row(1, "africa")["response"])
    given = [
        {
            "query_id": "p00001",
            "community": "africa",
            "decision": "reject",
            "reason": "rude",
            "text": None,
            "text_hash": right,
        },
        {"query_id": "p00001", "community": "asia", "decision": "approve", "text_hash": "0" * 16},
        {"query_id": "elsewhere", "community": "asia", "decision": "approve"},
        {"query_id": "p00002", "community": "asia", "decision": "reject", "reason": ""},
    ]
    file = tmp_path / "decisions-ann.json"
    file.write_text(
        json.dumps(
            {"format": "cultural-palette-review/1", "reviewer": "Ann", "run": "run", "decisions": given}
        )
    )
    page.locator("#load-file").set_input_files(file)
    page.locator("#status", has_text="loaded").wait_for()
    assert page.locator("#status").inner_text() == (
        "1 decisions loaded; 1 are about answers not in this page; 1 are about an older text; "
        "1 lack a reason or a text."
    )
    assert page.locator("#reviewer").input_value() == "Ann"
    press(page, "n")
    assert states(page)[0] == "Rejected"
    assert save(page, tmp_path)["decisions"] == [given[0]]


@pytest.mark.slow
def test_paper_gets_every_query_and_no_toolbar(page: Any) -> None:
    press(page, "a")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    sheets = page.locator("#paper .sheet")
    assert sheets.locator("h2").all_inner_texts() == [f"{n + 1}. {question(n)}" for n in range(4)]
    assert sheets.locator(".card").count() == 20 and sheets.last.is_visible()
    assert sheets.first.locator(".state").first.inner_text() == "Approved"
    assert not page.locator("header").is_visible() and not sheets.first.locator("button").first.is_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert sheets.count() == 0 and page.locator("#query").inner_text() == question(0)


@pytest.mark.slow
def test_labels_and_contrast(browser: Any, page: Any, tmp_path: Path) -> None:
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea')].filter((each) =>
        !(each.textContent.trim() || each.getAttribute('aria-label') || (each.labels && each.labels.length)))
        .map((each) => each.id)"""
    )
    assert unnamed == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for pair in (("--ink", "--card"), ("--muted", "--ground"), ("--muted", "--card"),
                     ("--accent-ink", "--accent"),
                     ("--good", "--good-ground"), ("--warn", "--warn-ground"), ("--bad", "--bad-ground"),
                     ("--mark-ink", "--mark"), ("--bad", "--card")):  # fmt: skip
            colours = [page.evaluate(COLOUR, name) for name in pair]
            assert contrast(*colours) >= 4.5, f"{scheme}: {pair}"  # WCAG 2.2, level AA


COLOUR = "(name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of relative luminances, 1..21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
