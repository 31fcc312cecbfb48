"""The page in a headless Chromium, before a real `palette ui`. Models are a small OpenAI-compatible server on
localhost; one test asks the embedded nano palette.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cultural_palette.safe_text import hidden_in, visible
from tests.fake_server import FakeServer, serve
from tests.palette.test_safe_text import HIDDEN, NASTY, SHOWN
from tests.training.test_review_page import COLOUR, contrast
from tests.ui.serving import KEYS, Served, chromium, opened, palette_ui, parts_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
SHEETS = "article.sheet"
DONE = 'article.sheet[data-phase="done"]'
WEIRD = """Who's free, "you" or $HOME? `x` \\ {country} <b>ü</b> 🎨"""

PAIRS = [
    ("--ink", "--paper"), ("--muted", "--paper"), ("--muted", "--desk"), ("--muted", "--faint"),
    ("--bad", "--paper"), ("--bad", "--bad-paper"), ("--note", "--note-paper"), ("--note", "--desk"),
]  # fmt: skip


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeServer]:
    with serve() as fake:
        yield fake


@pytest.fixture(scope="module")
def served(fake: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with palette_ui(tmp_path_factory.mktemp("ui"), parts_on(fake)) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, served: Served, fake: FakeServer) -> Iterator[Any]:
    fake.faults.clear()
    fake.requests.clear()
    fake.replies.clear()
    fake.replies["*"] = lambda body: f"{body['model']} speaks of tea."
    with opened(browser, served.url) as page:
        yield page


def choose(page: Any, country: str, field: str = "#country") -> None:
    page.locator(field).click()
    page.keyboard.type(country)
    page.keyboard.press("Enter")


def ask(page: Any, question: str | None = None, options: tuple[str, ...] = ()) -> Any:
    """Put a question; the newest row of sheets once its first answer is there."""
    if question is not None:
        page.locator("#question").fill(question)
        while page.locator("#options li").count():
            page.locator("#options li button").first.click()
        for option in options:
            page.locator("#add-option").click()
            page.keyboard.type(option)
    before = page.locator(SHEETS).count()
    page.locator("#ask").click()
    page.locator(SHEETS).nth(before).wait_for()
    row = page.locator("#answers > div").first
    row.locator('[data-phase="done"], [data-phase="failed"]').first.wait_for()
    return row


def box(locator: Any) -> dict[str, float]:
    found: dict[str, float] = locator.bounding_box()
    return found


def test_from_question_to_decision(page: Any, fake: FakeServer) -> None:
    fake.faults["europe"] = "html"
    choose(page, "Kenya")
    sheet = ask(page, "Freedom or equality?", ("Freedom", "Equality"))
    assert sheet.locator(".who b").inner_text() == "Kenya"
    assert sheet.locator(".reply").inner_text() == "Freedom"
    # the fake server: A 0.5 and " A" 0.1, B 0.2
    assert sheet.locator(".bars b").all_inner_texts() == ["75.0 %", "25.0 %"]
    freedom, equality = (box(bar) for bar in sheet.locator(".bar i").all())
    assert freedom["width"] == pytest.approx(3 * equality["width"], rel=0.02)
    drafts = sheet.locator(".draft")
    assert [box(draft)["y"] for draft in drafts.all()] == [box(drafts.first)["y"]] * 5  # side by side
    assert len({box(draft)["x"] for draft in drafts.all()}) == 5
    assert drafts.nth(0).locator(".text").inner_text() == "africa speaks of tea."
    colours = [
        draft.evaluate("e => getComputedStyle(e.querySelector('.stroke')).backgroundColor")
        for draft in drafts.all()
    ]
    assert colours[0] == "rgb(230, 159, 0)" and len(set(colours)) == 5  # the map's #E69F00
    assert drafts.nth(3).get_attribute("data-state") == "failed"
    assert "can not be read as a chat completion" in drafts.nth(3).inner_text()
    degraded = sheet.locator(".banner.degraded")
    assert "No draft for Europe" in degraded.inner_text()
    assert box(degraded)["y"] + box(degraded)["height"] <= box(sheet.locator(".answer"))["y"]
    assert sheet.locator(".account .text").inner_text() == "meta speaks of tea."
    states = {node.text_content(): node.get_attribute("data-state") for node in sheet.locator(".node").all()}
    assert states.pop("Europe") == "broken" and set(states.values()) == {"finished"}
    status = page.locator("#status").inner_text()
    assert status.startswith("Kenya: Freedom, 75 percent. No draft for Europe")


def test_the_drafts_write_and_the_running_node_is_lit(page: Any, fake: FakeServer) -> None:
    fake.faults["asia"] = "slow"
    page.locator("#ask").click()
    page.locator('.draft[aria-label="Africa"][data-state="done"]').wait_for()
    lit = page.locator('.node[data-state="running"]')
    lit.filter(has_text="Asia").wait_for()
    for _ in range(100):  # the others finish one by one
        if lit.count() == 1:
            break
        time.sleep(0.05)
    assert lit.all_text_contents() == ["Asia"]
    assert page.locator(".draft").nth(2).get_attribute("data-state") == "writing"
    assert page.locator(".line").inner_text() == "Asia writes …"
    page.get_by_role("button", name="Stop").click()
    sheet = page.locator('article.sheet[data-phase="stopped"]')
    sheet.wait_for()
    assert sheet.locator(".draft").first.locator(".text").inner_text() == "africa speaks of tea."
    assert sheet.locator(".line").inner_text() == "Stopped before the decision"


def test_by_keyboard_alone(page: Any, fake: FakeServer) -> None:
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the answers"
    page.locator("#country").focus()
    page.keyboard.type("holland")  # another name of it
    page.keyboard.press("Enter")
    assert page.locator("#country").input_value() == "the Netherlands"
    page.keyboard.type("uni")
    page.keyboard.press("ArrowDown")
    active = page.locator("#country").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
    page.keyboard.press("Escape")
    assert page.locator("#country").input_value() == "the Netherlands"
    page.locator("#ask").focus()
    page.keyboard.press("/")
    assert page.locator(":focus").get_attribute("id") == "question"
    page.keyboard.press("Control+a")
    page.keyboard.type("Tea or coffee?")
    page.locator("#options input").last.focus()
    page.keyboard.press("Control+Enter")
    page.locator(DONE).wait_for()
    assert "Tea or coffee?" in fake.sent_to("asia")[-1]["messages"][-1]["content"]


def test_what_can_not_be_put_is_said_in_place(page: Any, fake: FakeServer) -> None:
    page.locator("#question").fill(" ")
    page.locator("#ask").click()
    error = page.locator("#composer-error")
    assert "Write a question" in error.inner_text()
    assert page.locator(":focus").get_attribute("id") == "question"
    page.locator("#question").fill("Tea?")
    for _ in range(2):
        page.locator("#options li button").last.click()
    page.locator("#ask").click()
    assert "One option is no choice" in error.inner_text()
    page.locator("#seed").fill("-1")
    page.locator("#options li button").last.click()
    page.locator("#ask").click()
    assert error.inner_text().startswith("Seed: ")
    assert page.locator(SHEETS).count() == 0 and fake.requests == []


def test_a_failed_run_says_why(page: Any, fake: FakeServer) -> None:
    for key in KEYS[:3]:
        fake.faults[key] = "html"
    sheet = ask(page, "Tea?")
    assert sheet.locator(SHEETS).get_attribute("data-phase") == "failed"
    assert sheet.locator(".reply").inner_text().startswith("Only 2 of 5 drafts came, and 3 are needed")
    assert page.locator("#status").inner_text().startswith("New Zealand: no answer. Only 2 of 5")


def test_text_of_others_stays_text(page: Any, fake: FakeServer) -> None:
    fake.replies["*"] = "<img src=x onerror=\"document.title='pwned'\"> <b>bold</b>"
    sheet = ask(page, "<script>document.title='pwned'</script>", ("<i>One</i>", "Other"))
    assert sheet.locator("h2").inner_text() == "<script>document.title='pwned'</script>"
    assert "<b>bold</b>" in sheet.locator(".draft").first.inner_text()
    assert sheet.locator("img, i b, b i").count() == 0 and page.title().startswith("New Zealand: <script>")


def test_what_hides_or_reorders_is_seen_as_on_a_terminal(page: Any) -> None:
    texts = [*(f"Afri{text}ca" for text in HIDDEN.values()), *SHOWN, "a\r\nb", "\x7f", "Ye\u200ds", NASTY]
    by_page, in_json = page.evaluate(
        """async texts => {
            const {visible, escaped} = await import("/palette/static/dom.js");
            return [texts.map(visible), texts.map(text => escaped(JSON.stringify(text)))];
        }""",
        texts,
    )
    assert by_page == [visible(text) for text in texts]
    assert [json.loads(text) for text in in_json] == texts and not any(map(hidden_in, in_json))


def test_no_name_and_no_reply_reorders_the_page(browser: Any, tmp_path: Path) -> None:
    """Names of a map and of models, a survey's question and options, replies, code."""
    tag, nasty = "<img src=x onerror=alert(1)>", f"tea{NASTY}\u200b"
    map_file, survey = tmp_path / "odd.yaml", tmp_path / "s.jsonl"
    map_file.write_text(
        f"name: '{tag}'\ncommunities:\n  north: {{name: '{tag}', colour: '#112233', countries: [KEN]}}\n"
        "  south: {name: '<b>South</b>', colour: '#445566', countries: [NZL]}\n"
    )
    row = {"id": "q", "question": f"Is {nasty} {tag}?", "options": [f"Yes {nasty}", "No"], "country": "KEN"}
    survey.write_text(json.dumps(row | {"distribution": [0.5, 0.5]}) + "\n")
    with serve() as fake:
        fake.models, fake.replies["*"] = ("<b>x</b>",), f"{nasty} <b>bold</b>"
        flags = ["--map", "odd.yaml", "--model", "openai:<b>x</b>", "--base-url", fake.url]
        with (
            palette_ui(tmp_path, [*flags, "--survey", "s.jsonl"]) as served,
            opened(browser, served.url) as page,
        ):
            page.locator("#more-suggestions").click()
            page.locator("#suggestions button").last.click()
            choose(page, "Kenya")
            sheet = ask(page)
            assert tag in sheet.locator("h2").inner_text()
            assert "<b>bold</b>" in sheet.locator(".draft").first.inner_text()
            assert sheet.locator(".shares small").all_inner_texts() == ["survey 50.0 %", "survey 50.0 %"]
            sheet.get_by_role("button", name="Copy as code").click()
            for language in ("curl", "JavaScript", "Python"):
                page.get_by_role("tab", name=language).click()
                code = page.locator("#snippet").inner_text()
                assert hidden_in(code) is None and "\\u202e" in code
            given = code[code.index("input=") + 6 : code.index(",\n    context=")]
            assert ast.literal_eval(given)["query"] == row["question"]
            page.locator("#snippets button", has_text="Close").click()
            assert hidden_in(page.locator("body").inner_text()) is None and hidden_in(page.title()) is None
            assert page.locator("[onerror], .sheet b b, .text b").count() == 0


def test_two_countries_and_two_methods(page: Any, fake: FakeServer) -> None:
    page.locator("#versus").select_option("country")
    choose(page, "Japan", "#other-country")
    pair = ask(page, "Tea?")
    pair.locator(DONE).nth(1).wait_for()
    assert pair.locator(".who b").all_inner_texts() == ["New Zealand", "Japan"]
    left, right = (box(sheet) for sheet in pair.locator(SHEETS).all())
    assert left["y"] == right["y"] and left["x"] < right["x"]
    assert len(fake.sent_to("asia")) == 2

    page.locator("#versus").select_option("method")
    page.locator("#other-method").select_option("without-draft")
    pair = ask(page)
    pair.locator(DONE).nth(1).wait_for()
    whole, without = pair.locator(SHEETS).all()
    assert whole.locator(".draft").count() == 5 and without.locator(".draft").count() == 0
    assert "Without draft" in without.locator(".who").inner_text()
    nodes = ["Question", "Intake", "Memory", "Regulate", "Decide", "Answer"]
    assert without.locator(".node").all_text_contents() == nodes
    without.get_by_role("button", name="Put away").click()
    assert pair.locator(SHEETS).count() == 1


def test_a_method_of_one_draft_shows_that_one(page: Any) -> None:
    page.locator("#method").select_option("own-draft")
    sheet = ask(page, "Tea?")
    assert sheet.locator(".draft:visible h4").all_inner_texts()[0].startswith("Oceania")
    assert sheet.locator(".draft:visible").count() == 1
    assert sheet.locator(".edge.conditional").count() == 5


def test_prompts_are_changed_for_a_run_and_reset(page: Any, fake: FakeServer) -> None:
    page.locator("#open-prompts").click()
    page.locator("#prompt-draft").fill("[system]\nRhyme.\n[user]\n{community} {country} {question} {nation}")
    dialog = page.locator("#prompts")
    assert "It does not use {options}. It has no {nation}." in dialog.inner_text()
    page.get_by_role("button", name="Done").click()
    assert page.locator("#prompts-changed").inner_text() == "1 changed"
    page.locator("#ask").click()
    assert "The prompt “Draft”: It does not use {options}" in page.locator("#composer-error").inner_text()
    page.locator("#open-prompts").click()
    page.locator("#prompt-draft").fill("[system]\nRhyme.\n[user]\n{community} {country} {question} {options}")
    page.get_by_role("button", name="Done").click()
    sheet = ask(page, "Tea?")
    assert fake.sent_to("asia")[-1]["messages"][0]["content"] == "Rhyme."
    assert "own prompt: draft" in sheet.locator(".who").inner_text()
    page.locator("#open-prompts").click()
    page.locator(".prompt", has=page.locator("#prompt-draft")).get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="Done").click()
    ask(page)
    assert fake.sent_to("asia")[-1]["messages"][0]["content"] != "Rhyme."


def test_settings_go_with_the_run(page: Any, fake: FakeServer) -> None:
    page.locator("#settings summary").click()
    page.locator("#knob-temperature").fill("1.25")
    page.locator("#seed").fill("7")
    sheet = ask(page, "Tea?")
    request = fake.sent_to("asia")[-1]
    assert (request["temperature"], request["seed"]) == (1.25, 7)
    assert "seed 7 · temperature 1.25" in sheet.locator(".who").inner_text()
    page.locator("#knob-temperature").fill("3")
    page.locator("#ask").click()
    assert page.locator("#composer-error").inner_text().startswith("Temperature: ")


def test_threads_go_on_and_fork(page: Any, fake: FakeServer) -> None:
    def memory() -> str:
        return str(fake.sent_to("meta")[-2]["messages"][-1]["content"])  # to regulate; decide comes after

    first = ask(page, "First?")
    first.get_by_role("button", name="Ask on").click()
    assert "Goes on from “First?”" in page.locator("#origin").inner_text()
    second = ask(page, "Second?")
    assert "Earlier question: First?" in memory()
    second.get_by_role("button", name="Ask on").click()
    ask(page, "Third?")
    assert "Earlier question: Second?" in memory()
    page.locator("#answers > div").nth(2).get_by_role("button", name="Fork from here").click()
    assert "Forks from “First?”" in page.locator("#origin").inner_text()
    ask(page, "Fourth?")
    assert "Earlier question: First?" in memory() and "Second?" not in memory()

    page.locator("#open-threads").click()
    threads = page.locator(".thread")
    threads.filter(has_text="Fourth? (forked)").click()
    titles = page.locator(f"{SHEETS} h2")
    page.locator(SHEETS).nth(1).wait_for()
    page.locator("#status", has_text="The thread has 2 answers.").wait_for(state="attached")
    assert titles.all_inner_texts() == ["Fourth?", "First?"]
    page.locator("#open-threads").click()
    threads.filter(has_text="First?").first.click()
    page.locator("#status", has_text="The thread has 3 answers.").wait_for(state="attached")
    assert titles.all_inner_texts() == ["Third?", "Second?", "First?"]
    assert page.locator(".draft").count() == 15
    page.locator("#open-threads").click()
    page.get_by_role("button", name="Delete “Fourth? (forked)”").click()
    threads.filter(has_text="Fourth?").wait_for(state="detached")
    assert threads.filter(has_text="First?").count() >= 1


def test_a_link_holds_the_question_and_finds_the_answer(
    page: Any, browser: Any, served: Served, fake: FakeServer
) -> None:
    choose(page, "Kenya")
    page.locator("#seed").fill("5")
    sheet = ask(page, WEIRD, ("A & B", "C # D"))
    sheet.get_by_role("button", name="Link").click()
    page.locator("#status", has_text="The link is copied").wait_for(state="attached")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    fake.requests.clear()
    with opened(browser, served.url, fragment=link.partition("palette/")[2]) as other:
        other.locator(DONE).wait_for()
        assert other.locator(".reply").inner_text() == "A & B"
        assert other.locator(".bars .name").all_inner_texts() == ["A & B", "C # D"]
        assert fake.requests == []  # the answer is the thread's
    forgotten = link.partition("palette/")[2].partition("&thread=")[0]
    with opened(browser, served.url, fragment=forgotten) as other:
        assert other.locator("#question").input_value() == WEIRD
        assert other.locator("#country").input_value() == "Kenya"
        assert other.locator("#seed").input_value() == "5"
        assert [field.input_value() for field in other.locator("#options input").all()] == ["A & B", "C # D"]
        assert other.locator(SHEETS).count() == 0 and fake.requests == []  # a link asks nothing by itself


def test_the_code_it_gives_runs(page: Any, fake: FakeServer, tmp_path: Path) -> None:
    choose(page, "Kenya")
    sheet = ask(page, WEIRD, ("It's", 'A "quote"'))
    sheet.get_by_role("button", name="Copy as code").click()
    code = {}
    for language in ("curl", "Python", "JavaScript"):
        page.get_by_role("tab", name=language).click()
        code[language] = page.locator("#snippet").inner_text()
    page.locator("#snippets").get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == code["JavaScript"]

    def question() -> str:
        return str(fake.sent_to("asia")[-1]["messages"][-1]["content"])

    fake.requests.clear()
    done = subprocess.run(
        ["bash", "-c", code["curl"]], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout)["answer"] == "It's" and WEIRD in question()
    fake.requests.clear()
    done = subprocess.run(
        [sys.executable, "-c", code["Python"]], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("It's {") and WEIRD in question()
    fake.requests.clear()
    answer = page.evaluate(f"async () => {{ {code['JavaScript']}; return answer.answer; }}")
    assert answer == "It's" and WEIRD in question()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_light_and_dark(browser: Any, served: Served, page: Any, scheme: str) -> None:
    with opened(browser, served.url, width=400, scheme=scheme) as narrow:
        narrow.locator("#country").click()
        assert narrow.evaluate("document.documentElement.scrollWidth") <= 400
        assert box(narrow.locator("#country-list"))["x"] >= 0
        narrow.keyboard.press("Escape")
        narrow.locator("#versus").select_option("country")
        pair = ask(narrow, "Freedom or equality?", ("Freedom", "Equality"))
        pair.locator(DONE).nth(1).wait_for()
        wide = narrow.evaluate(
            "[...document.querySelectorAll('body, body *:not(.visually-hidden, .skip)')]"
            ".filter((e) => e.getBoundingClientRect().right > 400.5 && e.checkVisibility())"
            ".map((e) => e.outerHTML.slice(0, 80))"
        )
        assert wide == []
        assert narrow.evaluate("document.documentElement.scrollWidth") <= 400
        first, second = (box(draft) for draft in narrow.locator(".draft").all()[:2])
        assert first["x"] == second["x"] and first["y"] < second["y"]
        assert narrow.locator("svg.graph.down").count() == 2
        for pair_of in PAIRS:
            colours = [narrow.evaluate(COLOUR, name) for name in pair_of]
            assert contrast(*colours) >= 4.5, f"{scheme}: {pair_of}"  # WCAG 2.2, level AA


def test_every_control_has_a_name(page: Any) -> None:
    ask(page, "Tea?", ("Yes", "No"))
    page.locator("#open-prompts").click()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea')].filter((each) =>
        !(each.textContent.trim() || each.getAttribute('aria-label') || (each.labels && each.labels.length)))
        .map((each) => each.id || each.outerHTML)"""
    )
    assert unnamed == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}]
)
def test_no_other_page_may_use_it(served: Served, headers: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(served.url, headers=headers), timeout=20)
    assert refused.value.code == 403


def test_the_theme_is_chosen_and_kept(page: Any) -> None:
    desk = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(desk)
    page.locator("#theme").click()
    page.locator("#theme").click()
    dark = page.evaluate(desk)
    assert page.locator("html").get_attribute("data-theme") == "dark" and dark != light
    page.reload()
    page.locator("html[data-ready]").wait_for()
    assert page.evaluate(desk) == dark


def test_paper_gets_the_answers_alone(page: Any) -> None:
    ask(page, "Tea?", ("Yes", "No"))
    page.emulate_media(media="print")
    assert not page.locator("#composer").is_visible() and not page.locator(".actions").is_visible()
    assert page.locator(".draft").last.is_visible() and page.locator(".bars").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.sheet')).backgroundColor") in (
        "rgba(0, 0, 0, 0)", "rgb(255, 255, 255)",
    )  # fmt: skip


def test_one_model_on_another_map(browser: Any, fake: FakeServer, tmp_path: Path) -> None:
    fake.faults.clear()
    arguments = ["--model", "openai:meta", "--base-url", fake.url]
    with palette_ui(tmp_path, arguments) as served, opened(browser, served.url) as page:
        page.locator("#map").select_option("inglehart_welzel")
        assert page.locator("#method option[value=vanilla]").count() == 0
        sheet = ask(page, "Tea?", ("Yes", "No"))
        assert sheet.locator(".draft").count() == 8
        assert sheet.locator(".draft h4").nth(2).inner_text().startswith("Confucian")
        note = sheet.locator(".banner.note")
        assert "by prompt alone" in note.inner_text()
        assert box(note)["y"] < box(sheet.locator(".answer"))["y"]
        assert "no router" in sheet.locator(".blend-place").inner_text()


def test_the_nano_palette_blends(browser: Any, tmp_path: Path) -> None:
    with palette_ui(tmp_path) as served, opened(browser, served.url) as page:
        page.context.set_default_timeout(120_000)
        choose(page, "Iceland")  # not in its atlas
        page.get_by_role("button", name="Can most people be trusted?").click()
        row = ask(page)
        assert row.locator(SHEETS).get_attribute("data-phase") == "done", row.inner_text()
        assert "atlas has no entry" in row.locator(".banner.note").inner_text()
        shares = [float(text.removesuffix(" %")) for text in row.locator(".weights b").all_inner_texts()]
        assert len(shares) == 5 and sum(shares) == pytest.approx(100, abs=0.3)
        paint = row.locator("svg.paint:not(.dry)")
        assert paint.locator("circle").count() == 5
        mix = row.locator(SHEETS).evaluate("e => e.style.getPropertyValue('--mix')")
        assert paint.locator(".pool").get_attribute("fill") == mix
        assert "BlockingError" not in served.log.read_text(errors="replace")


def test_a_survey_stands_beside(browser: Any, fake: FakeServer, tmp_path: Path) -> None:
    fake.faults.clear()
    question, options = "Tea or coffee?", ["Tea", "Coffee"]
    row = {"id": "drinks", "question": question, "options": options}
    row |= {"country": "KEN", "distribution": [0.9, 0.1]}
    (tmp_path / "drinks.jsonl").write_text(json.dumps(row) + "\n")
    arguments = [*parts_on(fake), "--survey", "drinks.jsonl"]
    with palette_ui(tmp_path, arguments) as served, opened(browser, served.url) as page:
        page.locator("#more-suggestions").click()
        page.get_by_role("button", name=question).click()
        choose(page, "Kenya")
        sheet = ask(page)
        assert sheet.locator(".shares small").all_inner_texts() == ["survey 90.0 %", "survey 10.0 %"]
        assert "drinks surveyed (KEN)" in sheet.locator(".answer").inner_text()
        thin = [box(line)["width"] for line in sheet.locator("i.thin").all()]
        assert thin[0] == pytest.approx(9 * thin[1], rel=0.05)
        model = box(sheet.locator(".bar i").first)["width"]
        assert thin[0] / model == pytest.approx(0.9 / 0.75, rel=0.02)  # one scale; the server says 75 %
        choose(page, "Japan")  # whom nobody surveyed
        assert ask(page).locator("i.thin").count() == 0


def test_it_starts_from_a_wheel(wheel: Path, browser: Any, fake: FakeServer, tmp_path: Path) -> None:
    fake.faults.clear()
    with palette_ui(tmp_path, parts_on(fake), source=wheel) as served, opened(browser, served.url) as page:
        assert ask(page).locator(DONE).count() == 1
