"""Kept replies are decoded alone: the same bits whatever else is asked at the time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from cultural_palette.calls import CallStore, use_calls
from cultural_palette.embedded.chat_model import EmbeddedChatModel
from cultural_palette.embedded.engine import Generation, _of_like_length, get_engine
from cultural_palette.embedded.head import WIDE, FewRows, quicken
from cultural_palette.models import ModelRef, Sampling, ask, replies_together
from cultural_palette.moerges.dense import written_out

QUESTION = [HumanMessage("Country: Kenya\nQuestion: Is tea good?")]
OTHER = [HumanMessage("Country: Japan\nQuestion: What do people eat at a wedding, and who pays for it?")]


def model(part: str = "africa") -> EmbeddedChatModel:
    return EmbeddedChatModel(part=part, temperature=0.3, max_tokens=30, seed=1, logprobs=True)


async def bits(company: int, alone: bool = False) -> list[dict[str, Any]]:
    """The tokens of one reply with their log-probabilities, asked with others at the same time."""
    others = [model(part).ainvoke(OTHER) for part in ("asia", "africa", "base", "meta")[:company]]
    reply, *_ = await asyncio.gather(model().ainvoke(QUESTION, alone=alone), *others)
    return reply.response_metadata["logprobs"]["content"]


async def test_a_reply_decoded_alone_has_the_same_bits_in_any_company() -> None:
    alone = await bits(0, alone=True)
    assert len(alone) > 5
    assert await bits(4, alone=True) == alone


async def test_a_kept_reply_is_decoded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, engine = ModelRef("embedded", "nano/africa"), get_engine("nano")
    decoded: list[bool] = []
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda one: (decoded.append(one.alone), generate(one)))
    await ask(ref, Sampling(max_tokens=3), QUESTION, timeout_s=60)
    with CallStore(tmp_path) as store, use_calls(store):
        await ask(ref, Sampling(max_tokens=3), QUESTION, timeout_s=60)
    assert decoded == [False, True]


async def test_kept_replies_share_batches_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are kept apart from those decoded alone, which they may differ from in a word."""
    ref, engine = ModelRef("embedded", "nano/africa"), get_engine("nano")
    decoded: list[bool] = []
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda one: (decoded.append(one.alone), generate(one)))
    with CallStore(tmp_path) as store, use_calls(store):
        with replies_together():
            await ask(ref, Sampling(max_tokens=3), QUESTION, timeout_s=60)
            await ask(ref, Sampling(max_tokens=3), QUESTION, timeout_s=60)
        await ask(ref, Sampling(max_tokens=3), QUESTION, timeout_s=60)
        assert store.needed == {"reply": 3} and store.made == {"reply": 2}
    assert decoded == [False, True]


def test_a_batch_holds_prompts_of_like_length() -> None:
    """Else one long prompt would pad all the others."""
    lengths = [250, 90, 260, 800, 255, 100, 1100, 300]
    requests = [Generation("meta", [0] * n, 0.0, 1, None, lambda piece: None) for n in lengths]
    batches = [[len(one.prompt) for one in batch] for batch in _of_like_length(requests)]
    assert batches == [[90, 100], [250, 255, 260, 300], [800, 1100]]
    assert list(_of_like_length([])) == []


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9])
def test_the_quick_output_layer_is_the_output_layer(rows: int) -> None:
    layer = torch.nn.Linear(24, WIDE, bias=False)
    states = torch.randn(rows, 1, 24)
    with torch.inference_mode():
        torch.testing.assert_close(FewRows(layer)(states), layer(states), rtol=1e-5, atol=1e-5)


def test_a_wide_output_layer_is_quickened_and_stays_tied() -> None:
    config = LlamaConfig(
        vocab_size=WIDE, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train(False)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        before = model(ids).logits
        quicken(model)
        assert isinstance(model.lm_head, FewRows)
        assert model.lm_head.weight is model.model.embed_tokens.weight, "one copy of the weights"
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-5, atol=1e-5)


async def test_a_reply_that_is_not_kept_shares_a_batch() -> None:
    """In a batch the text stays, and the last bits of its log-probabilities may move."""
    alone, among = await bits(0), await bits(4)
    assert [token["token"] for token in among] == [token["token"] for token in alone]
    assert [token["logprob"] for token in among] == pytest.approx(
        [token["logprob"] for token in alone], abs=1e-4
    )


def test_every_part_of_one_mixed_batch_is_that_part_alone() -> None:
    """Base, an agent, the MoErges and a fixed blend in one pass; against PEFT and the written-out mixture."""
    engine = get_engine("nano")
    names = ("base", "africa", "meta[paper]", "oceania", "meta[uniform]")
    ids = torch.tensor([engine.encode([("user", "Is tea good?")])])
    with torch.inference_mode():
        mixed, _ = engine._forward([engine._part(name) for name in names], None, input_ids=ids.expand(5, -1))
        for row, name in enumerate(names):
            alone, _ = engine._forward([engine._part(name)], None, input_ids=ids)
            assert torch.allclose(mixed.logits[row], alone.logits[0], atol=1e-5), name
        colours = engine.colours
        dense = written_out(colours, colours.routers["paper"])(input_ids=ids).logits[0]
        assert torch.allclose(mixed.logits[2], dense, atol=1e-5)
        base = AutoModelForCausalLM.from_pretrained(engine.manifest.base, dtype=torch.float32)
        assert torch.allclose(mixed.logits[0], base(input_ids=ids).logits[0], atol=1e-5)
        for row, key in ((1, "africa"), (3, "oceania")):
            agent = PeftModel.from_pretrained(base, engine.manifest.adapters[key])
            assert torch.allclose(mixed.logits[row], agent(input_ids=ids).logits[0], atol=1e-5), key
            base = agent.unload()


def test_one_copy_of_the_base_is_in_memory() -> None:
    engine = get_engine("nano")
    parameters = sum(p.numel() * p.element_size() for p in engine.model.parameters())
    files = sum(f.stat().st_size for f in engine.manifest.base.glob("*.safetensors"))
    assert parameters <= 4.1 * files  # float32 in memory, at least a byte a weight on disk
    assert engine.colours.bytes < 0.5 * parameters
