"""A model by name: `embedded:nano/africa`, `openai:gpt-4o-mini`, `openai:africa@http://127.0.0.1:8000/v1`.
LangGraph Studio writes `openai/gpt-4o-mini`, which is read as well.

Provider, name and, for a server of one's own, its address. No key is ever part of a reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from cultural_palette.errors import SettingsError
from cultural_palette.models.providers import PROVIDERS, Provider
from cultural_palette.settings import OPENAI_URL, current_settings
from cultural_palette.suggestions import did_you_mean

REFERENCE = re.compile(r"(?P<provider>[a-z][a-z0-9_-]*):(?P<name>[^\s@]\S*?)(?:@(?P<url>https?://\S+))?")


@dataclass(frozen=True)
class ModelRef:
    """A model by name. `str()` gives the text that `parse` reads; it never holds a key."""

    provider: str
    name: str
    base_url: str | None = None

    def __post_init__(self) -> None:
        if self.base_url is not None:
            address = urlsplit(self.base_url)
            if self.in_process:
                raise SettingsError(
                    f"Model {self.provider}:{self.name} runs in this process and takes no address."
                )
            if address.username or address.password:
                raise SettingsError(
                    f"The address of model {self.provider}:{self.name} holds a user or password; "
                    "set PALETTE_API_KEY instead, so that it stays out of results."
                )

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read `provider:name` or `provider:name@http://address`; `provider/name` as Studio writes it."""
        provider, slash, name = text.strip().partition("/")
        written = f"{provider}:{name}" if slash and provider in PROVIDERS else text.strip()
        match = REFERENCE.fullmatch(written)
        if match is None:
            raise SettingsError(
                f"Model {text!r} is not of the form provider:name or provider:name@address, such as "
                "'openai:gpt-4o-mini', "
                "'openai:africa@http://127.0.0.1:8000/v1' or 'embedded:nano'."
            )
        if match["provider"] not in PROVIDERS:
            hint = did_you_mean(match["provider"], PROVIDERS)
            raise SettingsError(
                f"Unknown provider {match['provider']!r} in model {text!r}.{hint} "
                f"There are {', '.join(PROVIDERS)}."
            )
        return cls(match["provider"], match["name"], match["url"].rstrip("/") if match["url"] else None)

    def __str__(self) -> str:
        return f"{self.provider}:{self.name}" + (f"@{self.base_url}" if self.base_url else "")

    @property
    def runs_on(self) -> Provider:
        """The provider's row in the table."""
        return PROVIDERS[self.provider]

    @property
    def in_process(self) -> bool:
        """Whether its weights are in this process: no address, no key, no network."""
        return self.runs_on.in_process

    @property
    def address(self) -> str:
        """The server that is asked: its own, or the settings'."""
        return self.base_url or current_settings().base_url or OPENAI_URL

    @property
    def described(self) -> str:
        """The model as an error names it: with the server that is asked."""
        return str(self) if self.in_process or self.base_url else f"{self} at {self.address}"

    def with_address(self, url: str | None) -> ModelRef:
        """The same model at `url`, where it has no address of its own and may have one."""
        if url is None or self.in_process or self.base_url is not None:
            return self
        return ModelRef(self.provider, self.name, url)
