"""The graph's prompts in one's own words: a folder with `draft.txt` and any of the others."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path

from cultural_palette.errors import PromptError
from cultural_palette.prompts import fields_of, names, render


def own_texts(folder: Path) -> Mapping[str, str]:
    """Prompt -> text. Raises PromptError for a folder that is not there or holds none, a file that is no
    prompt of the graph, and a text whose sections or fields are not those of ours.
    """
    try:
        files = [f for f in os.scandir(folder) if not f.name.startswith(".")]  # a file manager's own
        return _read(folder, tuple(sorted((f.name, f.stat().st_mtime_ns) for f in files)))
    except OSError as error:
        raise PromptError(f"The prompts in {folder} can not be read: {error.strerror or error}.") from None


@functools.lru_cache(maxsize=64)
def _read(folder: Path, state: tuple[tuple[str, int], ...]) -> Mapping[str, str]:
    texts = {}
    for name, _ in state:
        stem, _, end = name.rpartition(".")
        if end != "txt" or stem not in names():
            known = ", ".join(f"{known}.txt" for known in names())
            raise PromptError(f"{folder / name} is no prompt of the graph; there are {known}.")
        try:
            texts[stem] = (folder / name).read_text(encoding="utf-8")
            render(stem, template=texts[stem], **{field: field for field in fields_of(stem)})
        except UnicodeDecodeError:
            raise PromptError(f"{folder / name} is not UTF-8.") from None
        except PromptError as error:
            raise PromptError(f"{folder / name}: {error}") from None
    if not texts:
        raise PromptError(f"{folder} holds no prompt; it may hold {', '.join(f'{n}.txt' for n in names())}.")
    return texts
