"""Kept replies are decoded alone: the same bits whatever else is asked at the time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage

from cultural_palette.calls import CallStore, use_calls
from cultural_palette.embedded.chat_model import EmbeddedChatModel
from cultural_palette.embedded.engine import get_engine
from cultural_palette.models import ModelRef, Sampling, ask

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


async def test_a_reply_that_is_not_kept_shares_a_batch() -> None:
    """In a batch the text stays, and the last bits of its log-probabilities may move."""
    alone, among = await bits(0), await bits(4)
    assert [token["token"] for token in among] == [token["token"] for token in alone]
    assert [token["logprob"] for token in among] == pytest.approx(
        [token["logprob"] for token in alone], abs=1e-4
    )


def test_one_adapter_alone_gives_the_bits_of_the_mixed_path() -> None:
    engine = get_engine("nano")
    ids = torch.tensor([engine.encode([("user", "Is tea good?")])])
    with torch.inference_mode():
        for part in ("africa", "oceania", "africa"):
            mixed = engine.agents(input_ids=ids, adapter_names=[part]).logits
            assert torch.equal(engine._forward([part], input_ids=ids).logits, mixed)
        base = engine.agents(input_ids=ids, adapter_names=["__base__"]).logits
        assert torch.equal(engine._forward(["base"], input_ids=ids).logits, base)
        assert not torch.equal(mixed, base)
