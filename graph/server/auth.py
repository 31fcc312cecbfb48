"""Who may call a server of ours: whoever sends its key, in `x-api-key` or as a bearer token.

The key is PALETTE_SERVER_KEY. Without one nobody gets in: a server for one machine alone leaves this handler
out (`palette studio`).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from langgraph_sdk import Auth

from cultural_palette.settings import current_settings

auth = Auth()
NO_KEY = "This server has no key yet: whoever runs it sets PALETTE_SERVER_KEY."
WRONG_KEY = "Send this server's key in the header 'x-api-key'."


@auth.authenticate
async def authenticate(headers: Mapping[Any, Any]) -> Auth.types.MinimalUserDict:
    """The one user there is, for whoever has the key; 401 for everybody else."""
    key = current_settings().server_key
    if key is None or not key.get_secret_value():
        raise Auth.exceptions.HTTPException(status_code=401, detail=NO_KEY)
    if not hmac.compare_digest(_sent(headers).encode(), key.get_secret_value().encode()):
        raise Auth.exceptions.HTTPException(status_code=401, detail=WRONG_KEY)
    return {"identity": "palette"}


def _sent(headers: Mapping[Any, Any]) -> str:
    """The key of a request; header names and values come as text or as bytes."""
    plain = {_text(name).lower(): _text(value) for name, value in headers.items()}
    if "x-api-key" in plain:
        return plain["x-api-key"].strip()
    scheme, _, token = plain.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
