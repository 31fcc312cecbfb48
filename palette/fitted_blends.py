"""Blends that were fitted to what countries answered: a file of weights, which `--blend fitted:FILE` reads.

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

FITTED = "fitted:"
BLENDS = "blends.json"
TOLERANCE = 1e-6


def is_fitted(blend: str) -> bool:
    """Whether a blend names a file of fitted ones."""
    return blend.startswith(FITTED)


def fitted_weights(blend: str, iso3: str) -> dict[str, float]:
    """A country's weights out of the file that `blend` ("fitted:FILE", or a folder with `blends.json`) names.
    Raises SettingsError for a file that is none of ours, and for a country that it has not.
    """
    path = Path(blend.removeprefix(FITTED).strip()).expanduser()
    path = path / BLENDS if path.is_dir() else path
    if not path.is_file():
        raise SettingsError(f"--blend {blend}: no file {path}; 'palette fit-blend' makes one.")
    countries = read_blends(path)["countries"]
    if iso3 not in countries:
        known = ", ".join(sorted(countries)) or "none"
        raise SettingsError(
            f"{path} has no blend of {iso3}; it has {known}. Fit one: palette fit-blend --countries {iso3}"
        )
    weights: dict[str, float] = countries[iso3]["weights"]
    return weights


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
