"""What stands before a server of ours: no web page of another site drives it, and no request is read that is
too large. It knows nothing of what is behind it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Guard:
    """Refuses, before anything is read or done:

    - a page of another origin (`Origin`), unless it is in `allowed_origins`;
    - on a loopback address, a request for another host (`Host`): a page whose name was made to point here;
    - a body of more than `most_bytes`, declared or sent.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Sequence[str], most_bytes: int) -> None:
        self.app = app
        self.allowed_origins = {origin.rstrip("/").lower() for origin in allowed_origins}
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await JSONResponse({"detail": refusal[1]}, refusal[0])(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        server = scope.get("server")
        if server and is_loopback(server[0]) and not self._may_be_called(host):
            return 403, f"This server runs for this machine alone, and is not {host!r}."
        if origin is not None and origin.lower() not in self.allowed_origins and not _is_own(origin, host):
            return 403, (
                f"Pages of {origin} may not use this server. Whoever runs it may allow them: "
                f"PALETTE_ALLOWED_ORIGINS='[\"{origin}\"]'."
            )
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.most_bytes:
            return 413, self._too_large(int(length))
        return None

    def _may_be_called(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        return is_loopback(name) or name in {urlsplit(origin).hostname for origin in self.allowed_origins}

    def _counted(self, receive: Receive) -> Receive:
        """A body without a length, or with a wrong one, is read no further than the limit."""
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self.most_bytes:
                    return {"type": "http.disconnect"}
            return message

        return counted

    def _too_large(self, size: int) -> str:
        return (
            f"The request has {size:,} bytes; this server reads at most {self.most_bytes:,} "
            "(PALETTE_MOST_REQUEST_BYTES)."
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_own(origin: str, host: str) -> bool:
    """Whether a page is this server's own, on this machine: a name elsewhere has to be allowed."""
    parts = urlsplit(origin)
    return parts.netloc.lower() == host.lower() and is_loopback(parts.hostname or "")
