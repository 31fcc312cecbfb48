"""The pictures of docs/tour.md, made again from the nano palette in a headless Chromium:

python -m tests.ui.pictures
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from tests.conftest import ROOT
from tests.ui.serving import chromium, opened, palette_ui
from tests.ui.swapped import commands, copied, run

DOCS = ROOT / "docs"
COLOURS, SCALE = 96, 0.7
NO_GRAIN = '<svg xmlns="http://www.w3.org/2000/svg"/>'
"""In the place of the paper's grain, which would make the files ten times as large."""
FREEDOM = "Which matters more to people: freedom or equality?"
WEDDING = "What do people eat at a wedding?"
WAIT_MS = 180_000


def save(picture: bytes, name: str) -> None:
    """A screenshot as a small PNG, in few colours."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.resize((int(image.width * SCALE), int(image.height * SCALE)), Image.Resampling.LANCZOS)
    image = image.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    image.save(DOCS / name, optimize=True)
    print(f"{name}  {image.width} x {image.height}  {(DOCS / name).stat().st_size // 1024} KiB")


def asked(page: Any, url: str, fields: Mapping[str, str], options: Sequence[str] = ()) -> None:
    """Ask what a link of the page's says, and wait for all of it."""
    link = urlencode([*fields.items(), *(("o", option) for option in options), ("seed", "0")])
    page.context.set_default_timeout(WAIT_MS)
    page.route("**/grain.svg", lambda route: route.fulfill(content_type="image/svg+xml", body=NO_GRAIN))
    page.goto("about:blank")
    page.goto(f"{url}#{link}")
    page.locator("html[data-ready]").wait_for()
    page.locator("#ask").click()
    sheets = 2 if any(name.startswith("beside") for name in fields) else 1
    page.locator('article.sheet[data-phase="done"]').nth(sheets - 1).wait_for()
    page.wait_for_timeout(500)


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        ours = Path(folder) / "ours"
        ours.mkdir()
        with palette_ui(ours) as served, opened(browser, served.url) as page:
            asked(page, served.url, {"country": "NZL", "q": FREEDOM}, ["Freedom", "Equality", "Don't know"])
            save(page.screenshot(full_page=True), "tour-page.png")
            beside = {"country": "KEN", "q": FREEDOM, "beside.country": "NZL"}
            asked(page, served.url, beside, ["Freedom", "Equality", "Don't know"])
            save(page.locator("#answers > div").first.screenshot(), "tour-beside.png")
        clone = copied(Path(folder) / "clone")
        run(commands("cp ")[0], clone, {})
        with palette_ui(clone, source=clone / "src") as served, opened(browser, served.url) as page:
            asked(page, served.url, {"country": "KEN", "q": WEDDING, "beside.method": "quoted"})
            save(page.locator("#answers > div").first.screenshot(), "tour-swapped.png")
        run(commands("palette evaluate")[0], clone, {})
        report = clone / "runs" / "by-name" / "report" / "report.html"
        page = browser.new_page(viewport={"width": 1000, "height": 790})
        page.goto(report.as_uri())
        save(page.screenshot(), "tour-table.png")


if __name__ == "__main__":
    main()
