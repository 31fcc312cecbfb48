"""Model servers that run on this machine already: looked for on loopback only, at the ports they use by
default.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

from cultural_palette.jsonl import parse_json

HOST = "127.0.0.1"
PORTS: Mapping[str, int] = {"Ollama": 11434, "LM Studio": 1234, "llama.cpp": 8080, "vLLM": 8000}
OWNERS = {"vllm": "vLLM", "llamacpp": "llama.cpp", "organization_owner": "LM Studio", "library": "Ollama"}
"""What each writes as `owned_by` of its models: another one may sit on its port."""
TIMEOUT_S, MOST_S = 0.4, 2.0
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class LocalServer:
    """A server that answered: what it is, its OpenAI-compatible address, and its models."""

    name: str
    url: str
    models: tuple[str, ...]

    @property
    def flags(self) -> str:
        """What makes `palette ask` ask it."""
        named = f" --model 'openai:{self.models[0]}'" if len(self.models) > 1 else ""
        return f"--base-url {self.url}{named}"


class Search:
    """A search in the background, one thread a port: begun early, it costs no time."""

    def __init__(self, ports: Mapping[str, int] = PORTS) -> None:
        self._answers = {name: self._begin(name, port) for name, port in ports.items()}

    def servers(self) -> Sequence[LocalServer]:
        """Those that answered; waits for the last."""
        until = time.monotonic() + MOST_S
        servers = []
        for answer in self._answers.values():
            with suppress(TimeoutError):  # one that drips: a socket's own timeout starts anew with every byte
                servers.append(answer.result(max(0.0, until - time.monotonic())))
        return [server for server in servers if server is not None]

    def _begin(self, name: str, port: int) -> Future[LocalServer | None]:
        answer: Future[LocalServer | None] = Future()

        def look() -> None:
            try:
                answer.set_result(server_at(name, port))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=look, name=f"look for {name}", daemon=True).start()
        return answer


def server_at(name: str, port: int) -> LocalServer | None:
    """The server on a port of this machine that has a list of models with at least one in it; else None."""
    try:
        models = _models(port)
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None  # nothing there, or something else
    if not models:
        return None
    ids = tuple(str(model["id"]) for model in models)
    owner = str(models[0].get("owned_by", ""))
    return LocalServer(OWNERS.get(owner, name), f"http://{HOST}:{port}/v1", ids)


def _models(port: int) -> list[dict[str, object]]:
    connection = HTTPConnection(
        HOST, port, timeout=TIMEOUT_S
    )  # no proxy, no redirect: it stays on this machine
    try:
        connection.request("GET", "/v1/models", headers={"Accept": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            return []
        return list(parse_json(response.read(MOST_BYTES))["data"])
    finally:
        connection.close()


def in_words(server: LocalServer) -> str:
    """A line: what runs, and how to ask it."""
    return f"{server.name} runs here with {', '.join(server.models[:3])}: palette ask {server.flags} asks it."
