"""A hook of mkdocs: links that lead out of docs/ point at the repository (`repo_url`), or name the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs for each page. Raises FileNotFoundError for a link to nothing."""
    root = Path(config["docs_dir"]).parent

    def outside(found: re.Match[str]) -> str:
        text, path = found[1], found[2]
        if not (root / path).exists():
            raise FileNotFoundError(f"{page.file.src_path} links to {path}, which is not there")
        if config["repo_url"]:
            return f"[{text}]({config['repo_url'].rstrip('/')}/blob/main/{path}{found[3] or ''})"
        return text if text.strip("`") == path or "`" in text else f"{text} (`{path}`)"

    return LINK.sub(outside, markdown)
