"""Why a model did not answer, in a line that a person can act on.

Servers' own words are cut short, and never hold the key: servers echo it in a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cultural_palette.client import BrokenOff
from cultural_palette.settings import current_settings

if TYPE_CHECKING:
    from cultural_palette.models import ModelRef


def reason(ref: ModelRef, error: Exception) -> str:
    """Why, in a line. Servers' own words are cut short and never hold the key: servers echo it in a 401."""
    status = getattr(error, "status_code", None)
    kind = type(error).__name__
    said = _said(error)
    if ref.provider != "openai":
        return f"{ref} failed: {kind}: {said}."
    if status in (401, 403):
        sent = current_settings().key_for(ref.base_url) is not None
        hint = (
            "Is the key in PALETTE_API_KEY (or OPENAI_API_KEY) right?"
            if sent
            else "No key was sent: set PALETTE_API_KEY (or OPENAI_API_KEY), with the server in your settings."
        )
        return f"{ref.told} refused the key (HTTP {status}). {hint}"
    if status == 404:
        return (
            f"{ref.server} does not know the model {ref.name!r} (HTTP 404: {said}). "
            "'palette doctor' lists its models."
        )
    if status == 429:
        return (
            f"{ref.told} is too busy or its quota is used up (HTTP 429: {said}). Wait, or ask another server."
        )
    if status is not None:
        return f"{ref.told} answered HTTP {status}: {said}."
    if isinstance(error, BrokenOff):
        return f"The reply of {ref.told} broke off: {said}. Ask again."
    kinds = {each.__name__ for each in type(error).__mro__}  # langchain-openai derives its own from openai's
    if "ClientPayloadError" in kinds:
        return f"The reply of {ref.told} broke off: the connection was lost. Ask again."
    roots = [cause for cause in _causes(error) if isinstance(cause, OSError)]
    if roots:  # first: openai's aiohttp client reports a refused connection as a timeout
        why = roots[-1].strerror or roots[-1]
        return f"Can not reach {ref.server} for model {ref.name!r} ({why}). Is it up?"
    if "APITimeoutError" in kinds:
        return f"{ref.told} did not answer in time."
    if kinds & {"APIConnectionError", "ClientConnectionError"}:
        return f"The connection to {ref.server} for model {ref.name!r} was lost ({said}). Is the server up?"
    return (
        f"{ref.told} sent what can not be read as a chat completion ({kind}: {said}). "
        "Is it an OpenAI-compatible API?"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _said(error: Exception) -> str:
    body = getattr(error, "body", None)
    text = body.get("message") if isinstance(body, Mapping) else None
    text = " ".join(str(text or error).split())
    key = current_settings().api_key
    if key is not None and key.get_secret_value():
        text = text.replace(key.get_secret_value(), "***")
    return text.rstrip(".") if len(text) <= 200 else text[:200].rstrip() + " [...]"
