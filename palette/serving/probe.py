"""Whether a server answers, and with which models. A health check alone does not tell whose server it is:
another one may sit on that port.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from http.client import HTTPException
from typing import Literal, NamedTuple

from cultural_palette.jsonl import parse_json
from cultural_palette.plain_get import plain_get

TIMEOUT_S = 5.0
LOCKED = "asks for another key"


class ProbeResult(NamedTuple):
    """`state`: "ready" serves these models; "silent" does not answer (yet); "locked" wants another key;
    "other" is not the one looked for, and `detail` says what it is instead.
    """

    state: Literal["ready", "silent", "locked", "other"]
    detail: str = ""


def probe(
    url: str, models: Sequence[str], key: str | None = None, timeout_s: float = TIMEOUT_S
) -> ProbeResult:
    """Ask /health, then whether /v1/models lists exactly `models`."""
    status, _ = _get(f"{url}/health", key, timeout_s)
    if status is None or status >= 500:
        return ProbeResult("silent")
    models_listed = listed_models(url, key, timeout_s)
    if models_listed == LOCKED:
        return ProbeResult("locked", models_listed)
    if isinstance(models_listed, str):
        return ProbeResult("other", models_listed)
    if models_listed is None:
        return ProbeResult("silent")
    if sorted(models_listed) != sorted(models):
        return ProbeResult("other", f"serves {', '.join(models_listed) or 'nothing'}")
    return ProbeResult("ready")


def listed_models(url: str, key: str | None = None, timeout_s: float = TIMEOUT_S) -> list[str] | str | None:
    """The names that a server lists; what it is when it lists none; None when nothing answers."""
    status, body = _get(f"{url}/v1/models", key, timeout_s)
    if status is None:
        return None
    if status in (401, 403):
        return LOCKED
    try:
        return [str(model["id"]) for model in parse_json(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return f"is no server of models (HTTP {status})"


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do, past connections in TIME_WAIT
        try:
            trial.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on now, all different."""
    trials = [socket.socket() for _ in range(count)]
    try:
        for trial in trials:
            trial.bind((host, 0))
        return [trial.getsockname()[1] for trial in trials]
    finally:
        for trial in trials:
            trial.close()


def _get(url: str, key: str | None, timeout_s: float) -> tuple[int | None, bytes]:
    try:
        return plain_get(url, key, timeout_s, proxies=False)
    except (OSError, HTTPException, ValueError):
        return None, b""
