"""Real vLLM on the CPU plays the nano palette in one server: exact, mixed, cached; the embedded decisions."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

pytest.importorskip("peft")
import torch
import transformers

from cultural_palette.cultural_map import load_map
from cultural_palette.prompts import render
from cultural_palette.questions import Question
from cultural_palette.serving.devices import Device, described_gpus
from cultural_palette.serving.install import LAUNCHER
from cultural_palette.serving.last_words import REMEDIES
from cultural_palette.serving.manifest import ServedPalette, ServerKnobs, ServingKnobs, read_palette
from cultural_palette.serving.plan import plan_servers
from cultural_palette.serving.probe import free_ports
from tests.serving.conftest import VllmServers
from tests.serving.test_readout_vllm import counter
from tests.serving.written_out import nano_written_out

COMMUNITIES = tuple(community.key for community in load_map("continents").communities)
QUESTION = Question(
    "Which matters more to people: freedom or equality?", ("Freedom", "Equality", "Don't know")
)
NEW_TOKENS = 24
EXACT = 2e-5
"""Log-probabilities in float32 agree to 5e-6; weights of another adapter are off by 0.1 and more."""
# Greedy, so that both ways write the same; equal lengths, so that they end alike.
SAME = {"PALETTE_TEMPERATURE": "0", "PALETTE_META_TEMPERATURE": "0", "PALETTE_MAX_TOKENS": "160"}


def draft_messages(community: str) -> list[dict[str, str]]:
    name = next(each.name for each in load_map("continents").communities if each.key == community)
    fields = {"country": "New Zealand", "question": QUESTION.text, "options": QUESTION.lettered()}
    return plain(render("draft", community=name, **fields))


def meta_messages() -> list[list[dict[str, str]]]:
    memory = "Africa:\nEveryone may speak. I choose B. Equality.\n\nOceania:\nA fair go. I choose A. Freedom."
    account = "In New Zealand, people value a fair go. More than half would say: Freedom."
    fields = {"country": "New Zealand", "question": QUESTION.text}
    return [
        plain(render("regulate", memory=memory, **fields)),
        plain(render("decide_option", account=account, options=QUESTION.lettered(), **fields)),
    ]


def plain(messages: Sequence[Any]) -> list[dict[str, str]]:
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    return [{"role": roles[message.type], "content": message.text} for message in messages]


def complete(url: str, model: str, messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    """A greedy reply with its tokens' ids and log-probabilities."""
    body = {
        "model": model, "messages": messages, "temperature": 0, "max_tokens": NEW_TOKENS, "logprobs": True,
        "top_logprobs": 1, "return_token_ids": True, **more,
    }  # fmt: skip
    request = Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with build_opener(ProxyHandler({})).open(request, timeout=120) as response:
        found: dict[str, Any] = json.load(response)
    return found


def differences(model: Any, reply: dict[str, Any]) -> list[float]:
    """How far each token's log-probability is from transformers' on the same ids."""
    choice = reply["choices"][0]
    prompt, written = reply["prompt_token_ids"], choice["token_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1].float()
    theirs = logits.log_softmax(-1).gather(1, torch.tensor(written)[:, None])[:, 0].tolist()
    ours = [token["logprob"] for token in choice["logprobs"]["content"]]
    assert len(ours) == len(theirs) > 0
    return [abs(a - b) for a, b in zip(ours, theirs, strict=True)]


@cache
def adapted(base: Path, adapters: tuple[tuple[str, Path], ...]) -> Any:
    import peft

    plain_base = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    (first, folder), *others = adapters
    model = peft.PeftModel.from_pretrained(plain_base, folder, adapter_name=first)
    for name, path in others:
        model.load_adapter(path, adapter_name=name)
    return model.eval()


def test_one_batch_of_base_communities_and_moerges_is_exact(vllm_servers: VllmServers) -> None:
    """All at once, so that rows of the base, of all adapters and of the MoErges share batches."""
    folders = vllm_servers.checkpoints
    model = adapted(folders["base"], tuple((key, folders[key]) for key in COMMUNITIES))
    jobs = [
        (name, draft_messages(key))
        for key in COMMUNITIES
        for name in dict.fromkeys((key, "base", "moerges", COMMUNITIES[-1]))
    ]
    jobs += [("moerges", messages) for messages in meta_messages()]
    with ThreadPoolExecutor(len(jobs)) as pool:
        replies = list(pool.map(lambda job: complete(vllm_servers.url, *job), jobs))
    worst: dict[str, float] = {}
    for (name, messages), reply in zip(jobs, replies, strict=True):
        assert reply["prompt_token_ids"] == tokens(folders["base"], messages), (
            "the prompt is the one we trained on"
        )
        if name == "base":
            with model.disable_adapter():
                found = differences(model, reply)
        elif name == "moerges":
            found = differences(nano_written_out(), reply)
        else:
            model.set_adapter(name)
            found = differences(model, reply)
        worst[name] = max(worst.get(name, 0.0), *found)
    assert set(worst) == {"base", "moerges", *COMMUNITIES}
    assert max(worst.values()) < EXACT, worst


def test_again_out_of_the_prefix_cache(vllm_servers: VllmServers) -> None:
    """The same long prompt to every part, twice: each finds its own work again, and nobody else's."""
    text = "In this village people share what they have, and everybody has a say. " * 20
    messages = [{"role": "user", "content": text}]
    names = ("base", "moerges", *COMMUNITIES)
    first = {name: complete(vllm_servers.url, name, messages) for name in names}
    before = counter(vllm_servers.url, "vllm:prefix_cache_hits_total")
    with ThreadPoolExecutor(len(names)) as pool:
        again = dict(
            zip(names, pool.map(lambda name: complete(vllm_servers.url, name, messages), names), strict=True)
        )
    hits = counter(vllm_servers.url, "vllm:prefix_cache_hits_total") - before
    assert hits >= 128 * len(names), "whole blocks of each part were found"
    for name in names:
        ours, theirs = (
            [token["logprob"] for token in reply["choices"][0]["logprobs"]["content"]]
            for reply in (again[name], first[name])
        )
        assert again[name]["choices"][0]["token_ids"] == first[name]["choices"][0]["token_ids"]
        assert ours == pytest.approx(theirs, abs=EXACT), name
    assert max(differences(nano_written_out(), again["moerges"])) < EXACT


def post(url: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = Request(f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=120) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_server_tells_the_blend_of_many_prompts_at_once(vllm_servers: VllmServers) -> None:
    """While others are served, and of prompts that the prefix cache holds."""
    prompts = [tokens(vllm_servers.checkpoints["base"], messages) for messages in meta_messages()]
    prompts.append(prompts[0] * 3)
    jobs: list[Any] = [("/v1/palette/blend", {"model": "moerges", "prompt": ids}) for ids in prompts * 2]
    for name in ("asia", "moerges", "base"):
        chat = {"model": name, "messages": draft_messages("asia"), "max_tokens": 30}
        jobs.append(("/v1/chat/completions", chat))
    with ThreadPoolExecutor(len(jobs)) as pool:
        sent = list(pool.map(lambda job: post(vllm_servers.url, *job), jobs))
    assert [status for status, _ in sent] == [200] * len(jobs)
    model = nano_written_out()
    for ids, (_, told) in zip(prompts * 2, sent, strict=False):
        assert told["communities"] == list(COMMUNITIES)
        with torch.inference_mode():
            model(torch.tensor([ids]))
        for layer, weights in zip(model.model.layers, told["layers"], strict=True):
            assert weights == pytest.approx(layer.mlp.weights[0].mean(0).tolist(), abs=EXACT)
    status, told = post(vllm_servers.url, "/v1/palette/blend", {"model": "asia", "prompt": [5]})
    assert status == 404 and "'asia' is not the MoErges of this server" in json.dumps(told)
    status, told = post(vllm_servers.url, "/v1/palette/blend", {"model": "moerges", "prompt": [5] * 3000})
    assert status == 400 and "3000 tokens" in json.dumps(told)


def test_blends_of_the_caller_s_share_a_batch_with_everything_else(vllm_servers: VllmServers) -> None:
    """By the other router, uniform and by weights: each exact, told by the server, and never out of another's
    prefix cache.
    """
    wanted = {"paper": "paper", "uniform": "uniform", "mine": "africa=0.2, oceania=0.8"}
    names = {}
    for key, blend in wanted.items():
        status, told = post(vllm_servers.url, "/v1/palette/blends", {"blend": blend})
        assert status == 200, told
        assert post(vllm_servers.url, "/v1/palette/blends", {"blend": blend})[1] == told
        names[key] = told["model"]
    assert names["mine"] == "moerges[africa=0.2,oceania=0.8]"
    weights = {"uniform": [0.2] * 5, "mine": [0.2, 0, 0, 0, 0.8]}
    models = {"moerges": nano_written_out(), names["paper"]: nano_written_out("paper")}
    for key, given in weights.items():
        models[names[key]] = nano_written_out("paper")
        for layer in models[names[key]].model.layers:
            layer.mlp.rows.zero_()
            layer.mlp.bias.copy_(torch.tensor(given).log())
    jobs = [(name, messages) for messages in meta_messages() for name in [*models, "asia", "base"]] * 2
    with ThreadPoolExecutor(len(jobs)) as pool:
        replies = list(pool.map(lambda job: complete(vllm_servers.url, *job), jobs))
    worst: dict[str, float] = {}
    for (name, _), reply in zip(jobs, replies, strict=True):
        if name in models:
            worst[name] = max(worst.get(name, 0.0), *differences(models[name], reply))
    assert len(worst) == 4 and max(worst.values()) < EXACT, worst
    ids = tokens(vllm_servers.checkpoints["base"], meta_messages()[0])
    for key, given in weights.items():
        told = post(vllm_servers.url, "/v1/palette/blend", {"model": names[key], "prompt": ids})[1]
        assert all(layer == pytest.approx(given, abs=1e-6) for layer in told["layers"])
    for blend, said in (
        ("afrika=1", "'afrika'"),
        ("own", "No router 'own'"),
        ("fitted:b.json", "where a country is asked"),
        ("africa=0.5", "sum to 0.5"),
    ):
        status, told = post(vllm_servers.url, "/v1/palette/blends", {"blend": blend})
        assert status == 400 and said in json.dumps(told)
    assert post(vllm_servers.url, "/v1/palette/blends", {"blend": "asia=1"})[0] == 200
    status, told = post(vllm_servers.url, "/v1/palette/blends", {"blend": "europe=1"})
    assert status == 409 and "plays 4 blends" in json.dumps(told) and "--blends N" in json.dumps(told)


@cache
def tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def tokens(folder: Path, messages: list[dict[str, str]]) -> list[int]:
    found: list[int] = tokenizer(folder).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return found


def test_the_served_palette_decides_as_the_embedded_one_does(
    vllm_servers: VllmServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [part for option in QUESTION.options for part in ("--option", option)]
    environment = {**os.environ, **SAME, "PALETTE_CONFIG": str(vllm_servers.settings)}
    done = subprocess.run(
        [sys.executable, "-m", "cultural_palette", "ask", "--json", "-c", "NZL", *flags, QUESTION.text],
        capture_output=True, text=True, timeout=240, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    served = json.loads(done.stdout)
    for name, value in SAME.items():
        monkeypatch.setenv(name, value)
    embedded = in_process("NZL", QUESTION)
    assert served["degraded"] == embedded["degraded"] == []
    for community in COMMUNITIES:
        assert served["drafts"][community]["text"] == embedded["drafts"][community]["text"], community
    assert served["regulated"] == embedded["regulated"]
    assert served["answer"] == embedded["answer"]
    assert served["distribution"] == pytest.approx(embedded["distribution"], abs=1e-3)
    assert served["blend"] == pytest.approx(embedded["blend"], abs=1e-4)


def in_process(country: str, question: Question) -> dict[str, Any]:
    """The embedded palette's answer, under the settings of the environment."""
    from cultural_palette.graph.build import build_palette
    from cultural_palette.settings import get_settings, use_settings

    asked = {"country": country, "query": question.text, "options": list(question.options)}
    with use_settings(get_settings()):
        found: dict[str, Any] = asyncio.run(build_palette("continents").ainvoke(asked))
    return found


def test_the_command_line_finds_them_and_starts_anew_what_was_killed(vllm_servers: VllmServers) -> None:
    assert vllm_servers.settings.read_text().startswith("# Written by palette serve up")
    status = json.loads(vllm_servers.command("status", "--json").stdout)["servers"]
    assert [(row["name"], row["state"]) for row in status] == [("palette", "up")]
    assert status[0]["models"] == ["moerges", *COMMUNITIES, "base"]
    (before,) = (record.process for record in vllm_servers.fleet.records())
    assert len(before.members) > 1, "vLLM has its engine in a process of its own"
    subprocess.run(["kill", "-9", str(before.pid)], check=True)
    assert "palette  dead" in vllm_servers.command("status", fine=(1,)).stdout
    vllm_servers.restart()
    (after,) = (record.process for record in vllm_servers.fleet.records())
    assert before.members == [] and after.alive, "no engine is left without its server"
    model = complete(vllm_servers.url, "asia", draft_messages("asia"))
    assert model["choices"][0]["token_ids"]


def test_vllm_without_the_plug_in_refuses_to_start(vllm_python: Path) -> None:
    """The very command that serves the palette, less our place on the path: it must not become the base."""
    ports = {"palette": free_ports(1)[0]}
    (server,) = plan_servers(read_palette("nano"), Device("cpu", cores=(0,)), ports=ports).servers
    environment = {**os.environ, **server.environment, "PYTHONPATH": ""}
    command = [str(vllm_python), str(LAUNCHER), *server.arguments()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode != 0
    assert re.search(REMEDIES[0][0], done.stdout + done.stderr), "palette serve up tells the way out"


def test_the_dense_way_is_as_exact(vllm_python: Path, tmp_path: Path) -> None:
    """Two servers, with the mixture written out: for what does not factor, and to compare with."""
    out, settings = tmp_path / "serve", tmp_path / "palette.toml"

    def serve(*words: str) -> None:
        line = [sys.executable, "-m", "cultural_palette", "serve", *words, "--out", str(out)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    python = ("--python", str(vllm_python))
    try:
        serve("up", "nano", "--dense", "--port", "0", *python, "--write", str(settings))
        refs = tomllib.loads(settings.read_text())["models"]
        urls = {part: refs[part].partition("@")[2].removesuffix("/v1") for part in ("meta", "asia")}
        assert urls["meta"] != urls["asia"]
        for messages in meta_messages():
            reply = complete(urls["meta"], "moerges", messages)
            assert max(differences(nano_written_out("paper"), reply)) < EXACT
        folders = {"base": read_palette("nano").base, **read_palette("nano").adapters}
        model = adapted(folders["base"], tuple((key, folders[key]) for key in COMMUNITIES))
        model.set_adapter("asia")
        assert max(differences(model, complete(urls["asia"], "asia", draft_messages("asia")))) < EXACT
        status, _ = post(urls["meta"], "/v1/palette/blend", {"model": "moerges", "prompt": [5]})
        assert status == 404
    finally:
        serve("stop", "--grace", "10")


def test_vllm_s_own_parser_takes_the_flags_for_gpus(vllm_python: Path, tmp_path: Path) -> None:
    """The nearest to a GPU that a machine without one comes."""
    knobs = ServingKnobs(
        quantization="fp8", max_num_seqs=64, max_lora_rank=16, lora=ServerKnobs(replicas=2),
        moerges=ServerKnobs(tensor_parallel=2, extra=("--enable-expert-parallel",)),
    )  # fmt: skip
    adapters = {"asia": "org/a", "africa": "org/b"}
    hub = ServedPalette("big", "continents", "org/base", adapters, moerges="org/m", dense=True, knobs=knobs)
    alone = ServingKnobs(max_lora_rank=8, palette=ServerKnobs(tensor_parallel=2, memory_share=0.3))
    one = ServedPalette("big", "continents", "org/base", adapters, router=Path("/r"), knobs=alone)
    servers = [*plan_servers(hub, described_gpus(4, 80.0)).servers]
    servers += plan_servers(one, described_gpus(2, 80.0)).servers
    lines = [[*server.arguments()[1:], "--gpu-memory-utilization", "0.5"] for server in servers]
    script = tmp_path / "parse.py"
    script.write_text(
        f"import json, runpy\nrunpy.run_path({str(LAUNCHER)!r})\n"
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        f"for line in {lines!r}:\n"
        "    found = make_arg_parser(FlexibleArgumentParser()).parse_args(line)\n"
        "    print(json.dumps([found.model_tag, found.port, found.tensor_parallel_size,"
        " found.data_parallel_size, found.quantization, found.max_loras,"
        " [each.name for each in found.lora_modules or []]]))\n"
    )
    done = subprocess.run(
        [str(vllm_python), str(script)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parsed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert parsed == [
        ["org/base", 8000, 1, 2, "fp8", 3, ["asia", "africa"]],
        ["org/m", 8001, 2, 1, "fp8", 1, []],
        ["org/base", 8000, 2, 1, None, 8, ["asia", "africa"]],
    ]
