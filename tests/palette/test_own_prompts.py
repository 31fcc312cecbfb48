"""Prompts in other words: of a run, of a folder that the settings name, of a palette's own folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import cultural_palette as cp
from cultural_palette.embedded.manifest import BUILT_IN
from cultural_palette.errors import PromptError
from cultural_palette.models import ModelRef
from cultural_palette.nodes.draft import draft
from cultural_palette.nodes.knobs import PaletteContext
from cultural_palette.nodes.regulate import regulate
from cultural_palette.prompts.own import own_texts
from cultural_palette.serving.devices import Device
from cultural_palette.serving.manifest import read_palette
from cultural_palette.serving.plan import plan_servers
from cultural_palette.settings import current_settings, use_settings
from tests.evaluation.made_up import plan
from tests.nodes.helpers import CONTINENTS, runtime, state

AFRICA = CONTINENTS.community("africa")
DRAFT = "[system]\nSay it for {community}.\n[user]\n{question} ({country}) {options}\n"
ACCOUNT = "[system]\nTell of {country}.\n[user]\n{question}\n"


@contextmanager
def prompts_in(folder: Path) -> Iterator[None]:
    with use_settings(current_settings().model_copy(update={"prompts": str(folder)})):
        yield


def folder_with(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def own_palette(folder: Path, **texts: str) -> Path:
    """nano under another name, with words of its own."""
    nano = BUILT_IN["nano"]
    folder.mkdir()
    for part in nano.iterdir():
        if part.name != "manifest.json":
            (folder / part.name).symlink_to(part)
    raw = json.loads((nano / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(raw | {"name": "worded"}), encoding="utf-8")
    if texts:
        folder_with(folder / "prompts", **texts)
    return folder


async def test_the_settings_folder_goes_before_ours_and_a_run_before_both(
    script: Any, tmp_path: Path
) -> None:
    with prompts_in(folder_with(tmp_path / "own", draft=DRAFT)):
        await draft(state(options=("Yes", "No")), runtime(), community=AFRICA)
        other = DRAFT.replace("Say it for", "Speak as")
        await draft(state(), runtime(prompt_draft=other), community=AFRICA)
        await regulate(state(), runtime())
    (_, own), (_, run), (_, ours) = script.asked
    assert own[0].text == "Say it for Africa."
    assert own[1].text == "Is tea good? (the United States) Options:\nA. Yes\nB. No"
    assert run[0].text == "Speak as Africa."
    assert ours[0].text.startswith("You know the United States well.")


def test_a_palette_is_asked_in_the_words_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cultural_palette.embedded.engine import Engine

    read: list[str] = []
    encode = Engine.encode

    def heard(self: Engine, messages: Any, room: int = 0) -> list[int]:
        read.extend(text for role, text in messages if role == "system")
        return encode(self, messages, room)

    monkeypatch.setattr(Engine, "encode", heard)
    palette = own_palette(tmp_path / "worded", draft=DRAFT, account=ACCOUNT)
    cp.ask("KEN", "Which animal is lucky?", model=f"embedded:{palette}", max_tokens=4)
    assert sorted(text for text in read if text.startswith("Say it for")) == [
        f"Say it for {community.name}." for community in sorted(CONTINENTS.communities, key=lambda c: c.name)
    ]
    assert any(text.startswith("You weigh what several communities say about Kenya.") for text in read)


def test_words_of_its_own_are_part_of_what_a_palette_is(tmp_path: Path) -> None:
    plain, worded = own_palette(tmp_path / "plain"), own_palette(tmp_path / "worded", draft=DRAFT)
    contents = [ModelRef.parse(f"embedded:{folder}/meta").content for folder in (plain, worded)]
    assert contents[0] != contents[1]


def test_a_served_palettes_clients_ask_in_its_words(tmp_path: Path) -> None:
    worded = own_palette(tmp_path / "worded", draft=DRAFT)
    lines = plan_servers(read_palette(str(worded)), Device("cpu", cores=(0, 1))).settings().splitlines()
    assert f"prompts = {json.dumps(str(worded / 'prompts'))}" in lines
    ours = plan_servers(read_palette("nano"), Device("cpu", cores=(0, 1))).settings()
    assert "prompts" not in ours


def test_an_evaluation_knows_a_folder_of_prompts_by_its_words(script: Any, tmp_path: Path) -> None:
    first = folder_with(tmp_path / "a", draft=DRAFT)
    same = folder_with(tmp_path / "b", draft=DRAFT)
    other = folder_with(tmp_path / "c", draft=DRAFT.replace("Say", "Tell"))

    def config(folder: Path | None) -> dict[str, Any]:
        return plan("vanilla", prompts=folder and str(folder)).config()

    assert config(first) == config(same) != config(other)
    assert "own_prompts" not in config(None)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"drafts": DRAFT}, r"drafts\.txt is no prompt of the graph; there are account\.txt, decide\.txt"),
        ({"draft": "[system]\nx\n[user]\n{question}"}, r"draft\.txt: .*does not use \{community\}"),
        ({"draft": "Answer {question}."}, r"draft\.txt: .*"),
        ({}, "holds no prompt; it may hold account.txt"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused(
    tmp_path: Path, texts: dict[str, str], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        own_texts(folder_with(tmp_path / "own", **texts))


def test_a_folder_that_is_not_there_and_a_text_of_other_bytes(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="No such file"):
        own_texts(tmp_path / "nowhere")
    (tmp_path / "draft.txt").write_bytes(b"[system]\n\xff")
    with pytest.raises(PromptError, match="is not UTF-8"):
        own_texts(tmp_path)


def test_a_text_that_was_changed_is_read_again(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "own", draft=DRAFT)
    (folder / ".DS_Store").touch()
    assert own_texts(folder) == {"draft": DRAFT}
    (folder / "draft.txt").write_text(DRAFT.replace("Say", "Tell"), encoding="utf-8")
    assert "Tell it for" in own_texts(folder)["draft"]


def test_studio_shows_no_setting_for_it() -> None:
    assert "prompts" not in PaletteContext.model_fields  # callers of a server name no folder on it
