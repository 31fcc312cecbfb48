"""A plan as a Docker Compose file: vLLM's image, with our plug-in in it where one server plays every part,
the same flags, folders mounted, the key from the environment.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from cultural_palette.models import BASE
from cultural_palette.serving.manifest import Source
from cultural_palette.serving.plan import KEY_VARIABLE, LOCAL_VARIABLES, ServerSpec, ServingPlan
from cultural_palette.serving.written_yaml import yaml_text

VLLM_VERSION = "v0.32.0"
IMAGE = f"${{VLLM_IMAGE:-vllm/vllm-openai:{VLLM_VERSION}}}"
OWN_IMAGE = f"${{VLLM_IMAGE:-cultural-palette-vllm:{VLLM_VERSION}}}"
"""Made of vLLM's by `vllm.Dockerfile`."""
MODELS = "/models"
ROUTER = "router.safetensors"
HUB_CACHE = "huggingface"
BUILD = f"""\
# once the image is there, which this makes in the project's folder:
#   docker build -f palette/serving/vllm.Dockerfile -t cultural-palette-vllm:{VLLM_VERSION} .
"""
HEALTH_CHECK = "import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/health', timeout=5)"
HEADER = """\
# The palette {palette!r} on vLLM. Written by
#   {command}
# Then:
#   PALETTE_API_KEY=... HF_TOKEN=... docker compose up --detach --wait
{image}# Without a key the servers ask for none; they listen on this machine's own address only. Ask with the
# palette.toml that 'palette serve up ... --print --format settings' prints. docs/serving.md has the rest.
"""


def compose_file(plan: ServingPlan, command: str, home: Path) -> str:
    """docker-compose.yml for `plan`. Folders below `home`, where the file will lie, are relative to it."""
    services = {server.name: _service(server, plan, home) for server in plan.servers}
    document: dict[str, Any] = {
        "name": f"palette-{plan.palette}".lower().replace(".", "-"),
        "services": services,
    }
    if any(service.get("volumes") and _mounts_hub_cache(service) for service in services.values()):
        document["volumes"] = {HUB_CACHE: {}}
    text = yaml_text(document)
    build = BUILD if any(server.router is not None for server in plan.servers) else ""
    return HEADER.format(palette=plan.palette, command=command, image=build) + text


def container_arguments(server: ServerSpec) -> list[str]:
    """The server's arguments as they are inside its container: folders under /models, open to Docker's own
    network.
    """
    folders = model_folders(server)
    arguments = server.arguments(
        lambda source: f"{MODELS}/{folders[source]}" if source in folders else str(source)
    )
    arguments[arguments.index("--host") + 1] = "0.0.0.0"
    return arguments


def _service(server: ServerSpec, plan: ServingPlan, home: Path) -> dict[str, Any]:
    environment = {name: value for name, value in server.environment.items() if name not in LOCAL_VARIABLES}
    volumes = [
        f"{_relative(folder, home)}:{MODELS}/{name}:ro" for folder, name in model_folders(server).items()
    ]
    if any(not isinstance(source, Path) for source in (server.model, *server.adapters.values())):
        environment["HF_TOKEN"] = "${HF_TOKEN:-}"
        volumes.append(f"{HUB_CACHE}:/root/.cache/huggingface")
    service: dict[str, Any] = {
        "image": IMAGE if server.router is None else OWN_IMAGE,
        "entrypoint": ("vllm",),
        "command": tuple(container_arguments(server)),
        "environment": environment | {KEY_VARIABLE: "${PALETTE_API_KEY:-}"},
        "volumes": volumes,
        "ports": [f"{server.host}:{server.port}:{server.port}"],
        "ipc": "host",
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ("CMD", "python3", "-c", HEALTH_CHECK.format(port=server.port)),
            "interval": "10s", "timeout": "10s", "retries": 3, "start_period": "30m",
        },
        "deploy": {
            "resources": {
                "reservations": {
                    "devices": [
                        {"driver": "nvidia", "device_ids": server.gpus, "capabilities": ("gpu",)}
                    ]
                }
            }
        },
    }  # fmt: skip
    if server.starts_after is not None:
        service["depends_on"] = {server.starts_after: {"condition": "service_healthy"}}
    return service


def model_folders(server: ServerSpec) -> dict[Source, str]:
    """Each folder or file that the server reads, and its name under /models."""
    model = server.models[0] if server.router is None else BASE
    names: dict[Source, str] = {
        server.model: model,
        **{source: name for name, source in server.adapters.items()},
    }
    if server.router is not None:
        names[server.router] = ROUTER
    return {source: name for source, name in names.items() if isinstance(source, Path)}


def _relative(folder: Source, home: Path) -> str:
    path = Path(folder)
    return f"./{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else path.as_posix()


def _mounts_hub_cache(service: dict[str, Any]) -> bool:
    return any(volume.startswith(f"{HUB_CACHE}:") for volume in service["volumes"])


def command_line(arguments: list[str]) -> str:
    """A command as a person types it."""
    return shlex.join(arguments)
