"""The report as one page that needs nothing else: it sorts, prints, and is light or dark."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cultural_palette.evaluation.report.figures import INK, Picture
from cultural_palette.evaluation.report.layout import Table, to_html
from cultural_palette.safe_text import visible

TEMPLATE = Path(__file__).with_name("page.html")
ID = re.compile(r'\b(id=")([^"]+)"')
REFERENCE = re.compile(r'(url\(#|xlink:href="#)([^")]+)')
NARROW = ("radar",)


@dataclass(frozen=True)
class Part:
    """A part of the page: heading, and what stands under it in order; `html` is ready-made."""

    key: str
    heading: str
    html: str


def page(title: str, parts: Sequence[Part], *, subtitle: str, verdict: Sequence[str], partial: bool) -> str:
    """The whole page."""
    banner = ""
    if partial:
        banner = '<p class="partial">PARTIAL: this run is not finished. Nothing here is a result.</p>'
    sentences = "".join(f"<li>{escape(line)}</li>" for line in verdict)
    links = "".join(f'<a href="#part-{part.key}">{escape(part.heading)}</a>' for part in parts)
    body = "".join(
        f'<section id="part-{part.key}"><h2>{escape(part.heading)}</h2>{part.html}</section>'
        for part in parts
    )
    head = f'<header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p>{banner}</header>'
    text = f'{head}<nav>{links}</nav><ul class="verdict">{sentences}</ul><main>{body}</main>'
    name = f"PARTIAL: {title}" if partial else title
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(name), body=text)


def tables_part(
    key: str, heading: str, tables: Sequence[Table | None], pictures: Sequence[Picture | None]
) -> Part:
    """Tables, then pictures."""
    parts = [to_html(table) for table in tables if table is not None]
    parts += [picture_html(picture) for picture in pictures if picture is not None]
    return Part(key, heading, "".join(parts))


def picture_html(picture: Picture) -> str:
    """A picture inside the page: its text takes the page's colour, its ids are its own."""
    start = picture.svg.index("<svg")
    svg = picture.svg[start:].replace(INK, "currentColor")
    svg = ID.sub(rf'\1{picture.key}-\2"', svg)
    svg = REFERENCE.sub(rf"\1{picture.key}-\2", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    svg = f'{head} role="img" aria-label="{escape(picture.caption)}">{rest}'
    narrow = " narrow" if picture.key in NARROW else ""
    return (
        f'<figure class="picture{narrow}" id="figure-{picture.key}">{svg}'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def facts_html(facts: Mapping[str, str]) -> str:
    """Names and values."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()) + "</dl>"


def escape(text: str) -> str:
    """Anyone's text, safe inside the page."""
    return html.escape(visible(text))
