"""Real vLLM on the CPU, serving the nano palette: transformers' log-probabilities, the embedded decisions."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from cultural_palette.cultural_map import load_map
from cultural_palette.prompts import render
from cultural_palette.questions import Question
from tests.serving.conftest import VllmServers

pytest.importorskip("peft")

COMMUNITIES = tuple(community.key for community in load_map("continents").communities)
QUESTION = Question(
    "Which matters more to people: freedom or equality?", ("Freedom", "Equality", "Don't know")
)
NEW_TOKENS = 24
EXACT = 1e-4
"""Log-probabilities in float32 agree to about 1e-5; weights of another adapter are off by 0.1 and more."""
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
    import torch

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
    import torch
    import transformers

    plain_base = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    (first, folder), *others = adapters
    model = peft.PeftModel.from_pretrained(plain_base, folder, adapter_name=first)
    for name, path in others:
        model.load_adapter(path, adapter_name=name)
    return model.eval()


def test_vllm_gives_transformers_log_probabilities_for_every_adapter_and_the_base(
    vllm_servers: VllmServers,
) -> None:
    """All at once, so that rows of the base and of all adapters share batches, where vLLM can mix them up."""
    folders = vllm_servers.checkpoints
    model = adapted(folders["base"], tuple((key, folders[key]) for key in COMMUNITIES))
    jobs = [
        (name, draft_messages(key))
        for key in COMMUNITIES
        for name in dict.fromkeys((key, "base", COMMUNITIES[-1]))
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        replies = list(pool.map(lambda job: complete(vllm_servers.lora_url, *job), jobs))
    worst: dict[str, float] = {}
    for (name, messages), reply in zip(jobs, replies, strict=True):
        assert reply["prompt_token_ids"] == tokens(folders["base"], messages), (
            "the prompt is the one we trained on"
        )
        if name == "base":
            with model.disable_adapter():
                found = differences(model, reply)
        else:
            model.set_adapter(name)
            found = differences(model, reply)
        worst[name] = max(worst.get(name, 0.0), *found)
    assert set(worst) == {"base", *COMMUNITIES}
    assert max(worst.values()) < EXACT, worst


def test_vllm_gives_transformers_log_probabilities_for_the_moerges(vllm_servers: VllmServers) -> None:
    import torch
    import transformers

    folder = vllm_servers.checkpoints["moerges"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.config.num_experts_per_tok == model.config.num_local_experts == len(COMMUNITIES)
    for messages in meta_messages():
        reply = complete(vllm_servers.moerges_url, "moerges", messages)
        assert reply["prompt_token_ids"] == tokens(folder, messages)
        assert max(differences(model, reply)) < EXACT


@cache
def tokenizer(folder: Path) -> Any:
    import transformers

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
    assert [(row["name"], row["state"]) for row in status] == [("lora", "up"), ("moerges", "up")]
    assert status[0]["models"] == ["base", *COMMUNITIES]
    before = {record.name: record.process for record in vllm_servers.fleet.records()}
    assert len(before["lora"].members) > 1, "vLLM has its engine in a process of its own"
    subprocess.run(["kill", "-9", str(before["lora"].pid)], check=True)
    dead = vllm_servers.command("status", fine=(1,)).stdout
    assert "lora     dead" in dead and "moerges  up" in dead
    vllm_servers.restart("lora")
    after = {record.name: record.process for record in vllm_servers.fleet.records()}
    assert before["lora"].members == [] and after["lora"].alive, "no engine is left without its server"
    assert after["moerges"] == before["moerges"]
    model = complete(vllm_servers.lora_url, "asia", draft_messages("asia"))
    assert model["choices"][0]["token_ids"]


def test_vllm_s_own_parser_takes_the_flags_for_gpus(vllm_python: Path, tmp_path: Path) -> None:
    """The nearest to a GPU that a machine without one comes."""
    from cultural_palette.serving.devices import described_gpus
    from cultural_palette.serving.install import LAUNCHER
    from cultural_palette.serving.manifest import Knobs, ServedPalette, ServerKnobs
    from cultural_palette.serving.plan import plan_servers

    knobs = Knobs(
        quantization="fp8", max_num_seqs=64, max_lora_rank=16, lora=ServerKnobs(replicas=2),
        moerges=ServerKnobs(tensor_parallel=2, extra=("--enable-expert-parallel",)),
    )  # fmt: skip
    adapters = {"asia": "org/a", "africa": "org/b"}
    hub = ServedPalette("big", "continents", "org/base", adapters, "org/m", knobs=knobs)
    plan = plan_servers(hub, described_gpus(4, 80.0))
    lines = [[*server.arguments()[1:], "--gpu-memory-utilization", "0.5"] for server in plan.servers]
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
    ]
