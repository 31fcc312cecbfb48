"""Replicas of one palette's server on Kubernetes, behind one address: manifests for `kubectl apply`.

llm-d's endpoint picker, behind any gateway of the Gateway API with the Inference Extension, sends a request
to the replica that has its prompt's prefix, its adapter and the shortest queue; KEDA adds replicas while
requests wait. Everything carries the content of what is served in its name, path included: new weights stand
beside the old ones until nobody asks for those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cultural_palette.serving.compose import VLLM_VERSION, container_arguments, model_folders
from cultural_palette.serving.content_names import one_server
from cultural_palette.serving.manifest import ServingError
from cultural_palette.serving.plan import KEY_VARIABLE, LOCAL_VARIABLES, ServerSpec, ServingPlan
from cultural_palette.serving.written_yaml import yaml_text

IMAGE = f"cultural-palette-vllm:{VLLM_VERSION}"
PICKER_IMAGE = "ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.9.0"
GATEWAY = "inference-gateway"
PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
SECRET, MODELS_CLAIM = "palette", "palette-models"
PORT, PICKER_PORT, PICKER_HEALTH_PORT = 8000, 9002, 9003
ENDPOINTS_S = 15
"""What endpoints and gateways take, at most, to forget a pod that ends; it still answers for as long."""
REPLY_S = 600
"""The longest reply that is waited for: by the gateway, and by a server that ends."""
START_S = 1800
WAITING_EACH = 4
"""Requests that may wait on a replica before another is added."""
RUNNING_EACH = 200
"""Requests that a replica works on before another is added: four fifths of vLLM's own --max-num-seqs, 256."""
SCALE_DOWN_S = 600
CONFIG = "palette.yaml"
BLENDS = "/v1/palette/blends"
"""Where a client has a blend of its own made, at one server."""
HEADER = """\
# Replicas of the palette {palette!r}, content {content}, behind one address. Written by
#   {command}
# The cluster needs a gateway {gateway!r} with the Gateway API Inference Extension, KEDA, and Prometheus'
# operator, at {prometheus}. Then:
#   kubectl create secret generic {secret} --from-literal=key=... --from-literal=hf-token=...
#   copy the models to {release}/ on the volume {claim}: {folders}
#   kubectl apply -f this-file && kubectl rollout status deployment/{release}
# Clients inside the cluster take palette.toml of the config map {release}-client. Once nobody asks for
# another content any more: kubectl delete {kinds} \\
#   -l app.kubernetes.io/instance=<its name>. docs/scale.md has the rest.
"""


@dataclass(frozen=True)
class Replicas:
    """How many servers there are, at least and at most."""

    least: int = 1
    most: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ServingError(
                f"--replicas {self.least}-{self.most}: expected two numbers from 1 on, the smaller first, "
                "such as 2-8."
            )


def kubernetes_manifests(plan: ServingPlan, command: str, replicas: Replicas) -> str:
    """YAML documents for a plan whose models are named by content, laid out for GPUs. Raises ServingError:
    two servers, no GPU.
    """
    server = one_server(plan)
    if plan.device.kind != "cuda":
        raise ServingError(
            "Manifests are laid out for GPUs: describe a node's with --gpus N and --gpu-memory GIB."
        )
    release = release_name(plan)
    folders = ", ".join(sorted(model_folders(server).values())) or "none, all are on the hub"
    documents = list(_documents(plan, server, release, replicas))
    header = HEADER.format(
        palette=plan.palette, content=server.content, command=command, gateway=GATEWAY, prometheus=PROMETHEUS,
        secret=SECRET, release=release, claim=MODELS_CLAIM, folders=folders,
        kinds=",".join(dict.fromkeys(document["kind"].lower() for document in documents)),
    )  # fmt: skip
    return header + yaml_text(*documents)


def release_name(plan: ServingPlan) -> str:
    """`nano-3fa92c41d07b`: a palette and its content, as Kubernetes and addresses take names."""
    name = re.sub(r"[^a-z0-9]+", "-", plan.palette.lower())[:32].strip("-")
    letter = name if name[:1].isalpha() else f"p{name}"
    return f"{letter}-{one_server(plan).content}"


def _documents(
    plan: ServingPlan, server: ServerSpec, release: str, replicas: Replicas
) -> Iterator[dict[str, Any]]:
    picker = f"{release}-picker"
    labels = {"app.kubernetes.io/name": "cultural-palette", "app.kubernetes.io/instance": release}
    servers, pickers = ({**labels, "app.kubernetes.io/component": kind} for kind in ("server", "picker"))

    def described(api: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
        return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": labels}, **content}

    settings = plan.settings(f"http://{GATEWAY}/{release}", key=True)
    yield described("v1", "ConfigMap", f"{release}-client", data={"palette.toml": settings})

    # The servers. How many there are is KEDA's to say.
    yield described("apps/v1", "Deployment", release, spec={
        "selector": {"matchLabels": servers},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "progressDeadlineSeconds": START_S,
        "template": {"metadata": {"labels": servers}, "spec": _server_pod(server, release)},
    })  # fmt: skip
    yield described("policy/v1", "PodDisruptionBudget", release, spec={
        "maxUnavailable": 1, "selector": {"matchLabels": servers},
    })  # fmt: skip
    yield described("monitoring.coreos.com/v1", "PodMonitor", release, spec={
        "selector": {"matchLabels": servers},
        "podMetricsEndpoints": [{"port": "http", "path": "/metrics", "interval": "10s"}],
    })  # fmt: skip
    yield described("keda.sh/v1alpha1", "ScaledObject", release, spec={
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": release},
        "minReplicaCount": replicas.least, "maxReplicaCount": replicas.most,
        "pollingInterval": 15, "cooldownPeriod": SCALE_DOWN_S,
        "triggers": [
            _trigger("vllm:num_requests_waiting", release, WAITING_EACH),
            _trigger("vllm:num_requests_running", release, RUNNING_EACH),
        ],
    })  # fmt: skip

    # The endpoint picker: which replica answers a request.
    yield described("v1", "ServiceAccount", picker)
    yield described("rbac.authorization.k8s.io/v1", "Role", picker, rules=[
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "watch", "list"]},
        {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"],
         "verbs": ["get", "watch", "list"]},
        {"apiGroups": ["llm-d.ai", "inference.networking.x-k8s.io"],
         "resources": ["inferenceobjectives", "inferencemodelrewrites"], "verbs": ["get", "watch", "list"]},
    ])  # fmt: skip
    yield described(
        "rbac.authorization.k8s.io/v1", "RoleBinding", picker,
        subjects=[{"kind": "ServiceAccount", "name": picker}],
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": picker},
    )  # fmt: skip
    yield described("v1", "ConfigMap", picker, data={CONFIG: yaml_text(PICKER)})
    yield described("apps/v1", "Deployment", picker, spec={
        "replicas": 1, "selector": {"matchLabels": pickers},
        "template": {"metadata": {"labels": pickers}, "spec": _picker_pod(picker, release)},
    })  # fmt: skip
    yield described("v1", "Service", picker, spec={
        "selector": pickers,
        "ports": [{"name": "grpc-ext-proc", "port": PICKER_PORT, "appProtocol": "kubernetes.io/h2c"}],
    })  # fmt: skip

    # The address: a path of its own at the gateway.
    yield described("inference.networking.k8s.io/v1", "InferencePool", release, spec={
        "selector": {"matchLabels": servers},
        "targetPorts": [{"number": PORT}],
        # Without its picker the pool is still a pool: any replica can answer any request.
        "endpointPickerRef": {"name": picker, "port": {"number": PICKER_PORT}, "failureMode": "FailOpen"},
    })  # fmt: skip
    rewrite = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
    no_blends = {"type": "ReplaceFullPath", "replaceFullPath": "/no-blends-behind-one-address"}
    pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": release}
    yield described("gateway.networking.k8s.io/v1", "HTTPRoute", release, spec={
        "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}],
        "rules": [{
            # A blend of the client's would be made at one replica only: as where there is no such route.
            "matches": [{"path": {"type": "PathPrefix", "value": f"/{release}{BLENDS}"}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {"path": no_blends}}],
            "backendRefs": [pool],
        }, {
            "matches": [{"path": {"type": "PathPrefix", "value": f"/{release}"}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {"path": rewrite}}],
            "backendRefs": [pool],
            "timeouts": {"request": f"{REPLY_S}s"},
        }],
    })  # fmt: skip


PICKER: dict[str, Any] = {
    "apiVersion": "llm-d.ai/v1alpha1",
    "kind": "EndpointPickerConfig",
    "plugins": [
        {"type": "prefix-cache-scorer"}, {"type": "queue-scorer"}, {"type": "kv-cache-utilization-scorer"},
        {"type": "lora-affinity-scorer"}, {"type": "max-score-picker"},
    ],
    "schedulingProfiles": [{
        "name": "default",
        "plugins": [
            {"pluginRef": "prefix-cache-scorer", "weight": 3}, {"pluginRef": "queue-scorer", "weight": 2},
            {"pluginRef": "kv-cache-utilization-scorer", "weight": 2},
            {"pluginRef": "lora-affinity-scorer", "weight": 1}, {"pluginRef": "max-score-picker"},
        ],
    }],
}  # fmt: skip
"""What counts for a replica. The prefix counts most: with `--prompt-order prefix` a question's prompts share
theirs. The adapter counts least: every replica has every one in memory.
"""


def _server_pod(server: ServerSpec, release: str) -> dict[str, Any]:
    environment: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in server.environment.items()
        if name not in LOCAL_VARIABLES
    ]  # fmt: skip
    environment.append(_secret(KEY_VARIABLE, "key"))
    on_hub = "HF_HUB_OFFLINE" not in server.environment
    if on_hub:
        environment.append(_secret("HF_TOKEN", "hf-token"))
    arguments = container_arguments(server)
    arguments[arguments.index("--port") + 1] = str(PORT)
    mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if model_folders(server):
        mounts.append({"name": "models", "mountPath": "/models", "subPath": release, "readOnly": True})
        volumes.append({
            "name": "models", "persistentVolumeClaim": {"claimName": MODELS_CLAIM, "readOnly": True},
        })  # fmt: skip
    health = {"httpGet": {"path": "/health", "port": "http"}}
    container = {
        "name": "vllm", "image": IMAGE, "command": ["vllm"],
        # Requests under way when a server is to end are answered first.
        "args": [*arguments, "--shutdown-timeout", str(REPLY_S)],
        "env": environment,
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": {**health, "periodSeconds": 10, "failureThreshold": START_S // 10},
        "readinessProbe": {**health, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**health, "periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINTS_S}}},
        "resources": {"limits": {"nvidia.com/gpu": len(server.gpus)}},
        "volumeMounts": mounts,
    }  # fmt: skip
    return {
        "terminationGracePeriodSeconds": ENDPOINTS_S + REPLY_S + 15,
        "containers": [container],
        "volumes": volumes,
    }


def _picker_pod(picker: str, release: str) -> dict[str, Any]:
    health = {"grpc": {"port": PICKER_HEALTH_PORT, "service": "inference-extension"}}
    container = {
        "name": "picker", "image": PICKER_IMAGE,
        "args": [
            "--pool-name", release, "--pool-group", "inference.networking.k8s.io",
            "--config-file", f"/config/{CONFIG}", "--grpc-health-port", str(PICKER_HEALTH_PORT),
            "--tracing=false", "--metrics-endpoint-auth=false",
        ],
        "env": [{"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "grpc", "containerPort": PICKER_PORT},
                  {"name": "grpc-health", "containerPort": PICKER_HEALTH_PORT},
                  {"name": "metrics", "containerPort": 9090}],
        "readinessProbe": {**health, "periodSeconds": 2},
        "livenessProbe": {**health, "initialDelaySeconds": 5, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "8Gi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
    }  # fmt: skip
    return {
        "serviceAccountName": picker,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": picker}}],
    }


def _trigger(metric: str, release: str, threshold: int) -> dict[str, Any]:
    """A replica for every `threshold` of that metric, summed over the replicas there are."""
    query = f'sum({metric}{{pod=~"{release}-.*"}}) or vector(0)'
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {"serverAddress": PROMETHEUS, "query": query, "threshold": str(threshold)},
    }


def _secret(variable: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}}
