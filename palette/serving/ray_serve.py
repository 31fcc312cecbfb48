"""Replicas of one palette's server under Ray Serve, behind one address.

A replica is vLLM's own server, started as on one machine, and what hands requests to it: all its routes pass
as they are, our blend and vLLM's token counts among them, which Ray Serve LLM's ingress does not know. Ray
Serve does the rest: it places replicas by their GPUs, adds some while requests queue, checks their health,
and lets one that goes finish its requests.

`palette serve up --print --format ray-serve` writes the configuration for `serve deploy`. This runs on the
cluster's nodes: paths in it are theirs.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiohttp
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from cultural_palette.plain_get import plain_get
from cultural_palette.serving.install import find_vllm
from cultural_palette.serving.kubernetes import BLENDS
from cultural_palette.serving.manifest import ServingError
from cultural_palette.serving.plan import KEY_VARIABLE, SITE
from cultural_palette.serving.probe import free_ports
from cultural_palette.serving.processes import Process, end, exit_code, start

SERVER, ADDRESS = "server", "address"
"""The deployments, as the configuration names them."""
POLL_S = 0.5
GRACE_S = 30.0
PREFIX_ROUTER = "ray.serve.llm.request_router:PrefixCacheAffinityRouter"
"""Ray Serve LLM's: the replica that has seen most of a prompt. It wants vLLM in Ray's own environment."""
HOP_BY_HOP = frozenset(
    ("connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


class ReplicaSettings(BaseModel):
    """The application's arguments. `arguments`: what follows `vllm`; each replica puts its own port in.
    `command`: what comes before `serve`; None for the vLLM that the node has. `key_from`: the variable, on
    the nodes, that holds the key which the servers ask for. `address`: a deployment of its own before the
    replicas. Ray Serve's router for HTTP sees no prompt, so that `prefix_affinity` takes one; it doubles the
    processor time of a call.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    arguments: tuple[str, ...]
    environment: dict[str, str] = Field(default_factory=dict)
    models: tuple[str, ...]
    command: tuple[str, ...] | None = None
    key_from: str | None = "PALETTE_API_KEY"
    start_timeout_s: float = Field(default=1800.0, gt=0)
    address: bool = False
    prefix_affinity: bool = False


class Call(BaseModel):
    """A request on its way to a replica. `prompt`: what a router may look at."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    prompt: str = ""


class ServerReplica:
    """One vLLM server. It is ready once that answers, unhealthy once that does not any more."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._folder = tempfile.mkdtemp(prefix="palette-replica-")
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        arguments = list(settings.arguments)
        for flag, value in (("--host", "127.0.0.1"), ("--port", str(port))):
            arguments[arguments.index(flag) + 1] = value
        command = settings.command or find_vllm(None).command
        key = os.environ.get(settings.key_from or "")
        environment = {**os.environ, **settings.environment, **({KEY_VARIABLE: key} if key else {})}
        if "VLLM_PLUGINS" in environment:
            paths = [str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        self._log = Path(self._folder) / "server.log"
        self._process: Process = start([*command, *arguments], environment, self._log, guarded=True)
        self._session: aiohttp.ClientSession | None = None
        self._wait(settings.start_timeout_s)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                if plain_get(f"{self.url}/health", None, 5, proxies=False).status == 200:
                    return
            if (code := exit_code(self._process)) is not None:
                raise ServingError(f"The server ended while it started (exit code {code}):\n{self._tail()}")
            if time.monotonic() > until:
                end([self._process], GRACE_S)
                raise ServingError(f"The server did not answer within {seconds:.0f} s:\n{self._tail()}")
            time.sleep(POLL_S)

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-15:])

    async def check_health(self) -> None:
        """Asked by Ray Serve every few seconds; a replica that raises is replaced."""
        if not self._process.alive:
            raise ServingError(f"The server is gone:\n{self._tail()}")
        async with self._client().get(f"{self.url}/health") as response:
            response.raise_for_status()

    async def pid(self) -> int:
        """The process that leads the server's group."""
        return self._process.pid

    async def __call__(self, request: Request) -> Response:
        """A request that came straight from Ray Serve's proxy."""
        call = await _read(request)
        return _no_blends() if call.path == BLENDS else await _answered(self.send(call))

    async def send(self, call: Call) -> AsyncIterator[bytes]:
        """Status and headers as one JSON line, then the body as it comes."""
        async with self._client().request(
            call.method, self.url + call.path, headers=call.headers, data=call.body or None,
            allow_redirects=False,
        ) as response:  # fmt: skip
            headers = {k: v for k, v in response.headers.items() if k.lower() not in HOP_BY_HOP}
            yield json.dumps({"status": response.status, "headers": headers}).encode()
            async for chunk in response.content.iter_any():
                yield chunk

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
        return self._session

    def __del__(self) -> None:
        """Ray Serve calls it once a replica that goes has answered what it had."""
        process = getattr(self, "_process", None)
        if process is not None:
            end([process], GRACE_S)


class Address:
    """Before the replicas, where a router is to look at prompts: hands requests on, and answers back."""

    def __init__(self, replicas: DeploymentHandle[Any]) -> None:
        self._replicas = replicas.options(method_name="send", stream=True)

    async def __call__(self, request: Request) -> Response:
        call = await _read(request)
        if call.path == BLENDS:
            return _no_blends()
        return await _answered(cast(AsyncIterator[bytes], self._replicas.remote(call)))


async def _read(request: Request) -> Call:
    body = await request.body()
    path = request.scope["path"].removeprefix(request.scope.get("root_path", "").rstrip("/"))
    query = f"?{request.url.query}" if request.url.query else ""
    headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
    return Call(method=request.method, path=path + query, headers=headers, body=body, prompt=_prompt(body))


def _no_blends() -> Response:
    """A blend of a client's would be made at one replica only: as where there is no such route."""
    return JSONResponse({"error": {"message": "No blends behind one address."}}, status_code=404)


async def _answered(parts: AsyncIterator[bytes]) -> Response:
    """What `ServerReplica.send` gives, as a response."""
    try:
        head = json.loads(await anext(parts))
    except (RayError, RayServeException, aiohttp.ClientError) as error:  # going, or gone: clients ask again
        message = f"No replica answered: {type(error).__name__}."
        return JSONResponse({"error": {"message": message}}, status_code=503)
    return StreamingResponse(_rest(parts), status_code=head["status"], headers=head["headers"])


async def _rest(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for part in parts:
            yield part
    finally:
        if isinstance(parts, DeploymentResponseGenerator):
            parts.cancel()  # type: ignore[no-untyped-call]  # a client that went away frees its place


def _prompt(body: bytes) -> str:
    """A request's text for a router that looks at prefixes; empty where there is none."""
    try:
        content = json.loads(body) if body else {}
        if isinstance(content.get("prompt"), str):
            return str(content["prompt"])
        return "\n".join(str(message["content"]) for message in content["messages"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def application(args: dict[str, Any]) -> serve.Application:
    """Built by Ray Serve from the configuration's `args`; scaling stands beside them, in `deployments`."""
    settings = ReplicaSettings.model_validate(args)
    server: Any = serve.deployment(ServerReplica, name=SERVER)
    if settings.prefix_affinity:
        server = server.options(request_router_config={"request_router_class": PREFIX_ROUTER})
    application: serve.Application = server.bind(settings)
    if settings.address or settings.prefix_affinity:
        address: Any = serve.deployment(Address, name=ADDRESS)
        application = address.bind(application)
    return application
