"""A training config, a YAML file of `training/configs`: which base, which map, which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cultural_palette.suggestions import did_you_mean
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError
from cultural_palette.yaml_files import YamlFault, read_yaml

CONFIG_KEYS = ("base", "map", "task", "orpo")


@dataclass(frozen=True)
class TrainConfig:
    """A YAML file of training/configs. `base`: model folder or hub name; `map`: its key or file. `task`: of
    the task adapter that is merged into the base first (`training.task`); None for a base that needs none.
    """

    base: str | None = None
    map: str | None = None
    orpo: OrpoSettings = field(default_factory=OrpoSettings)
    task: OrpoSettings | None = None


def load_config(path: Path) -> TrainConfig:
    """Read a config; unknown keys and values that do not fit raise TrainingError with file and key."""
    try:
        data = read_yaml(path) or {}
    except FileNotFoundError:
        raise TrainingError(f"No file {path}; training/configs has some to begin with.") from None
    except (OSError, YamlFault) as error:
        raise TrainingError(f"{path} can not be read: {error}") from None
    if not isinstance(data, dict):
        raise TrainingError(f"{path}: expected {', '.join(CONFIG_KEYS)}, found {type(data).__name__}")
    _refuse_unknown(data, CONFIG_KEYS, str(path))
    for key in ("base", "map"):
        if not isinstance(value := data.get(key), str | None):
            raise TrainingError(f"{path}: {key}: expected a text, found {value!r}")
    return TrainConfig(
        data.get("base"),
        data.get("map"),
        settings_from(data.get("orpo") or {}, f"{path}: orpo"),
        settings_from(data["task"], f"{path}: task") if data.get("task") else None,
    )


def settings_from(values: Mapping[str, Any], where: str, start: OrpoSettings | None = None) -> OrpoSettings:
    """Settings with these values in the place of `start`'s; raises TrainingError, `where` first."""
    start = start or OrpoSettings()
    names = [setting.name for setting in fields(OrpoSettings)]
    if not isinstance(values, Mapping):
        raise TrainingError(f"{where}: expected settings by name, found {values!r}")
    _refuse_unknown(values, names, where)
    merged = {name: getattr(start, name) for name in names} | dict(values)
    try:
        return TypeAdapter(OrpoSettings).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        raise TrainingError(f"{where}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except TrainingError as error:
        raise TrainingError(f"{where}: {error}") from None


def _refuse_unknown(data: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in data:
        if key not in known:
            hint = did_you_mean(str(key), known) or f" Known are {', '.join(known)}."
            raise TrainingError(f"{where}: unknown key {key!r}.{hint}")
