"""Why a model did not answer, in a line that a person can act on.

Servers' own words are cut short, and never hold the key: servers echo it in a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cultural_palette.models.http import BrokenOff, Refused, Unreadable
from cultural_palette.models.references import ModelRef
from cultural_palette.settings import current_settings


def reason(ref: ModelRef, error: Exception) -> str:
    """Why, in a line. Servers' own words are cut short and never hold the key: servers echo it in a 401."""
    ours = (cause for cause in _causes(error) if isinstance(cause, Refused | BrokenOff | Unreadable))
    error = next(ours, error)  # openai wraps what its HTTP client raised
    status = getattr(error, "status_code", None)
    kind = type(error).__name__
    words = _server_words(error)
    if ref.in_process:
        return f"{ref} failed: {kind}: {words}."
    if status in (401, 403):
        sent = current_settings().key_for(ref.base_url) is not None
        hint = (
            "Is the key in PALETTE_API_KEY (or OPENAI_API_KEY) right?"
            if sent
            else "No key was sent: set PALETTE_API_KEY (or OPENAI_API_KEY), with the server in your settings."
        )
        return f"{ref.described} refused the key (HTTP {status}). {hint}"
    if status == 404:
        return (
            f"{ref.address} does not know the model {ref.name!r} (HTTP 404: {words}). "
            "'palette doctor' lists its models."
        )
    if status == 429:
        quota = f"is too busy or its quota is used up (HTTP 429: {words})"
        return f"{ref.described} {quota}. Wait, or ask another server."
    if status is not None and 300 <= status < 400:
        return (
            f"{ref.described} points elsewhere (HTTP {status}{_target(error)}). The prompt was not sent on: "
            "name the right address yourself."
        )
    if status is not None:
        return f"{ref.described} answered HTTP {status}: {words}."
    if isinstance(error, BrokenOff):
        return f"The reply of {ref.described} broke off: {words}. Ask again."
    kinds = {
        ancestor.__name__ for ancestor in type(error).__mro__
    }  # langchain-openai derives its own from openai's
    if "ClientPayloadError" in kinds:
        return f"The reply of {ref.described} broke off: the connection was lost. Ask again."
    roots = [cause for cause in _causes(error) if isinstance(cause, OSError)]
    if roots:  # first: openai's aiohttp client reports a refused connection as a timeout
        why = roots[-1].strerror or roots[-1]
        return f"Can not reach {ref.address} for model {ref.name!r} ({why}). Is it up?"
    if "APITimeoutError" in kinds:
        return f"{ref.described} did not answer in time."
    if kinds & {"APIConnectionError", "ClientConnectionError"}:
        return f"The connection to {ref.address} for model {ref.name!r} was lost ({words}). Is the server up?"
    return (
        f"{ref.described} sent what can not be read as a chat completion ({kind}: {words}). "
        "Is it an OpenAI-compatible API?"
    )


def _target(error: Exception) -> str:
    """Where a redirect points."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    target = error.location if isinstance(error, Refused) else headers.get("Location")
    return f" to {target[:200]}" if target else ""


def _causes(error: BaseException) -> Iterator[Exception]:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Exception):
            yield cause
        cause = cause.__cause__ or cause.__context__


def _server_words(error: Exception) -> str:
    body = getattr(error, "body", None)
    body = body[0] if isinstance(body, list) and body else body
    text = body.get("message") if isinstance(body, Mapping) else body if isinstance(body, str) else None
    text = " ".join(str(text or error).split())
    key = current_settings().api_key
    if key is not None and key.get_secret_value():
        text = text.replace(key.get_secret_value(), "***")
    return text.rstrip(".") if len(text) <= 200 else text[:200].rstrip() + " [...]"
