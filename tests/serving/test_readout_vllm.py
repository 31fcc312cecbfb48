"""The readout on real vLLM servers: transformers' numbers, the blend, the prefix cache."""

from __future__ import annotations

import asyncio
import math
import re
import urllib.request

import pytest

from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.errors import ModelError
from cultural_palette.models import ModelRef, Sampling, close_clients, open_model
from cultural_palette.models.readout import read_options
from cultural_palette.models.router_blend import served_blend
from cultural_palette.models.vllm import VllmModel
from cultural_palette.prompts import render
from cultural_palette.questions import Question

pytest.importorskip("torch")
KEYS = tuple(community.key for community in load_map("continents").communities)
PLAIN = Question("Which matters more to people?", ("Freedom", "Equality", "Don't know"))


def options(count):
    return Question("What do people like best?", tuple(f"Thing number {n}" for n in range(count)))


def prompt(question, country="Kenya"):
    return render(
        "decide_option",
        account="Tea is loved.",
        country=country,
        question=question.text,
        options=question.lettered(),
    )


@pytest.fixture
async def served(vllm_servers):
    async def opened(part):
        model = await open_model(ModelRef.parse(vllm_servers.refs[part]))
        assert isinstance(model, VllmModel)
        return model

    yield opened
    await close_clients()


def transformers_logprobs(checkpoints, part, messages):
    """The whole vocabulary's log-probabilities for the reply's first token, and the tokenizer."""
    import peft
    import torch
    import transformers

    from tests.serving.written_out import nano_written_out

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints["base"])
    if part == "meta":
        model = nano_written_out()
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoints["base"], dtype=torch.float32)
    if part in KEYS:
        model = peft.PeftModel.from_pretrained(model, checkpoints[part])
    roles = {"system": "system", "human": "user"}
    chat = [{"role": roles[m.type], "content": m.text} for m in messages]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    with torch.inference_mode():
        return model.eval()(ids).logits[0, -1].float().log_softmax(-1), tokenizer


@pytest.mark.parametrize("part", ["africa", "base", "meta"])
async def test_one_token_gives_what_transformers_gives(served, vllm_servers, part):
    question = options(26)
    reading = await read_options(await served(part), prompt(question), question)
    logps, tokenizer = transformers_logprobs(vllm_servers.checkpoints, part, prompt(question))
    by_hand = []
    for label in question.labels:
        spellings = {tuple(tokenizer.encode(text, add_special_tokens=False)) for text in (label, f" {label}")}
        by_hand.append(math.log(sum(math.exp(logps[ids[0]]) for ids in spellings if len(ids) == 1)))
    theirs, mass = Distribution.from_logprobs(by_hand)
    assert reading.method == "exact" and reading.distribution is not None
    assert reading.distribution.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)
    assert reading.option_mass == pytest.approx(mass, abs=1e-4)
    assert reading.usage["output_tokens"] == 1


@pytest.mark.parametrize("part", ["asia", "meta"])
@pytest.mark.parametrize("count", [3, 27, 40])
async def test_labels_of_one_and_two_letters_match_the_embedded_engine(served, part, count):
    question = options(count)
    ours = await read_options(await served(part), prompt(question), question)
    embedded = await open_model(ModelRef.parse(f"embedded:nano/{part}"))
    theirs = await read_options(embedded, prompt(question), question)
    assert ours.method == theirs.method == "exact"
    assert ours.distribution is not None and theirs.distribution is not None
    assert ours.distribution.probabilities == pytest.approx(theirs.distribution.probabilities, abs=1e-4)
    assert ours.option_mass == pytest.approx(theirs.option_mass, abs=1e-4)


async def test_what_shares_the_batch_changes_nothing(served):
    """On vLLM's CPU build a base row in a batch with an adapter row was once given that adapter's weights."""
    models = {part: await served(part) for part in ("base", "africa", "europe")}
    alone = {part: await read_options(model, prompt(PLAIN), PLAIN) for part, model in models.items()}
    together = await asyncio.gather(
        *(read_options(model, prompt(PLAIN), PLAIN) for model in models.values() for _ in range(8))
    )
    for part, readings in zip(models, zip(*[iter(together)] * 8, strict=True), strict=True):
        for reading in readings:
            assert reading.distribution.probabilities == pytest.approx(
                alone[part].distribution.probabilities, abs=1e-4
            )


async def test_more_ids_than_one_request_takes(served):
    model = await served("base")
    usage = {"input_tokens": 0, "output_tokens": 0}
    wanted = list(range(10, 310))
    row = await model._next_of_chat(prompt(PLAIN), wanted, usage)
    assert row is not None and row.keys() >= set(wanted)
    assert usage["output_tokens"] == 3  # 300 ids, 128 at a time


async def test_top_logprobs_agree_with_exact_where_they_see(served):
    model = await served("meta")
    exact = await read_options(model, prompt(PLAIN), PLAIN)
    top = await read_options(model, prompt(PLAIN), PLAIN, method="top_logprobs")
    assert (exact.method, top.method) == ("exact", "top_logprobs")
    assert top.distribution.probabilities == pytest.approx(exact.distribution.probabilities, abs=1e-3)
    assert top.option_mass <= exact.option_mass + 1e-4


async def test_the_blend_of_a_served_moerges_is_the_embedded_ones(served):
    """From the server, which also keeps it when the prompt is in its prefix cache."""
    messages = prompt(PLAIN)
    embedded = await served_blend("nano", messages, ())
    for _ in range(2):
        read = await (await served("meta")).blend(messages, KEYS)
        assert read.communities == pytest.approx(embedded.communities, abs=1e-5)
        for ours, theirs in zip(read.layers, embedded.layers, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
            assert sum(ours.values()) == pytest.approx(1)


async def test_an_agent_of_that_server_has_no_blend(served):
    with pytest.raises(ModelError, match="The blend is not available"):
        await (await served("asia")).blend(prompt(PLAIN), KEYS)


def counter(url, name):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=10) as response:
        text = response.read().decode()
    found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? ([0-9.e+]+)$", text, re.MULTILINE)
    return sum(map(float, found))


async def test_prefix_order_is_found_in_the_prefix_cache(served, vllm_servers):
    """Long shared text, twelve countries: blocks of 128 tokens on the CPU."""
    model = await served("meta")
    question = Question("Which of these would people choose? " * 12, tuple(f"Way {n}" for n in range(20)))
    hits = {}
    for order, name in (("paper", "decide_option"), ("prefix", "prefix/decide_option")):
        before = counter(vllm_servers.url, "vllm:prefix_cache_hits_total")
        for country in ("Kenya", "Japan", "Chile", "France"):
            messages = render(
                name,
                account=f"{order} tea.",
                country=country,
                question=question.text,
                options=question.lettered(),
            )
            await model.reply(messages, Sampling(0.0, 1))
        hits[order] = counter(vllm_servers.url, "vllm:prefix_cache_hits_total") - before
    assert hits["paper"] == 0
    assert hits["prefix"] >= 3 * 128
