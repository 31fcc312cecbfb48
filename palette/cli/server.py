"""What an OpenAI-compatible server says it serves."""

from __future__ import annotations

from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.error import URLError

from cultural_palette.errors import ModelError
from cultural_palette.jsonl import parse_json
from cultural_palette.plain_get import plain_get

if TYPE_CHECKING:
    from cultural_palette.settings import Settings

TIMEOUT_S = 10.0
WANTS_KEY = " Set PALETTE_API_KEY (or OPENAI_API_KEY)."
HINTS = {401: WANTS_KEY, 403: WANTS_KEY, 404: " Such an address mostly ends in /v1."}


def served_models(base_url: str, settings: Settings, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Names from `GET {base_url}/models`. Raises ModelError: down, slow, no access, or no such API."""
    url = f"{base_url.rstrip('/')}/models"
    key = settings.key_for(base_url)
    try:
        status, body = plain_get(url, key.get_secret_value() if key else None, timeout_s)
    except TimeoutError:
        raise ModelError(f"{url} did not answer within {timeout_s:g} s.") from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise ModelError(f"{url} did not answer within {timeout_s:g} s.") from None
        raise ModelError(f"Can not reach {url} ({reason}). Is the server up?") from None
    if status >= 300:
        raise ModelError(f"{url} answered HTTP {status}.{HINTS.get(status, '')}")
    try:
        return [str(model["id"]) for model in parse_json(body)["data"]]
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{url} sent no list of models. Is it an OpenAI-compatible API (with /v1)?"
        ) from None
