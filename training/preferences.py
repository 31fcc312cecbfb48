"""Preference rows: what may be trained on, and each community's groups out of one file of answers.

Two forms of JSONL, told apart by their keys; `prompt` is a list of chat messages in both.

    {"prompt": [..], "chosen": "..", "rejected": ["..", ..]}
        one community's groups, in a file `groups_<community>.jsonl`; with `"community": ".."` in each row,
        one file may hold several communities' groups

    {"prompt": [..], "responses": {"asia": "..", "europe": ".."}}
        every community's answer, one file for all
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from cultural_palette.errors import UsageError
from cultural_palette.jsonl import read_rows, refuse


class Group(TypedDict):
    """One community's answer to a prompt, and those it is preferred to. `place`: its "file:line".

    `community`, `rejected_of`: whose answers they are, where the row says so. `weights`: of the rejected
    ones, above 0, mean 1; none for equal ones.
    """

    prompt: list[dict[str, str]]
    chosen: str
    rejected: list[str]
    place: NotRequired[str]
    community: NotRequired[str]
    rejected_of: NotRequired[list[str]]
    weights: NotRequired[list[float]]


Distances = dict[str, dict[str, float]]
"""Community -> every other -> how far its culture lies."""


class PreferenceRowError(UsageError):
    """A preference row that cannot be trained on; names the row and what it lacks."""


def read_groups(data: Path, communities: Sequence[str]) -> dict[str, list[Group]]:
    """Each community's grouped rows, from a file or from a folder of `groups_<community>.jsonl`.

    A response row makes one group for every community: its answer chosen, all others rejected, in the map's
    order. Raises PreferenceRowError with file, line and what is missing.
    """
    if data.is_dir():
        files = {key: data / f"groups_{key}.jsonl" for key in communities}
        if missing := [key for key, file in files.items() if not file.is_file()]:
            raise PreferenceRowError(
                f"{data} has no {files[missing[0]].name}; "
                f"a folder needs one file for each of {', '.join(communities)}"
            )
        return {
            key: [_group(row, place) for row, place in read_rows(file, refuse(PreferenceRowError))]
            for key, file in files.items()
        }
    if not data.is_file():
        raise PreferenceRowError(f"No file or folder {data}.")
    groups: dict[str, list[Group]] = {key: [] for key in communities}
    file_community = _community_of(data)
    for row, place in read_rows(data, refuse(PreferenceRowError)):
        if "responses" in row:
            for key, group in groups_of(row, communities, place).items():
                groups[key].append(group)
        else:
            community = row.get("community", file_community)
            if not isinstance(community, str) or community not in groups:
                raise PreferenceRowError(
                    f"{place}: community {community!r} is not one of {', '.join(communities)}; "
                    f'give "community", or "responses" of every community'
                )
            groups[community].append(_group(row, place))
    return groups


def groups_of(row: Mapping[str, Any], communities: Sequence[str], place: str = "row") -> dict[str, Group]:
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
    others = {key: [other for other in communities if other != key] for key in communities}
    raw_groups = {
        key: {
            "prompt": row.get("prompt"),
            "chosen": answers[key],
            "rejected": [answers[other] for other in others[key]],
        }
        for key in communities
    }
    return {
        key: Group(**_group(group, f"{place}, {key}"), community=key, rejected_of=others[key])
        for key, group in raw_groups.items()
    }


def weighed(group: Group, distances: Distances) -> Group:
    """The group with its rejected answers weighed by the distances, to a mean of 1. Raises PreferenceRowError
    where the row does not say whose they are.
    """
    if "rejected_of" not in group or "community" not in group:
        raise PreferenceRowError(
            f"{group.get('place', 'row')}: a preference by distance needs to know whose the rejected answers "
            'are: give rows with "responses" of every community'
        )
    far = [distances[group["community"]][other] for other in group["rejected_of"]]
    return Group(**{**group, "weights": [one * len(far) / sum(far) for one in far]})


def check_groups(groups: Sequence[Group], where: str = "") -> None:
    """Refuse what can not be trained on: no groups, one without an answer, or different numbers of answers.

    `where`: named before the trouble. Raises PreferenceRowError.
    """
    prefix = f"{where}: " if where else ""
    if not groups:
        raise PreferenceRowError(f"{prefix}no preference rows to train on")
    rejected = len(groups[0]["rejected"])
    for number, group in enumerate(groups):
        if len(group["rejected"]) != rejected or not rejected:
            raise PreferenceRowError(
                f"{prefix}row {number} has {len(group['rejected'])} rejected answers, row 0 has {rejected}: "
                "a community is missing"
            )
        _refuse_empty(group, f"{prefix}row {number}")


def hold_out(groups: Sequence[Group], share: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Groups to train on and groups held out: every group of `share` (0..1) of the prompts, drawn by `seed`.

    By prompts, so that the joint model is not judged on a question whose other answers it has seen, and all
    agents of a run on the same questions. At least one prompt on each side, if there are two.
    """
    prompts = list(dict.fromkeys(repr(group["prompt"]) for group in groups))
    if not share or len(prompts) < 2:
        return list(groups), []
    count = min(len(prompts) - 1, max(1, round(len(prompts) * share)))
    chosen = set(random.Random(seed).sample(prompts, count))
    train = [group for group in groups if repr(group["prompt"]) not in chosen]
    return train, [group for group in groups if repr(group["prompt"]) in chosen]


def _community_of(file: Path) -> str | None:
    return file.stem.removeprefix("groups_") if file.stem.startswith("groups_") else None


def _group(row: Mapping[str, Any], place: str) -> Group:
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not (isinstance(prompt, list) and prompt and all(_is_message(message) for message in prompt)):
        raise PreferenceRowError(f'{place}: "prompt" is no list of messages with role and content')
    if not isinstance(chosen, str) or not isinstance(rejected, list) or not rejected:
        raise PreferenceRowError(f'{place}: needs "chosen", a text, and "rejected", a list of texts')
    group = Group(prompt=prompt, chosen=chosen, rejected=rejected, place=place)
    _refuse_empty(group, place)
    return group


def _refuse_empty(group: Group, place: str) -> None:
    """The one place that refuses an empty response; `sequences.encode_group` refuses one without a token."""
    for response in (group["chosen"], *group["rejected"]):
        if not isinstance(response, str) or not response.strip():
            raise PreferenceRowError(f"{place}: empty response ({response!r}): every community must answer")


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )
