"""Blends that were fitted to what countries answered: a file of weights, which `--blend fitted:FILE` reads.

FILE is a name, "palette" (the file in the folder of the palette that decides) or one of the setting
`fitted_blends`, or else a path. Callers of our own server may give names only (`models.allowed`).

    {"of": "agents", "model": "embedded:nano", .., "countries": {"KEN": {"weights": {"africa": 0.6, ..}, ..}}}

`palette fit-blend` writes it, with each weight's interval and what it was fitted on. A palette's own lies in
its folder as `blends.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import claim, write_whole
from cultural_palette.errors import SettingsError
from cultural_palette.jsonl import JsonFault, read_object
from cultural_palette.moerges.modes import FITTED
from cultural_palette.settings import Settings, current_settings

BLENDS = "blends.json"
OF_PALETTE = "palette"
"""Names the file in a palette's own folder."""
TOLERANCE = 1e-6


def is_fitted(blend: str) -> bool:
    """Whether a blend names a file of fitted ones."""
    return blend.startswith(FITTED)


def has_name(blend: str, settings: Settings) -> bool:
    """Whether a fitted blend is named, and not given by a path."""
    return _which(blend) in (OF_PALETTE, *settings.fitted_blends)


def fitted_weights(blend: str, iso3: str, palette: Path | None = None) -> dict[str, float]:
    """A country's weights out of the file that `blend` ("fitted:FILE", or a folder with `blends.json`) names.
    `palette`: the folder of the palette that decides, None where it is on a server. Raises SettingsError for
    a file that is not there or none of ours, and for a country that it has not.
    """
    path = file_of(blend, palette)
    countries = read_blends(path)["countries"]
    if iso3 not in countries:
        known = ", ".join(sorted(countries)) or "none"
        raise SettingsError(
            f"--blend {blend} has no blend of {iso3}; it has {known}. Fit one: "
            f"palette fit-blend --countries {iso3}"
        )
    weights: dict[str, float] = countries[iso3]["weights"]
    return weights


def _which(blend: str) -> str:
    return blend.removeprefix(FITTED).strip()


def file_of(blend: str, palette: Path | None = None) -> Path:
    """The file that `blend` names. A name wins over a file called the same; "./NAME" is the file. `palette`:
    as in `fitted_weights`. Raises SettingsError for one that is not there.
    """
    which, named = _which(blend), current_settings().fitted_blends
    if which == OF_PALETTE and which not in named:
        if palette is None:
            raise SettingsError(
                f"--blend {blend}: the palette that decides is on a server, and its folder is not known "
                "here. Name a file, or a name of the setting fitted_blends."
            )
        path = palette
    else:
        path = Path(named.get(which, which)).expanduser()
    try:
        path = path / BLENDS if path.is_dir() else path
        there = path.is_file()
    except (OSError, ValueError) as error:  # a null in the path, one too long
        raise SettingsError(f"--blend {blend}: {error}") from None
    if not there:
        raise SettingsError(f"--blend {blend}: no file {path}; 'palette fit-blend' makes one.")
    return path


def as_blend(weights: Mapping[str, float]) -> str:
    """Weights as a palette's part takes them, "africa=0.2,oceania=0.8"; what rounds to 0 is left out."""
    some = {key: round(weight, 6) for key, weight in weights.items() if round(weight, 6) > 0}
    top = max(some, key=lambda key: some[key])
    some[top] = round(some[top] + 1 - sum(some.values()), 6)
    return ",".join(f"{key}={weight:.6f}" for key, weight in some.items())


def read_blends(path: Path) -> dict[str, Any]:
    """The whole file. Raises SettingsError for what is none of ours."""

    try:
        countries = read_object(path).get("countries")
    except (JsonFault, OSError) as error:
        raise SettingsError(f"{path} can not be read: {error}") from None
    if not isinstance(countries, dict) or not all(map(_is_blend, countries.values())):
        raise SettingsError(
            f"{path} is no file of 'palette fit-blend': it needs countries with weights that sum to 1."
        )
    return read_object(path)


def _is_blend(value: object) -> bool:
    weights = value.get("weights") if isinstance(value, dict) else None
    if not isinstance(weights, dict) or not weights:
        return False
    shares = list(weights.values())
    in_range = all(isinstance(one, int | float) and 0 <= one <= 1 for one in shares)
    return in_range and abs(sum(shares) - 1) < TOLERANCE


def write_blends(path: Path, blends: Mapping[str, Any]) -> None:
    """Write the file whole; countries that it had and `blends` has not stay, where both are of one kind. One
    fit after the other: none loses what another one adds.
    """
    with claim(path, wait=True):
        existing: dict[str, Any] = {}
        if path.is_file():
            before = read_blends(path)
            same = all(before.get(key) == blends.get(key) for key in ("of", "model", "prompt"))
            existing = before["countries"] if same else {}
        whole = {**blends, "countries": {**existing, **blends["countries"]}}
        write_whole(path, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
