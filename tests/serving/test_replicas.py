"""Several replicas of one server: names by content, manifests for Kubernetes, configuration for Ray Serve."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cultural_palette.embedded.manifest import BUILT_IN
from cultural_palette.models.server import BLENDS as CLIENTS_BLENDS
from cultural_palette.serving.content_names import name_by_content
from cultural_palette.serving.devices import Device, described_gpus
from cultural_palette.serving.kubernetes import Replicas, kubernetes_manifests, release_name
from cultural_palette.serving.manifest import ServedPalette, ServingError, content_digest, read_palette
from cultural_palette.serving.plan import ServingPlan, plan_servers
from cultural_palette.serving.ray_serve_config import ray_serve_config

ON_CORE = ("v1", "apps/v1", "policy/v1", "rbac.authorization.k8s.io/v1")


@pytest.fixture
def nano(tmp_path: Path) -> ServedPalette:
    """A copy of the nano palette, whose weights a test may change."""
    shutil.copytree(BUILT_IN["nano"], tmp_path / "nano")
    return read_palette(str(tmp_path / "nano"))


def named(palette: ServedPalette, device: Device | None = None) -> ServingPlan:
    return name_by_content(plan_servers(palette, device or described_gpus(1, 80.0), asks_key=True), palette)


def manifests(palette: ServedPalette, least: int = 2, most: int = 8) -> dict[tuple[str, str], Any]:
    text = kubernetes_manifests(named(palette), "palette serve up", Replicas(least, most))
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}


def test_names_follow_the_content_and_not_the_place(nano: ServedPalette) -> None:
    here, elsewhere = named(nano).servers[0], named(read_palette("nano")).servers[0]
    assert here.models == elsewhere.models and here.content == elsewhere.content == content_digest(nano)
    assert [name.rpartition("-")[0] or name for name in here.models] == [
        "moerges", "africa", "america", "asia", "europe", "oceania", "base",
    ]  # fmt: skip

    adapter = Path(nano.adapters["asia"]) / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"\x01")
    changed = named(nano).servers[0]
    differing = {key for key in here.names if here.names[key] != changed.names[key]}
    assert differing == {"asia", "moerges"}, "the mixture is another too, the other agents are not"
    assert changed.content != here.content


def test_a_changed_base_is_another_content_for_every_name(nano: ServedPalette) -> None:
    before = named(nano).servers[0].names
    weights = Path(nano.base) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    after = named(nano).servers[0].names
    assert all(before[key] != after[key] for key in before)


def test_clients_and_servers_agree_on_the_names(nano: ServedPalette) -> None:
    plan = named(nano)
    (server,) = plan.servers
    arguments = server.arguments()
    assert arguments[arguments.index("--served-model-name") + 1] == server.names["moerges"]
    loras = dict(word.split("=") for word in arguments[arguments.index("--lora-modules") + 1 :])
    assert loras == {server.names[key]: str(path) for key, path in nano.adapters.items()}
    config = json.loads(arguments[arguments.index("--additional-config") + 1])
    assert list(config["cultural_palette"]["adapters"]) == list(nano.adapters), "a blend is told by community"
    refs = plan.refs("http://head:8000/x")
    assert refs["asia"] == f"openai:{server.names['asia']}@http://head:8000/x/v1"
    assert refs["meta"] == f"openai:{server.names['moerges']}@http://head:8000/x/v1"
    assert refs["base"] == "openai:base@http://head:8000/x/v1"


# -- Kubernetes ---


def test_manifests_are_valid_and_refer_to_one_another(nano: ServedPalette) -> None:
    documents = manifests(nano)
    checked = [each for each in documents.values() if each["apiVersion"] in ON_CORE]
    for document in checked:
        kubernetes_validate.validate(document, "1.32", strict=True)
    assert len(checked) == 9

    release = release_name(named(nano))
    pods = documents["Deployment", release]["spec"]["template"]
    pool = documents["InferencePool", release]["spec"]
    selectors = [
        pool["selector"]["matchLabels"],
        documents["Deployment", release]["spec"]["selector"]["matchLabels"],
        documents["PodDisruptionBudget", release]["spec"]["selector"]["matchLabels"],
        documents["PodMonitor", release]["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= pods["metadata"]["labels"].items()
    picker_pods = documents["Deployment", f"{release}-picker"]["spec"]["template"]["metadata"]["labels"]
    assert not selectors[0].items() <= picker_pods.items(), "the picker is no model server"
    picker = documents["Service", pool["endpointPickerRef"]["name"]]["spec"]
    assert picker["selector"].items() <= picker_pods.items()
    assert picker["ports"][0]["port"] == pool["endpointPickerRef"]["port"]["number"]
    (container,) = pods["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == pool["targetPorts"][0]["number"]
    blends, rule = documents["HTTPRoute", release]["spec"]["rules"]
    assert [(ref["kind"], ref["name"]) for ref in rule["backendRefs"]] == [("InferencePool", release)]
    assert blends["matches"][0]["path"]["value"] == f"/{release}/v1{CLIENTS_BLENDS}"
    assert "replaceFullPath" in blends["filters"][0]["urlRewrite"]["path"], "one replica's blend is none"
    config = yaml.safe_load(documents["ConfigMap", f"{release}-picker"]["data"]["palette.yaml"])
    referred = {plugin["pluginRef"] for plugin in config["schedulingProfiles"][0]["plugins"]}
    assert referred == {plugin["type"] for plugin in config["plugins"]}
    assert {"prefix-cache-scorer", "lora-affinity-scorer", "queue-scorer"} <= referred


def test_replicas_follow_the_queue_and_drain(nano: ServedPalette) -> None:
    documents = manifests(nano, 2, 8)
    release = release_name(named(nano))
    scaled = documents["ScaledObject", release]["spec"]
    assert scaled["scaleTargetRef"]["name"] == release
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 8)
    assert "vllm:num_requests_waiting" in scaled["triggers"][0]["metadata"]["query"]
    deployment = documents["Deployment", release]["spec"]
    assert "replicas" not in deployment, "applied again, the file would undo the scaling"
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    reply_s = int(container["args"][container["args"].index("--shutdown-timeout") + 1])
    drained_s = container["lifecycle"]["preStop"]["sleep"]["seconds"] + reply_s
    assert pod["terminationGracePeriodSeconds"] > drained_s
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


def test_two_contents_stand_side_by_side(nano: ServedPalette) -> None:
    """A rolling change: the second file touches nothing of the first, and no address means two things."""
    before = manifests(nano)
    adapter = Path(nano.adapters["asia"]) / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"\x01")
    after = manifests(nano)
    assert not before.keys() & after.keys()
    routes = [each for both in (before, after) for (kind, _), each in both.items() if kind == "HTTPRoute"]
    paths = [route["spec"]["rules"][-1]["matches"][0]["path"]["value"] for route in routes]
    assert len(set(paths)) == 2
    for documents, path in zip((before, after), paths, strict=True):
        settings = next(each for (_, name), each in documents.items() if name.endswith("-client"))
        assert f"{path}/v1" in settings["data"]["palette.toml"]


def test_what_can_not_be_laid_out_is_refused(nano: ServedPalette) -> None:
    plan = named(nano, Device("cpu", cores=(0,)))
    with pytest.raises(ServingError, match=r"laid out for GPUs: .* --gpus N"):
        kubernetes_manifests(plan, "", Replicas())
    with pytest.raises(ServingError, match="--replicas 3-2: expected two numbers from 1 on"):
        Replicas(3, 2)
    dense = replace(nano, dense=True, moerges=Path("/m"), parts=None)
    with pytest.raises(ServingError, match=r"served dense, by two servers; .* leave out --dense"):
        named(dense, Device("cpu", cores=(0,)))


def test_names_that_kubernetes_takes(nano: ServedPalette) -> None:
    plan = named(replace(nano, name="7_Ünïverses.v2" + "x" * 60))
    release = release_name(plan)
    assert len(f"{release}-picker") <= 63 and release[0].isalpha()
    assert set(release) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("arguments", [["--replicas", "1", "2"], ["--content-names"]])
def test_flags_of_printing_want_print(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cultural_palette", "serve", "up", "nano", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "they go with --print" in done.stderr


def test_the_command_prints_both() -> None:
    for form, gpus in (("kubernetes", ["--gpus", "1"]), ("ray-serve", ["--device", "cpu"])):
        done = subprocess.run(
            [
                sys.executable, "-m", "cultural_palette", "serve", "up", "nano", "--print", "--format", form,
                *gpus,
            ],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert list(yaml.safe_load_all(done.stdout)) and "/v1" in done.stdout


# -- Ray Serve ---


@pytest.mark.parametrize(
    "device", [described_gpus(2, 80.0), Device("cpu", cores=(0, 1))], ids=["gpus", "cpu"]
)
def test_the_configuration_is_one_that_ray_serve_takes(nano: ServedPalette, device: Device) -> None:
    schema = pytest.importorskip("ray.serve.schema")
    plan = named(nano, device)
    text = ray_serve_config(plan, "palette serve up", Replicas(2, 8), "http://head:8000")
    config = schema.ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = config.applications
    assert application.name == release_name(plan) and application.route_prefix == f"/{application.name}"
    server, *others = application.deployments
    assert [server.name, *(each.name for each in others)] == (
        ["server", "address"] if application.args["prefix_affinity"] else ["server"]
    )
    assert server.autoscaling_config["max_replicas"] == 8
    assert server.ray_actor_options.num_gpus == len(plan.servers[0].gpus)
    assert f"http://head:8000/{application.name}/v1" in text
    environment = application.args["environment"]
    assert "CUDA_VISIBLE_DEVICES" not in environment, "Ray says which GPUs a replica has"
