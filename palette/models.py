"""Which chat model plays which part, and how it is asked.

A part is a community's key, "meta" (distils and decides) or "base" (the plain base model). A model is named
by provider, name and, for a server of one's own, its address: `embedded:nano/africa`, `openai:gpt-4o-mini`,
`openai:africa@http://127.0.0.1:8000/v1`.
"""

from __future__ import annotations

import asyncio
import difflib
import re
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage

from cultural_palette.calls import keeping, kept
from cultural_palette.client import Pool, Refused, Server, Unreadable, budget
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import MapError, ModelError, PaletteError, SettingsError
from cultural_palette.faults import reason
from cultural_palette.settings import OPENAI_URL, current_settings

META, BASE = "meta", "base"
DEFAULT_PALETTE = "nano"
EMBEDDED_MAX_TOKENS, SERVER_MAX_TOKENS = 160, 1024
REF = re.compile(r"(?P<provider>[a-z][a-z0-9_-]*):(?P<name>[^\s@]\S*?)(?:@(?P<url>https?://\S+))?")


@dataclass(frozen=True)
class ModelRef:
    """A model by name. `str()` gives the text that `parse` reads; it never holds a key."""

    provider: str
    name: str
    base_url: str | None = None

    def __post_init__(self) -> None:
        if self.base_url is not None:
            address = urlsplit(self.base_url)
            if self.provider == "embedded":
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
        """Read `provider:name` or `provider:name@http://address`."""
        match = REF.fullmatch(text.strip())
        if match is None:
            raise SettingsError(
                f"Model {text!r} is not of the form provider:name or provider:name@address, such as "
                "'openai:gpt-4o-mini', "
                "'openai:africa@http://127.0.0.1:8000/v1' or 'embedded:nano'."
            )
        if match["provider"] not in PROVIDERS:
            near = difflib.get_close_matches(match["provider"], PROVIDERS, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise SettingsError(
                f"Unknown provider {match['provider']!r} in model {text!r}. {hint}"
                f"There are {', '.join(PROVIDERS)}."
            )
        return cls(match["provider"], match["name"], match["url"].rstrip("/") if match["url"] else None)

    def __str__(self) -> str:
        return f"{self.provider}:{self.name}" + (f"@{self.base_url}" if self.base_url else "")

    @property
    def server(self) -> str:
        """The address that is asked: its own, or the settings'."""
        return self.base_url or current_settings().base_url or OPENAI_URL

    @property
    def told(self) -> str:
        """The model as an error names it: with the server that is asked."""
        return f"{self} at {self.server}" if self.provider == "openai" and not self.base_url else str(self)


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. `max_tokens=None`: the provider's default."""

    temperature: float = 0.0
    max_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Parts:
    """The cast. `prompted`: one model plays several communities, told apart by the prompt alone."""

    agents: Mapping[str, ModelRef]
    meta: ModelRef
    base: ModelRef
    prompted: bool

    def of(self, part: str) -> ModelRef:
        """The model of a community, of "meta" or of "base"."""
        return {**self.agents, META: self.meta, BASE: self.base}[part]


def resolve_parts(cultural_map: CulturalMap, models: Mapping[str, str], model: str | None) -> Parts:
    """Cast every part: `models` by part, then the one `model`, then the embedded nano palette.

    Reads the manifest of an embedded palette: call it in a thread from async code. Raises SettingsError for
    unknown parts and names, ModelError when the embedded palette lacks a community of the map.
    """
    keys = [community.key for community in cultural_map.communities]
    for taken in {META, BASE} & set(keys):
        raise MapError(
            f"Map {cultural_map.key!r}: a community can not be called {taken!r}, which is a part's name."
        )
    parts = (*keys, META, BASE)
    for part in models:
        if part not in parts:
            near = difflib.get_close_matches(part, parts, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise SettingsError(f"Unknown part {part!r} in `models`. {hint}The parts are {', '.join(parts)}.")
    default = ModelRef.parse(model) if model else ModelRef("embedded", DEFAULT_PALETTE)
    cast: dict[str, ModelRef] = {}
    lacking: dict[str, list[str]] = {}
    for part in parts:
        ref = ModelRef.parse(models[part]) if part in models else default
        if ref.provider == "embedded":
            ref, known = _embedded_part(ref, part)
            if not known:
                palette, _, own = ref.name.rpartition("/")
                lacking.setdefault(palette, []).append(own)
        cast[part] = ref
    for palette, missing in lacking.items():
        raise ModelError(
            f"The embedded palette {palette!r} has no model for {', '.join(missing)} of the map "
            f"{cultural_map.name!r}. Name a model that plays every part (--model openai:NAME), or one for "
            "each part (`models` in palette.toml)."
        )
    agents = {key: cast[key] for key in keys}
    return Parts(agents, cast[META], cast[BASE], prompted=len(set(agents.values())) < len(keys))


def _embedded_part(ref: ModelRef, part: str) -> tuple[ModelRef, bool]:
    """The embedded model of a part, and whether the palette has it. "nano" plays each part with its own
    model.
    """
    from cultural_palette.embedded.manifest import read_manifest

    palette, _, own = ref.name.rpartition("/")
    try:
        manifest = read_manifest(ref.name)
    except ModelError:
        if not palette:
            raise
        manifest = read_manifest(palette)
    else:
        palette, own = ref.name, part
    return ModelRef("embedded", f"{palette}/{own}"), own in (*manifest.communities, META, BASE)


# -- chat models --------------------------------------------------------------------------------


def _embedded(ref: ModelRef, sampling: Sampling) -> BaseChatModel:
    from cultural_palette.embedded.chat_model import EmbeddedChatModel

    palette, _, part = ref.name.rpartition("/")
    return EmbeddedChatModel(
        palette=palette,
        part=part,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens or EMBEDDED_MAX_TOKENS,
        seed=sampling.seed,
    )


def _openai(ref: ModelRef, sampling: Sampling) -> BaseChatModel:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    settings = current_settings()
    options: dict[str, Any] = {"http_async_client": client} if (client := _CLIENT.get()) is not None else {}
    return ChatOpenAI(
        model=ref.name,
        base_url=ref.server,
        api_key=settings.key_for(ref.base_url) or SecretStr("none"),
        temperature=sampling.temperature,
        max_completion_tokens=sampling.max_tokens or SERVER_MAX_TOKENS,
        seed=sampling.seed,
        timeout=settings.request_timeout_s,
        max_retries=settings.retries,
        stream_usage=True,
        use_responses_api=False,
        **options,
    )


Factory = Callable[[ModelRef, Sampling], BaseChatModel]
PROVIDERS: dict[str, Factory] = {"embedded": _embedded, "openai": _openai}


def chat_model(ref: ModelRef, sampling: Sampling) -> BaseChatModel:
    """A new chat model. It may read files (certificates, weights): from async code use `open_model`."""
    return PROVIDERS[ref.provider](ref, sampling)


@dataclass
class _PerLoop:
    """What belongs to one running event loop: a client of another loop fails with "Event loop is closed"."""

    pool: Pool | None = None
    client: Any = None  # openai's, for servers that are no vLLM
    models: dict[Any, BaseChatModel] = field(default_factory=dict)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    keeper: AsyncGenerator[None] | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self.pool is not None:
            await self.pool.close()
        if self.client is not None:
            await self.client.aclose()


_CLIENT: ContextVar[Any] = ContextVar("palette_http_client", default=None)
_LOOPS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _PerLoop] = weakref.WeakKeyDictionary()
MOST_MODELS_KEPT = 256
VLLM = "vllm"


async def open_model(ref: ModelRef, sampling: Sampling) -> BaseChatModel:
    """The chat model for the running loop, made once, with this loop's connections.

    A vLLM server, as its list of models tells, gets our own client; any other ChatOpenAI.
    """
    if ref.provider != "openai":
        return await asyncio.to_thread(chat_model, ref, sampling)
    here = _LOOPS.setdefault(asyncio.get_running_loop(), _PerLoop())
    settings = current_settings()
    key = settings.key_for(ref.base_url)
    wanted = (ref, sampling, settings.base_url, key, settings.request_timeout_s, settings.retries)
    if wanted in here.models:
        return here.models[wanted]
    if here.pool is None:
        here.pool = Pool.open()
        here.keeper = _until_the_loop_ends(here)
        await anext(here.keeper)
    url = ref.server
    server = here.pool.server(url, key, settings.retries)
    if url != OPENAI_URL and await _is_vllm(server):
        from cultural_palette.served import ServedChatModel

        model: BaseChatModel = ServedChatModel.on(
            server,
            model=ref.name,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens or SERVER_MAX_TOKENS,
            seed=sampling.seed,
        )
    else:
        async with here.opening:
            if here.client is None:
                here.client = await asyncio.to_thread(_new_client)
            token = _CLIENT.set(here.client)
            try:
                model = await asyncio.to_thread(chat_model, ref, sampling)
            finally:
                _CLIENT.reset(token)
    while len(here.models) >= MOST_MODELS_KEPT:
        here.models.pop(next(iter(here.models)))
    return here.models.setdefault(wanted, model)


async def _is_vllm(server: Server) -> bool:
    """Whether a server is vLLM; asked once a loop. One without a list of models is another."""
    if VLLM not in server.learned:
        async with server.learning:
            if VLLM not in server.learned:
                server.learned[VLLM] = await _owned_by_vllm(server)
    return bool(server.learned[VLLM])


async def _owned_by_vllm(server: Server) -> bool:
    try:
        listed = await server.get("/models")
        return any(model.get("owned_by") == VLLM for model in listed["data"])
    except Refused as refused:
        if refused.status_code in (400, 404, 405, 501):
            return False
        raise
    except (Unreadable, KeyError, TypeError, AttributeError):
        return False


async def close_clients() -> None:
    """Close the running loop's connections: for a program that goes on after it has asked its last.

    `asyncio.run` does it by itself when it ends.
    """
    here = _LOOPS.pop(asyncio.get_running_loop(), None)
    if here is not None and here.keeper is not None:
        await here.keeper.aclose()


async def _until_the_loop_ends(here: _PerLoop) -> AsyncGenerator[None]:
    """Closes the connections when it is closed, which `asyncio.run` does to every generator at its end."""
    try:
        yield
    finally:
        _LOOPS.pop(asyncio.get_running_loop(), None)
        await here.close()


def _new_client() -> Any:
    """openai's HTTP client over aiohttp where that is installed: less than half the CPU time a request, and
    no cap at 100.
    """
    import openai

    try:
        return openai.DefaultAioHttpClient()
    except RuntimeError:  # openai without its aiohttp extra
        return openai.DefaultAsyncHttpxClient()


# -- asking --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """What a model said. `usage`: {"input_tokens", "output_tokens"}, `None` when it was not told."""

    text: str
    seconds: float
    message: AIMessage
    usage: dict[str, int] | None

    @classmethod
    def from_kept(cls, row: Mapping[str, Any]) -> Reply:
        """A reply as a call store keeps it; `seconds` as it took when it was asked."""
        return cls(row["text"], row["seconds"], AIMessage(row["text"]), row["usage"])


async def ask(
    ref: ModelRef,
    sampling: Sampling,
    messages: Sequence[BaseMessage],
    *,
    timeout_s: float,
    tags: Sequence[str] = (),
) -> Reply:
    """One reply within `timeout_s`, retries included; with a call store in force (`palette.calls`), kept
    there and asked once. A ModelError says who failed, why, and the way out.
    """
    if not keeping():
        return await _ask(ref, sampling, messages, timeout_s, tags)

    async def asked() -> dict[str, Any]:
        reply = await _ask(ref, sampling, messages, timeout_s, tags)
        return {"text": reply.text, "seconds": reply.seconds, "usage": reply.usage}

    shape = asdict(sampling)
    if sampling.temperature == 0:
        shape["seed"] = None  # the likeliest reply needs none: runs of other seeds share it
    return Reply.from_kept(await kept("reply", ref, messages, shape, asked))


async def _ask(
    ref: ModelRef, sampling: Sampling, messages: Sequence[BaseMessage], timeout_s: float, tags: Sequence[str]
) -> Reply:
    start = time.perf_counter()
    async with guarded(ref, timeout_s):
        model = await open_model(ref, sampling)
        message = await model.ainvoke(list(messages), {"tags": list(tags)} if tags else None)
    text = message.text.strip()
    finish = message.response_metadata.get("finish_reason")
    if ref.provider == "openai" and finish is None:
        raise ModelError(f"The reply of {ref.told} broke off after {len(text)} characters. Ask again.")
    if not text:
        hint = (
            " It used up its tokens before it said anything: raise max_tokens." if finish == "length" else ""
        )
        raise ModelError(f"{ref.told} gave an empty reply.{hint}")
    return Reply(text, time.perf_counter() - start, message, usage_of(message))


def usage_of(message: AIMessage) -> dict[str, int] | None:
    """Tokens in and out of a reply, `None` when the model did not say."""
    usage = message.usage_metadata
    return {"input_tokens": usage["input_tokens"], "output_tokens": usage["output_tokens"]} if usage else None


@asynccontextmanager
async def guarded(ref: ModelRef, timeout_s: float) -> AsyncIterator[None]:
    """A time budget around a model, retries included, out of which only a ModelError comes: it says who
    failed, why, and the way out.
    """
    try:
        async with asyncio.timeout(timeout_s):
            try:
                with budget(timeout_s):
                    yield
            except PaletteError:
                raise
            except Exception as error:  # a chat model is foreign code: servers, SDKs and users' own classes
                raise ModelError(reason(ref, error)) from error
    except TimeoutError:
        raise ModelError(f"{ref.told} did not answer within {timeout_s:g} s.") from None
