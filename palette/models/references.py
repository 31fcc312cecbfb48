"""A model by name, and who runs it: one row a provider, and nothing else anywhere that depends on its name.

`embedded:nano/africa`, `openai:gpt-4o-mini`, `openai:africa@http://127.0.0.1:8000/v1`: provider, name and,
for a server of one's own, its address. No key is ever part of a reference. LangGraph Studio writes
`openai/gpt-4o-mini`, which is read as well.

A provider of your own is a row more: `PROVIDERS["mine"] = Provider("mine", open=my_open)`, where `my_open`
gives a `Model` (see `protocol.py`) for a reference.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cultural_palette.collector import collector_paused
from cultural_palette.embedded.manifest import folder_of
from cultural_palette.errors import ModelError, SettingsError
from cultural_palette.models.protocol import Model, Sampling
from cultural_palette.safe_text import hidden_in
from cultural_palette.settings import OPENAI_URL, current_settings
from cultural_palette.suggestions import did_you_mean

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

EMBEDDED, OPENAI = "embedded", "openai"
EMBEDDED_MOERGES, SERVED_MOERGES = "meta", "moerges"
"""What the MoErges of a palette is called, in this process and by `palette serve`."""


@dataclass(frozen=True)
class Provider:
    """`open` gives the model behind a reference, `chat` its plain LangChain chat model: each a callable, or
    "module:name", imported when first used.

    `in_process`: weights in this process, no address and no key. `max_tokens`: longest reply when nobody
    says. `exact`: its models always tell the log-probability of any label, so that reading them draws
    nothing. `judges`: they can be asked to judge a text. `revision`: what tells its weights from others of
    that name. `unloaded`: the palette whose weights are still to be read, by a model's name; None when they
    are in memory. `prepare`: makes a model ready that takes longer than a reply may, once on a machine, and
    says what it does. `prompts`: the graph's prompts in the words that a model was trained with, by its
    name. `patience_s`: how long an evaluation waits for a reply: one given up because the machine was busy
    would make results depend on it. `extra`: of our package, that holds what it imports. `determinism`:
    what a seed promises there.
    """

    name: str
    open: str | Callable[[ModelRef], Awaitable[Model]]
    chat: str | Callable[[ModelRef, Sampling], BaseChatModel] | None = None
    in_process: bool = True
    max_tokens: int = 1024
    exact: bool = False
    judges: bool = True
    revision: str | Callable[[str], str] | None = None
    unloaded: str | Callable[[str], str | None] | None = None
    prepare: str | Callable[[str, Callable[[str], None]], None] | None = None
    prompts: str | Callable[[str], Mapping[str, str]] | None = None
    patience_s: float = 600.0
    extra: str | None = None
    determinism: str = "{name}: nothing is known of what a seed does there"

    async def open_model(self, ref: ModelRef) -> Model:
        """The model of a reference, ready for the running event loop."""
        open_it = await asyncio.to_thread(self._load, self.open)  # what it imports reads files
        model: Model = await open_it(ref)
        return model

    def chat_model(self, ref: ModelRef, sampling: Sampling) -> BaseChatModel:
        """A new LangChain chat model. It may read files (certificates, weights)."""
        if self.chat is None:
            raise ModelError(f"The provider {self.name!r} offers no LangChain chat model.")
        model: BaseChatModel = self._load(self.chat)(ref, sampling)
        return model

    def revision_of(self, ref: ModelRef) -> str | None:
        """What tells the weights behind this reference from others of its name; None where nobody can."""
        return None if self.revision is None else str(self._load(self.revision)(ref.name))

    def prompts_of(self, ref: ModelRef) -> Mapping[str, str]:
        """Prompt -> text, of those that a model has words of its own for. Reads files."""
        own: Mapping[str, str] = {} if self.prompts is None else self._load(self.prompts)(ref.name)
        return own

    def to_load(self, ref: ModelRef) -> str | None:
        """What is read into this process when this model is first called ("embedded:nano"), or None."""
        name = None if self.unloaded is None else self._load(self.unloaded)(ref.name)
        return None if name is None else f"{self.name}:{name}"

    def make_ready(self, ref: ModelRef, say: Callable[[str], None] = lambda line: None) -> None:
        """Whatever must be done once on this machine before the model can answer; blocks. `say` hears of
        it."""
        if self.prepare is not None:
            self._load(self.prepare)(ref.name, say)

    def _load(self, target: str | Callable[..., Any]) -> Callable[..., Any]:
        if not isinstance(target, str):
            return target
        module, _, name = target.partition(":")
        try:
            with collector_paused():
                loaded: Callable[..., Any] = getattr(import_module(module), name)
        except ImportError as error:
            if self.extra is None:
                raise
            raise ModelError(
                f"The {self.name} palette needs {error.name}, which is not installed: "
                f"pip install 'cultural-palette[{self.extra}]'"
            ) from error
        return loaded


PROVIDERS: dict[str, Provider] = {
    EMBEDDED: Provider(
        EMBEDDED,
        open="cultural_palette.models.embedded:open_model",
        chat="cultural_palette.models.embedded:chat_model",
        max_tokens=160,
        patience_s=3600.0,  # a queue here is long, and never lost
        exact=True,
        judges=False,
        revision="cultural_palette.embedded.manifest:revision_of",
        unloaded="cultural_palette.embedded.manifest:unloaded",
        prepare="cultural_palette.embedded.prepare:prepare_part",
        prompts="cultural_palette.embedded.manifest:prompts_of",
        extra="embedded",
        determinism="embedded: the same seed, question, weights and package versions on the same machine "
        "give the same answer; runs at the same time may move a probability in its last bits",
    ),
    OPENAI: Provider(
        OPENAI,
        open="cultural_palette.models.server:open_model",
        chat="cultural_palette.models.openai:chat_model",
        in_process=False,
        max_tokens=1024,
        determinism="served: the seed is sent along, and the server does what it can; its arithmetic depends "
        "on what shares a batch and on what its prefix cache holds, so a probability moves in its last "
        "digits, and a reply may come out otherwise where two words were nearly as likely, at temperature 0 "
        "too",
    ),
}


REFERENCE = re.compile(r"(?P<provider>[a-z][a-z0-9_-]*):(?P<name>[^\s@]\S*?)(?:@(?P<url>https?://\S+))?")


BLEND = re.compile(r"[\w.,=+-]+")
"""What a blend is written in; with a slash, a bracket or an @ it would name another palette or server."""


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
        if hidden := hidden_in(text):
            raise SettingsError(
                f"Model {text!r} holds the character {hidden}, which nobody sees. Take it out."
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
    def content(self) -> str:
        """What a run's identity says of it: of an embedded palette its weights, by whatever path they were
        named; of a server, whose weights nobody can tell, the reference. Reads files.
        """
        revision = self.runs_on.revision_of(self)
        if revision is None:
            return str(self)
        return f"{self.provider}:{revision[:16]}/{self.name.rpartition('/')[2]}"

    @property
    def address(self) -> str:
        """The server that is asked: its own, or the settings'."""
        return self.base_url or current_settings().base_url or OPENAI_URL

    @property
    def described(self) -> str:
        """The model as an error names it: with the server that is asked."""
        return str(self) if self.in_process or self.base_url else f"{self} at {self.address}"

    @property
    def takes_blend(self) -> bool:
        """Whether `with_blend` can tell it how to blend: the MoErges of an embedded palette, or by its name
        one of `palette serve`, which may refuse.
        """
        _, slash, part = self.name.rpartition("/")
        if self.provider == OPENAI:
            return self.name.partition("[")[0] == SERVED_MOERGES
        return self.provider == EMBEDDED and bool(slash) and part.partition("[")[0] == EMBEDDED_MOERGES

    @property
    def palette_folder(self) -> Path | None:
        """Where the embedded palette lies whose part this is; None of a model on a server."""
        return folder_of(self.name.rpartition("/")[0]) if self.provider == EMBEDDED else None

    def with_blend(self, blend: str) -> ModelRef:
        """The same MoErges under another blend. Raises SettingsError for what is no MoErges of a palette, and
        for a blend that would become more than a blend in the model's name.
        """
        if not self.takes_blend:
            raise SettingsError(
                f"The blend {blend!r} is for a palette's MoErges, and {self.described} decides here: leave "
                "out --blend, or name a palette (--model embedded:nano, or what 'palette serve up' serves)."
            )
        blend = "".join(blend.split())
        if BLEND.fullmatch(blend) is None:
            raise SettingsError(
                f"The blend {blend!r} can not be read: it is a router's name, 'uniform', 'own', weights "
                "such as 'africa=0.2,oceania=0.8', or 'fitted:FILE'."
            )
        if self.provider == OPENAI:
            return ModelRef(OPENAI, f"{SERVED_MOERGES}[{blend}]", self.base_url)
        return ModelRef(self.provider, f"{self.name.rpartition('/')[0]}/{EMBEDDED_MOERGES}[{blend}]")

    def with_address(self, url: str | None) -> ModelRef:
        """The same model at `url`, where it has no address of its own and may have one."""
        if url is None or self.in_process or self.base_url is not None:
            return self
        return ModelRef(self.provider, self.name, url)
