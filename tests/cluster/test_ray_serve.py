"""Replicas under a real Ray Serve: routed, streamed through, replaced, drained; the servers are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("ray.serve")

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from cultural_palette.serving.content_names import name_by_content
from cultural_palette.serving.devices import Device
from cultural_palette.serving.install import find_vllm
from cultural_palette.serving.kubernetes import Replicas, release_name
from cultural_palette.serving.manifest import read_palette
from cultural_palette.serving.plan import ServingPlan, plan_servers
from cultural_palette.serving.probe import free_ports, listed_models
from cultural_palette.serving.ray_serve_config import ray_serve_config
from tests.cluster.conftest import LOOPBACK, wait_for
from tests.conftest import ROOT
from tests.serving.conftest import vllm_python as vllm_python

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(420)]
KEY = "sk-of-the-test"


def configured(plan: ServingPlan, replicas: Replicas, port: int) -> dict[str, Any]:
    """What `palette serve up --print --format ray-serve` writes, on stand-ins, with shorter waits."""
    import yaml

    config = yaml.safe_load(ray_serve_config(plan, "", replicas))
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    (application,) = config["applications"]
    application["args"] |= {
        "command": [sys.executable, str(ROOT / "tests" / "serving" / "fake_vllm.py")],
        "start_timeout_s": 60,
    }
    (server,) = application["deployments"]
    server["ray_actor_options"]["num_cpus"] = 0.1
    server |= {"health_check_period_s": 1, "health_check_timeout_s": 10, "graceful_shutdown_wait_loop_s": 0.2}
    server["autoscaling_config"] |= {
        "target_ongoing_requests": 2, "upscale_delay_s": 0.5, "downscale_delay_s": 3,
        "metrics_interval_s": 0.5, "look_back_period_s": 1,
    }  # fmt: skip
    return dict(config)


class Served:
    """The application at its address."""

    def __init__(self, plan: ServingPlan, port: int) -> None:
        self.name, self.plan, self.port = release_name(plan), plan, port
        self.url = f"http://127.0.0.1:{port}/{self.name}"

    def deploy(self, *configs: dict[str, Any], seconds: float = 120) -> None:
        """As `serve deploy` does, and wait: applications that are not in the configuration go."""
        applications = [application for config in configs for application in config["applications"]]
        whole = configs[0] | {"applications": applications}
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(whole))
        names = {application["name"] for application in applications}

        def running() -> bool:
            states = {name: state.status for name, state in serve.status().applications.items()}
            assert "DEPLOY_FAILED" not in states.values(), serve.status()
            return set(states) == names and set(states.values()) == {"RUNNING"}

        wait_for(running, seconds=seconds)

    def post(self, path: str, **body: Any) -> Any:
        with urlopen(self.request(path, **body), timeout=60) as response:
            return json.loads(response.read())

    def request(self, path: str, **body: Any) -> Request:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        return Request(self.url + path, json.dumps(body).encode(), headers)

    @property
    def replicas(self) -> int:
        """Those that run now."""
        server = serve.status().applications[self.name].deployments["server"]
        return int(server.replica_states.get("RUNNING", 0))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PALETTE_API_KEY"] = KEY
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    ray.init(
        "local", num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False,
        _node_ip_address=LOOPBACK, log_to_driver=False,
    )  # fmt: skip
    (chosen,) = free_ports(1)
    serve.start(http_options={"host": "127.0.0.1", "port": chosen})
    try:
        yield chosen
    finally:
        serve.shutdown()
        ray.shutdown()
        del os.environ["PALETTE_API_KEY"], os.environ["PYTHONPATH"]


@pytest.fixture(scope="module")
def served(port: int) -> Served:
    palette = read_palette("nano")
    plan = name_by_content(plan_servers(palette, Device("cpu", cores=(0, 1)), asks_key=True), palette)
    application = Served(plan, port)
    application.deploy(configured(plan, Replicas(2, 3), port))
    return application


def test_one_address_gives_every_route_of_every_replica(served: Served) -> None:
    assert listed_models(served.url, KEY) == list(served.plan.servers[0].models)
    assert listed_models(served.url, "another") == "asks for another key", "the servers' own key is asked for"
    answers = [served.post("/v1/palette/blend", model="m", number=number) for number in range(30)]
    assert all(answer["path"] == "/v1/palette/blend" for answer in answers)
    assert [answer["got"]["number"] for answer in answers] == list(range(30))
    assert len({answer["pid"] for answer in answers}) == 2, "both replicas answer"
    assert served.post("/tokenize", prompt="x")["path"] == "/tokenize"
    with pytest.raises(HTTPError) as refused:
        served.post("/v1/chat/completions", status=429)
    assert refused.value.code == 429, "what a server refuses is refused as it said"
    with pytest.raises(HTTPError) as no_blends:
        served.post("/v1/palette/blends", blend="uniform")
    assert no_blends.value.code == 404, "made at one replica, a blend would be unknown to the others"


def test_a_stream_comes_as_it_is_written(served: Served) -> None:
    began = time.monotonic()
    with urlopen(served.request("/v1/chat/completions", stream=True), timeout=60) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        first = response.readline()
        first_after, whole = time.monotonic() - began, first + response.read()
    assert [json.loads(line[6:])["number"] for line in whole.splitlines() if line] == [0, 1, 2]
    assert time.monotonic() - began - first_after > 0.4, "not held back until its end"


def test_a_replica_whose_server_dies_is_replaced(served: Served) -> None:
    victim = served.post("/v1/x")["pid"]
    os.kill(victim, signal.SIGKILL)

    def fresh() -> bool:
        try:
            pids = {served.post("/v1/x")["pid"] for _ in range(12)}
        except HTTPError as error:
            assert error.code == 503, "a lost server is a fault that passes"
            return False
        return victim not in pids and len(pids) == 2

    wait_for(fresh, seconds=90)


def test_replicas_are_added_while_requests_queue_and_end_in_peace(served: Served) -> None:
    """Down-scaling ends a replica only once it has answered what it was asked."""
    failures: list[Exception] = []
    stop = threading.Event()

    def ask(_: int) -> None:
        while not stop.is_set():
            try:
                served.post("/v1/x", seconds=0.5)
            except Exception as error:
                failures.append(error)

    with ThreadPoolExecutor(12) as pool:
        done = pool.map(ask, range(12))
        try:
            wait_for(lambda: served.replicas == 3, seconds=60)
        finally:
            stop.set()
        list(done)
    with ThreadPoolExecutor(1) as pool:  # one long request lies on the way down
        long = pool.submit(served.post, "/v1/x", seconds=8)
        wait_for(lambda: served.replicas == 2, seconds=60)
        assert long.result()["path"] == "/v1/x"
    assert failures == []


@pytest.mark.timeout(1500)
def test_real_vllm_answers_through_the_address_as_the_embedded_palette_does(
    served: Served, vllm_python: Path, tmp_path: Path
) -> None:
    """With exact probabilities of the options, and the blend, which need vLLM's and our own routes."""
    config = configured(served.plan, Replicas(1, 1), served.port)
    (application,) = config["applications"]
    application["name"], application["route_prefix"] = "real", "/real"
    application["args"] |= {"command": list(find_vllm(str(vllm_python)).command), "start_timeout_s": 900}
    application["deployments"][0] |= {"health_check_timeout_s": 120}
    served.deploy(config, seconds=1000)
    (tmp_path / "palette.toml").write_text(
        served.plan.settings(f"http://127.0.0.1:{served.port}/real", key=True)
    )
    answers = [ask(tmp_path), ask(tmp_path, "--model", "embedded:nano")]
    behind, embedded = answers
    assert behind["answer"] == embedded["answer"]
    assert behind["distribution"] == pytest.approx(embedded["distribution"], abs=1e-4)
    assert behind["blend"] == pytest.approx(embedded["blend"], abs=1e-4)


def ask(folder: Path, *more: str) -> Any:
    greedy = {
        "PALETTE_TEMPERATURE": "0", "PALETTE_META_TEMPERATURE": "0", "PALETTE_MAX_TOKENS": "160",
        "PALETTE_API_KEY": KEY,
    }  # fmt: skip
    done = subprocess.run(
        [
            sys.executable, "-m", "cultural_palette", "ask", "--country", "KEN", "--json", *more,
            "--option", "Freedom", "--option", "Equality", "Which matters more to people?",
        ],
        cwd=folder, env={**os.environ, **greedy}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_contents_are_served_side_by_side(served: Served, tmp_path: Path) -> None:
    """New weights come under a new path, and the old ones go when their application is left out."""
    import shutil
    from dataclasses import replace

    from cultural_palette.embedded.manifest import BUILT_IN

    shutil.copytree(BUILT_IN["nano"], tmp_path / "nano")
    palette = read_palette(str(tmp_path / "nano"))
    adapter = Path(palette.adapters["asia"]) / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"\x01")
    plan = name_by_content(
        plan_servers(replace(palette, name="nano"), Device("cpu", cores=(0,)), asks_key=True), palette
    )
    new = Served(plan, served.port)
    old, other = (configured(each.plan, Replicas(1, 2), served.port) for each in (served, new))
    other["applications"][0]["args"]["address"] = True  # as a router that looks at prompts needs it
    address = {"name": "address", "ray_actor_options": {"num_cpus": 0.1}}
    other["applications"][0]["deployments"].append(address)
    served.deploy(old, other)
    models = [listed_models(each.url, KEY) for each in (served, new)]
    assert models == [list(each.plan.servers[0].models) for each in (served, new)] and models[0] != models[1]
    pid = served.post("/v1/x")["pid"]
    served.deploy(other)
    assert listed_models(new.url, KEY) == models[1]
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), seconds=60)
    with urlopen(new.request("/v1/chat/completions", stream=True), timeout=60) as response:
        lines = [line for line in response.read().splitlines() if line]
    assert [json.loads(line[6:])["number"] for line in lines] == [0, 1, 2]
    with pytest.raises(HTTPError) as refused:
        new.post("/v1/chat/completions", status=429)
    assert refused.value.code == 429
