"""Preference rows: what may be trained on, and each community's groups out of one file of answers.

Two forms of JSONL, told apart by their keys; `prompt` is a list of chat messages in both:

    {"prompt": [..], "chosen": "..", "rejected": ["..", ..]}     one community's groups:
    `groups_<community>.jsonl` {"prompt": [..], "responses": {"asia": "..", "europe": ".."}}   every
    community's answer: one file for all

A grouped row may carry `"community": ".."`; then one file may hold several communities' groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cultural_palette.errors import UsageError
from cultural_palette.jsonl import read_rows, refuse

Row = dict[str, Any]


class PreferenceRowError(UsageError):
    """A preference row that cannot be trained on; names the row and what it lacks."""


def read_groups(data: Path, communities: Sequence[str]) -> dict[str, list[Row]]:
    """Each community's grouped rows, from a file or from a folder of `groups_<community>.jsonl`.

    A response row makes one group for every community: its answer chosen, all others rejected, in the map's
    order. Raises PreferenceRowError with file, line and what is missing.
    """
    if data.is_dir():
        files = {key: data / f"groups_{key}.jsonl" for key in communities}
        if lost := [key for key, file in files.items() if not file.is_file()]:
            raise PreferenceRowError(
                f"{data} has no {files[lost[0]].name}; "
                f"a folder needs one file for each of {', '.join(communities)}"
            )
        return {
            key: [_grouped(row, place) for row, place in read_rows(file, refuse(PreferenceRowError))]
            for key, file in files.items()
        }
    if not data.is_file():
        raise PreferenceRowError(f"No file or folder {data}.")
    groups: dict[str, list[Row]] = {each: [] for each in communities}
    own = _community_of(data)
    for row, place in read_rows(data, refuse(PreferenceRowError)):
        if "responses" in row:
            for key, group in groups_of(row, communities, place).items():
                groups[key].append(group)
        else:
            community = row.get("community", own)
            if community not in groups:
                raise PreferenceRowError(
                    f"{place}: community {community!r} is not one of {', '.join(communities)}; "
                    f'give "community", or "responses" of every community'
                )
            groups[community].append(_grouped(row, place))
    return groups


def groups_of(row: Mapping[str, Any], communities: Sequence[str], place: str = "row") -> dict[str, Row]:
    """One group for each community of a row {prompt, responses: {community: text}}."""
    answers = row["responses"]
    if not isinstance(answers, Mapping):
        raise PreferenceRowError(f'{place}: "responses" is {type(answers).__name__}, expected an object')
    if missing := [key for key in communities if key not in answers]:
        raise PreferenceRowError(f"{place}: no answer of {', '.join(missing)}: every community must answer")
    if unknown := [key for key in answers if key not in communities]:
        raise PreferenceRowError(
            f"{place}: answer of {unknown[0]!r}, which the map has not; it has {', '.join(communities)}"
        )
    rows = {
        key: {
            "prompt": row.get("prompt"),
            "chosen": answers[key],
            "rejected": [answers[o] for o in communities if o != key],
        }
        for key in communities
    }
    return {key: _grouped(group, f"{place}, {key}") for key, group in rows.items()}


def check_groups(rows: Sequence[Mapping[str, Any]], where: str = "") -> None:
    """Refuse no rows, and rows with different numbers of rejected answers. `where`: named before the
    trouble."""
    prefix = f"{where}: " if where else ""
    if not rows:
        raise PreferenceRowError(f"{prefix}no preference rows to train on")
    rejected = len(rows[0]["rejected"])
    for number, row in enumerate(rows):
        if len(row["rejected"]) != rejected or not rejected:
            raise PreferenceRowError(
                f"{prefix}row {number} has {len(row['rejected'])} rejected answers, row 0 has {rejected}: "
                "a community is missing"
            )
        if empty := [text for text in (row["chosen"], *row["rejected"]) if not text.strip()]:
            raise PreferenceRowError(f"{prefix}row {number} has an empty response ({empty[0]!r})")


def _community_of(file: Path) -> str | None:
    return file.stem.removeprefix("groups_") if file.stem.startswith("groups_") else None


def _grouped(row: Mapping[str, Any], place: str) -> Row:
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not (isinstance(prompt, list) and prompt and all(_is_message(each) for each in prompt)):
        raise PreferenceRowError(f'{place}: "prompt" is no list of messages with role and content')
    if not isinstance(chosen, str) or not isinstance(rejected, list) or not rejected:
        raise PreferenceRowError(f'{place}: needs "chosen", a text, and "rejected", a list of texts')
    for text in (chosen, *rejected):
        if not isinstance(text, str) or not text.strip():
            raise PreferenceRowError(f"{place}: empty response ({text!r}): every community must answer")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _is_message(each: object) -> bool:
    return (
        isinstance(each, dict) and isinstance(each.get("role"), str) and isinstance(each.get("content"), str)
    )
