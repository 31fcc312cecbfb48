"""Settings, and the one door to the environment.

A flag wins over the environment (`PALETTE_*`, then a `.env` file), that over the file (`palette.toml`, or the
one `PALETTE_CONFIG` names), that over the default. Unknown keys are refused: a misspelt setting must not pass
in silence.
"""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, create_model, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cultural_palette.errors import SettingsError
from cultural_palette.knobs import SAMPLING, Declared, RunKnobs, declared_knobs
from cultural_palette.suggestions import did_you_mean

PREFIX = "PALETTE_"
CONFIG = "PALETTE_CONFIG"
DOTENV = ".env"
OPENAI_URL = "https://api.openai.com/v1"


def field_of(knob: Declared, **more: Any) -> Any:
    """A knob as a pydantic field, with its limits."""
    limits = {
        "ge": knob.knob.at_least, "le": knob.knob.at_most, "gt": knob.knob.above, "lt": knob.knob.below,
    }  # fmt: skip
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return Field(**{"default": knob.default, "description": knob.knob.description, **given, **more})


if TYPE_CHECKING:

    class _RunKnobs(RunKnobs, BaseSettings):
        """The knobs as settings."""
else:
    _RunKnobs = create_model(
        "_RunKnobs",
        __base__=BaseSettings,
        **{name: (knob.type, field_of(knob)) for name, knob in declared_knobs().items()},
    )


class Settings(_RunKnobs):
    """What a person may set once for a machine or a project: the knobs of a run, and what no run may turn.
    Times are in seconds.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", env_file=DOTENV, extra="forbid", frozen=True
    )

    base_url: str | None = Field(
        None, description=f"OpenAI-compatible server (OPENAI_BASE_URL, else {OPENAI_URL})"
    )
    api_key: SecretStr | None = Field(None, description="its key (OPENAI_API_KEY)")
    map: str = Field("continents", description="cultural map: a built-in name or the path of a YAML file")
    request_timeout_s: float = Field(
        120.0, gt=0, le=3600, description="time for any other reply, retries included"
    )
    retries: int = Field(2, ge=0, le=100, description="how often a failed request is sent again")
    blend_checkpoint: str | None = Field(
        None, description="folder of the MoErges that a server serves (or 'nano'), to read the blend from"
    )

    prompts: str | None = Field(
        None,
        description="folder of the graph's prompts in your own words (draft.txt, ...); this goes before a "
        "palette's own",
    )
    fitted_blends: dict[str, str] = Field(
        {},
        description="files of 'palette fit-blend' by name, for `blend = 'fitted:NAME'`; callers of our own "
        "server may name these, 'palette' (the file in the palette's folder) and no path",
    )

    allowed_addresses: list[str] = Field(
        [],
        description="addresses of model servers that callers of our own server may name; "
        "those in these settings they may",
    )
    allowed_origins: list[str] = Field(
        [], description="web pages' origins, such as 'https://example.org', that may use our own server"
    )
    most_request_bytes: int = Field(
        1_000_000, ge=1_000, description="largest request, in bytes, that our own server reads"
    )
    server_key: SecretStr | None = Field(
        None, description="API key that callers of our own server have to send (`x-api-key`)"
    )
    checkpoints: SecretStr | None = Field(
        None,
        description="where our own server keeps its threads: 'sqlite:FILE' or 'postgresql://...'; "
        "left out: the LangGraph server's own",
    )
    cache_dir: str | None = Field(
        None, description="where models that are prepared once are kept (XDG_CACHE_HOME/cultural-palette)"
    )

    @field_validator("base_url")
    @classmethod
    def _a_url(cls, value: str | None) -> str | None:
        if value is None or (value.startswith(("http://", "https://")) and urlsplit(value).netloc):
            return value.rstrip("/") if value else value
        raise ValueError("expected an address that starts with http:// or https://")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flag, environment, `.env`, file; the first to give a value wins, part by part for `models`."""
        file = _Toml(settings_cls, toml_file=config_file())
        return init_settings, _Environment(settings_cls), _DotEnv(settings_cls), file

    def key_for(self, url: str | None) -> SecretStr | None:
        """The API key, for servers these settings name. A run's own context can not send the key
        elsewhere.
        """
        named = [
            self.base_url,
            *(ref.rpartition("@")[2] for ref in (self.model or "", *self.models.values())),
        ]
        origins = {_origin(text) for text in (OPENAI_URL, *named) if text}
        return self.api_key if _origin(url or self.base_url or OPENAI_URL) in origins else None


class _Environment(EnvSettingsSource):
    def __call__(self) -> dict[str, Any]:
        return _with_fallbacks(super().__call__(), self.env_vars)


class _DotEnv(DotEnvSettingsSource):
    def __call__(self) -> dict[str, Any]:
        known = Settings.model_fields  # other programs' variables stand in a .env too
        return _with_fallbacks({k: v for k, v in super().__call__().items() if k in known}, self.env_vars)


def _with_fallbacks(values: dict[str, Any], variables: Mapping[str, str | None]) -> dict[str, Any]:
    """OpenAI's own names for key and address. Empty values count as not set, as a bare line in `.env`
    means it.
    """
    plain = {name.upper(): value for name, value in variables.items()}
    values = {name: value for name, value in values.items() if value != ""}
    for field, name in (("api_key", "OPENAI_API_KEY"), ("base_url", "OPENAI_BASE_URL")):
        if plain.get(name) and field not in values:
            values[field] = plain[name]
    return values


class _Toml(TomlConfigSettingsSource):
    """TOML with or without a byte order mark, which editors on Windows write."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return tomllib.loads(file_path.read_bytes().decode("utf-8-sig"))


def config_file() -> Path | None:
    """The settings file in use, `None` without one. Raises SettingsError when PALETTE_CONFIG names none."""
    if named := os.environ.get(CONFIG):
        if not Path(named).is_file():
            raise SettingsError(f"{CONFIG} names {named!r}, which is not a file.")
        return Path(named)
    usual = Path("palette.toml")
    for file in (usual, Path(DOTENV)):
        if os.path.lexists(file) and not file.is_file():
            raise SettingsError(f"{file} is no file that can be read. Mend it, or take it away.")
    return usual if usual.is_file() else None


def get_settings(**flags: Any) -> Settings:
    """Settings with `flags` on top; a flag of `None` counts as not given. Reads the environment and files
    each time.
    """
    for key in flags:
        if key not in Settings.model_fields:
            raise SettingsError(_unknown(key, Settings.model_fields, "setting"))
    _refuse_unknown_variables()
    try:
        return Settings(**{key: value for key, value in flags.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(in_words(error)) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{config_file()} is not TOML: {error}") from None
    except RecursionError:
        raise SettingsError("Settings can not be read: lists or tables nested without an end.") from None
    except OSError as error:
        raise SettingsError(f"Settings can not be read: {error}") from None
    except ValueError as error:  # pydantic-settings: a value that should be JSON and is not
        raise SettingsError(f"Settings can not be read: {error}") from None


def cache_folder() -> Path:
    """Where models that are prepared once are kept: the setting `cache_dir`, else as XDG says."""
    if chosen := current_settings().cache_dir:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache") / "cultural-palette"


_CHOSEN: ContextVar[Settings | None] = ContextVar("palette_settings", default=None)


def current_settings() -> Settings:
    """The settings in force: those of `use_settings`, else what the environment said when first asked."""
    return _CHOSEN.get() or _of_this_process()


@contextmanager
def use_settings(settings: Settings) -> Iterator[Settings]:
    """Put `settings` in force inside the block, and in every task started there."""
    token = _CHOSEN.set(settings)
    try:
        yield settings
    finally:
        _CHOSEN.reset(token)


@functools.cache
def _of_this_process() -> Settings:
    return get_settings()


def _refuse_unknown_variables() -> None:
    known = {f"{PREFIX}{field}".upper() for field in Settings.model_fields} | {CONFIG}
    for name in os.environ:
        upper = name.upper()
        if upper.startswith(PREFIX) and upper.partition("__")[0] not in known:
            raise SettingsError(_unknown(name, sorted(known), "environment variable"))


def _unknown(name: str, known: Iterable[str], what: str) -> str:
    known = list(known)
    hint = did_you_mean(name.rpartition(".")[2], known, quoted=False) or f" There are {', '.join(known)}."
    return f"Unknown {what} {name!r}.{hint}"


def in_words(error: ValidationError, what: str = "Setting") -> str:
    """What pydantic refused, a sentence for each value that it refused."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            known = SAMPLING if where.startswith("sampling.") else Settings.model_fields
            lines.append(_unknown(where, known, "setting"))
        else:
            shown = (
                ""
                if where.startswith(("api_key", "server_key", "checkpoints"))
                else f" (got {fault['input']!r})"
            )
            lines.append(f"{what} {where!r}: {fault['msg'].removeprefix('Value error, ')}{shown}.")
    return " ".join(lines)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
