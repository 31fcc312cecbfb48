"""Quicker steps of a model that is no toy: packed weights, guesses at what comes next. The replies stay."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from cultural_palette.collector import collector_paused
from cultural_palette.embedded.engine import CACHE, Engine, Generation, Piece
from cultural_palette.embedded.growing import ROOM, growing_cache
from cultural_palette.embedded.lookahead import GUESSES, guesses
from cultural_palette.embedded.manifest import read_manifest
from cultural_palette.embedded.packed import HalfLinear, PackedLinear, can_halve, can_pack, pack
from cultural_palette.embedded.sampling import Shape
from cultural_palette.moerges.dense import written_out

REPEATS = [("user", "Say it again: a fair go, a fair go, a fair go, a fair go, a fair go.")]


def test_a_guess_is_what_followed_the_longest_run_last_time() -> None:
    # 7 8 stood before 1, and later before 2; the 8 alone, last of all, before 3
    assert guesses([7, 8, 1, 7, 8, 2, 9, 8, 3, 7, 8]) == [2, 9, 8, 3, 7]
    assert guesses([7, 8, 1, 7, 8, 2, 9, 8, 3, 7, 8], 2) == [2, 9]
    assert guesses([4, 4]) == [4], "a run may overlap itself"
    assert guesses([1, 2, 3]) == guesses([1]) == guesses([]) == []
    assert len(guesses(list(range(50)) * 2)) == GUESSES


@pytest.fixture
def engine() -> Iterator[Engine]:
    """nano, told that it is large."""
    one = Engine(read_manifest("nano"))
    one.small = False
    yield one
    one.stop()


def reply(engine: Engine, part: str, temperature: float, most: int, shape: Shape | None) -> list[Piece]:
    pieces: list[Piece] = []
    prompt = engine.encode(REPEATS)
    engine._decode([Generation(part, prompt, temperature, most, 5, pieces.append, shape=shape)])
    return pieces


@pytest.mark.parametrize("shape", [None, Shape(top_p=0.9, min_p=0.1, frequency_penalty=0.3)])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_reply_that_looks_ahead_is_the_reply(
    engine: Engine, temperature: float, shape: Shape | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn with the same generator too, to its end, and in fewer passes."""
    passes: list[int] = []
    forward = engine._forward
    monkeypatch.setattr(
        engine, "_forward", lambda *a, **k: (passes.append(k["input_ids"].shape[1]), forward(*a, **k))[1]
    )
    for part in ("meta", "africa"):
        for most in (1, 2, 40):
            engine.small = True
            plain = reply(engine, part, temperature, most, shape)
            one_by_one = len(passes)
            engine.small = False
            ahead = reply(engine, part, temperature, most, shape)
            assert [piece.text for piece in ahead] == [piece.text for piece in plain]
            assert [piece.finish_reason for piece in ahead] == [piece.finish_reason for piece in plain]
            assert [piece.logprob for piece in ahead] == pytest.approx(
                [piece.logprob for piece in plain], abs=1e-4
            )
            assert len(passes) - one_by_one <= one_by_one
            passes.clear()


def test_right_guesses_save_passes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    step, forward, prompt = engine._step, engine._forward, engine.encode(REPEATS)
    tokens: list[int] = []
    engine.small = True
    monkeypatch.setattr(
        engine, "_step", lambda row, token, logp: (tokens.append(token), step(row, token, logp))[1]
    )
    told = reply(engine, "meta", 0.0, 40, None)
    right, passes = [*tokens], []
    engine.small = False
    monkeypatch.setattr(
        "cultural_palette.embedded.engine.guesses", lambda said: right[len(said) - len(prompt) :][:GUESSES]
    )
    monkeypatch.setattr(engine, "_forward", lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    again = reply(engine, "meta", 0.0, 40, None)
    assert [piece.text for piece in again] == [piece.text for piece in told]
    assert len(passes) == 1 + -(-(len(right) - 1) // (1 + GUESSES))  # the prompt, then six tokens a pass


@pytest.mark.skipif(not can_pack(), reason="no oneDNN for x86 here")
@pytest.mark.parametrize("rows", [1, 2, 5, 6, 300])
def test_a_packed_layer_is_the_layer(rows: int) -> None:
    layer = torch.nn.Linear(576, 1536, bias=False)
    states = torch.randn(rows, 1, 576)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(layer)(states), layer(states), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not can_halve(), reason="no FBGEMM here")
@pytest.mark.parametrize("rows", [1, 2, 5, 6, 300])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_of_16_bits_is_read_in_16_and_computed_in_32(dtype: torch.dtype, rows: int) -> None:
    layer = torch.nn.Linear(576, 1536, bias=False).to(dtype)
    states = torch.randn(rows, 1, 576)
    with torch.inference_mode():
        torch.testing.assert_close(HalfLinear(layer)(states), layer.float()(states), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not (can_pack() and can_halve()), reason="no oneDNN or no FBGEMM here")
def test_weights_are_kept_in_16_bits_where_nothing_is_lost() -> None:
    def packed(weight: torch.Tensor) -> PackedLinear:
        layer = torch.nn.Linear(2, 2, bias=False)
        layer.weight = torch.nn.Parameter(weight)
        parent = torch.nn.Sequential(layer)
        pack(parent)
        one = parent[0]
        assert isinstance(one, PackedLinear)
        return one

    exact = torch.tensor([[1.0, -3.140625], [2**-17, 6.1e4]]).bfloat16()
    tiny = torch.tensor([[1.0, 2**-20 + 2**-27], [0.0, 3e-30]]).bfloat16()
    beyond = torch.tensor([[1.0, 7e4], [0.0, 0.0]]).bfloat16()
    long = torch.tensor([[1.0, 1 + 2**-12], [0.0, 0.0]])
    assert type(one := packed(exact)) is HalfLinear and torch.equal(one.weight, exact.float())
    assert type(one := packed(tiny)) is HalfLinear
    assert float((one.weight - tiny.float()).abs().max()) <= 2**-25
    for weight in (beyond, long):
        assert type(one := packed(weight)) is PackedLinear and torch.equal(one.weight, weight.float())


def test_a_cache_with_room_is_the_cache_and_moves_seldom() -> None:
    """Rows dropped, guesses taken back, several tokens at a time, and beyond the room."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).train(False)
    ids = torch.randint(0, 64, (3, ROOM + 60))
    caches = (DynamicCache(config=config), growing_cache(config))
    rows, done, places = ids, 0, []
    with torch.inference_mode():
        for step, count in enumerate([20, 1, 1, 6, *[1] * (ROOM + 10)]):
            plain, roomy = (
                model(rows[:, done : done + count], use_cache=True, **{CACHE: cache}).logits
                for cache in caches
            )
            torch.testing.assert_close(roomy, plain, rtol=1e-5, atol=1e-6)
            done += count
            places.append(caches[1].layers[1].keys.data_ptr())
            if count == 6:
                done -= 4
                for cache in caches:
                    cache.crop(-4)
            if step == 9:
                rows = rows[[0, 2]]
                for cache in caches:
                    cache.batch_select_indices(torch.tensor([0, 2]))
    assert caches[1].get_seq_length() == done > ROOM
    moves = sum(before != after for before, after in itertools.pairwise(places))
    assert moves == 3, "after the prompt, where a row was dropped, and where the room was full"


@pytest.mark.skipif(not can_pack(), reason="no oneDNN for x86 here")
def test_a_packed_model_is_the_model_and_what_can_not_be_packed_stays() -> None:
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).train(False)
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(64, 96, bias=True)
    ids = torch.randint(0, 512, (3, 11))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        before = model(ids).logits
        pack(model)
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-5, atol=1e-5)
    packed = [name for name, module in model.named_modules() if isinstance(module, PackedLinear)]
    assert len(packed) == 14 and "lm_head" in packed
    assert isinstance(model.model.layers[1].mlp.up_proj, torch.nn.Linear)
    after = model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items()), "not a bit is lost"


@pytest.mark.skipif(not can_pack(), reason="no oneDNN for x86 here")
def test_a_packed_palette_can_be_written_out() -> None:
    engine = Engine(read_manifest("nano"))
    plain = written_out(engine.colours, engine.colours.routers["paper"]).state_dict()
    pack(engine.model)
    packed = written_out(engine.colours, engine.colours.routers["paper"]).state_dict()
    assert any(isinstance(module, PackedLinear) for module in engine.model.modules())
    assert all(torch.equal(packed[name], weight) for name, weight in plain.items())
    engine.stop()


def test_the_collector_is_as_it_was() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_steps_leave_a_core_to_whoever_takes_the_pieces(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody's number of threads is another afterwards: this thread's, and that of threads to come."""
    ours, numbers, forward = torch.get_num_threads(), [], engine._forward
    engine.cores = ours + 2
    monkeypatch.setattr(
        engine, "_forward", lambda *a, **k: (numbers.append(torch.get_num_threads()), forward(*a, **k))[1]
    )
    later: list[int] = []
    other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    try:
        engine._decode([Generation("africa", engine.encode(REPEATS), 0.0, 4, None, lambda piece: None)])
        numbers.append(torch.get_num_threads())
        other.start()
        other.join()
    finally:
        torch.set_num_threads(ours)  # the process's, of which the engine was told another
    first, *steps, after = numbers
    assert set(steps) == {ours + 1} and first == after == ours and later == [ours + 2]
