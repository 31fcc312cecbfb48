"""One GET without an event loop: within a time and a size, whatever the server sends, and from it alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

MOST_BYTES = 2_000_000


class Answer(NamedTuple):
    """`body`: of a success, cut at `MOST_BYTES`; empty for any other status."""

    status: int
    body: bytes


class _Stay(HTTPRedirectHandler):
    """Goes nowhere: a redirect is an answer with its own status."""

    def redirect_request(self, *_: Any) -> None:
        return None


def plain_get(url: str, key: str | None, timeout_s: float, *, proxies: bool = True) -> Answer:
    """GET, with `key` as the bearer's. Raises OSError (TimeoutError among them), HTTPException, ValueError.

    `proxies`: go by those of the environment; servers on this machine are reached without.
    """
    answer: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer.set_result(_asked(url, key, timeout_s, proxies))
        except BaseException as error:
            answer.set_exception(error)

    # in a thread: a socket's own timeout starts anew with every byte
    threading.Thread(target=ask, name=f"GET {url}", daemon=True).start()
    return answer.result(timeout_s)


def _asked(url: str, key: str | None, timeout_s: float, proxies: bool) -> Answer:
    until = time.monotonic() + timeout_s
    request = Request(url, headers={"Accept": "application/json"})
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    opener = build_opener(_Stay, *([] if proxies else [ProxyHandler({})]))
    try:
        with opener.open(request, timeout=timeout_s) as response:
            body = b""
            while len(body) < MOST_BYTES and time.monotonic() < until:
                if not (piece := response.read1(min(65536, MOST_BYTES - len(body)))):
                    break
                body += piece
            return Answer(response.status, body)
    except HTTPError as error:
        with error:
            return Answer(error.code, b"")
