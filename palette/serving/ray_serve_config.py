"""Replicas of one palette's server under Ray Serve: the configuration that `serve deploy` takes."""

from __future__ import annotations

from typing import Any

from cultural_palette.serving.content_names import one_server
from cultural_palette.serving.kubernetes import (
    ENDPOINTS_S,
    REPLY_S,
    RUNNING_EACH,
    SCALE_DOWN_S,
    START_S,
    WAITING_EACH,
    Replicas,
    release_name,
)
from cultural_palette.serving.plan import LOCAL_VARIABLES, ServerSpec, ServingPlan
from cultural_palette.serving.written_yaml import yaml_text

APPLICATION = "cultural_palette.serving.ray_serve:application"
PORT = 8000
HEADER = """\
# Replicas of the palette {palette!r}, content {content}, behind one address. Written by
#   {command}
# Every node has this package, vLLM, the models under these paths, and PALETTE_API_KEY in its environment.
# prefix_affinity needs vLLM in Ray's own environment (pip install 'ray[llm]'): else set it to false.
#   serve deploy this-file && serve status
# Applications that are not in the file are removed: while clients still ask for another content, keep its
# application in it as well. docs/scale.md has the rest. The client's palette.toml:
{settings}"""


def ray_serve_config(plan: ServingPlan, command: str, replicas: Replicas, address: str | None = None) -> str:
    """YAML for a plan whose models are named by content. `address`: where clients reach Ray Serve.

    Raises ServingError for a plan of two servers.
    """
    server, release = one_server(plan), release_name(plan)
    settings = plan.settings(f"{address or f'http://127.0.0.1:{PORT}'}/{release}", key=True)
    header = HEADER.format(
        palette=plan.palette, content=server.content, command=command,
        settings="".join(f"#   {line}\n" if line else "#\n" for line in settings.splitlines()),
    )  # fmt: skip
    document = {
        "http_options": {"host": "0.0.0.0", "port": PORT},
        "applications": [_application(plan, replicas)],
    }
    return header + yaml_text(document)


def _application(plan: ServingPlan, replicas: Replicas) -> dict[str, Any]:
    server, release = one_server(plan), release_name(plan)
    on_gpus = plan.device.kind == "cuda"
    return {
        "name": release,
        "route_prefix": f"/{release}",
        "import_path": APPLICATION,
        "args": {
            "arguments": [*server.arguments(), "--shutdown-timeout", str(REPLY_S)],
            "environment": _environment(server, on_gpus),
            "models": list(server.models),
            "start_timeout_s": START_S,
            "prefix_affinity": on_gpus,
        },
        "deployments": [
            {
                "name": "server",
                "ray_actor_options": {"num_cpus": 1, "num_gpus": len(server.gpus)},
                "max_ongoing_requests": 4 * RUNNING_EACH,
                "autoscaling_config": {
                    "min_replicas": replicas.least, "max_replicas": replicas.most,
                    # Requests on a replica, those that wait included.
                    "target_ongoing_requests": RUNNING_EACH + WAITING_EACH,
                    "downscale_delay_s": SCALE_DOWN_S,
                },
                "health_check_period_s": 10, "health_check_timeout_s": 60,
                "graceful_shutdown_wait_loop_s": 2, "graceful_shutdown_timeout_s": REPLY_S + ENDPOINTS_S,
            },
            *([_address(replicas)] if on_gpus else []),
        ],
    }  # fmt: skip


def _address(replicas: Replicas) -> dict[str, Any]:
    """Where prompts are looked at for their prefix; a call costs it processor time, so there are several."""
    return {
        "name": "address",
        "num_replicas": replicas.least,
        "ray_actor_options": {"num_cpus": 1},
        "max_ongoing_requests": 4 * RUNNING_EACH * replicas.most,
        "graceful_shutdown_timeout_s": REPLY_S + ENDPOINTS_S,
    }


def _environment(server: ServerSpec, on_gpus: bool) -> dict[str, str]:
    environment = {name: value for name, value in server.environment.items() if name not in LOCAL_VARIABLES}
    # Replicas of one node may not all sit on the cores that were chosen for one server.
    return environment if on_gpus else environment | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
