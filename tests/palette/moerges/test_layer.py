"""One base, many colours, against the written-out mixture, PEFT's agents and the base, per architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("mergekit")

from cultural_palette.moerges import mixture as mixture_module  # noqa: E402
from cultural_palette.moerges.adapters import read_adapter  # noqa: E402
from cultural_palette.moerges.model import Colours, install  # noqa: E402
from cultural_palette.moerges.modes import Agent, Base, Blend, BlendError, Mode, Routed  # noqa: E402
from cultural_palette.moerges.peft_settings import AdapterError  # noqa: E402
from cultural_palette.moerges.router import Router, RouterError, load_routers, save_routers  # noqa: E402
from cultural_palette.training.merge import merge_moerges, router_rows  # noqa: E402
from tests.training.merge_models import BASES, FFN, KEYS, make_adapter, make_base  # noqa: E402

PROMPTS = {key: [key, f"life in {key}"] for key in KEYS}
LONG = 200  # beyond the 64 positions of the originals that the RoPE scalings start from
# What one agent's adapter has, and no other's: ranks, rsLoRA, patterns, layers, attention.
SETTINGS: dict[str, dict[str, Any]] = {
    "africa": {},
    "america": {"r": 8, "use_rslora": True},
    "asia": {"r": 2, "rank_pattern": {"up_proj": 5}, "alpha_pattern": {"down_proj": 3}},
    "europe": {"targets": ["gate_proj", "down_proj"], "layers_to_transform": [1]},
    "oceania": {"targets": [*FFN, "q_proj", "v_proj", "o_proj"]},
}


class Case(NamedTuple):
    name: str
    base: Path
    adapters: dict[str, Path]
    moerges: Path
    model: Any
    colours: Colours


@pytest.fixture(scope="module", params=list(BASES))
def case(
    request: pytest.FixtureRequest, tiny: tuple[Any, Any, Path], tmp_path_factory: pytest.TempPathFactory
) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    base = make_base(request.param, folder / "base", tiny[2])
    adapters = {
        key: make_adapter(base, folder / key, seed, settings.get("targets", FFN),
                          **{k: v for k, v in settings.items() if k != "targets"})
        for seed, (key, settings) in enumerate(SETTINGS.items())
    }  # fmt: skip
    merge_moerges(base, adapters, PROMPTS, folder / "moerges", against_others=True)
    model = load(base)
    colours = install(model, {key: read_adapter(path) for key, path in adapters.items()})
    rows = torch.stack(list(router_rows(folder / "moerges").values()))
    colours.add_router("paper", Router(rows, torch.zeros(rows.shape[:2])))
    generator = torch.Generator().manual_seed(5)
    other = Router(
        torch.randn(rows.shape, generator=generator) / 4, torch.randn(rows.shape[:2], generator=generator)
    )
    colours.add_router("fitted", other)
    return Case(request.param, base, adapters, folder / "moerges", model, colours)


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tokens(rows: int, length: int = LONG) -> Any:
    return torch.randint(5, 200, (rows, length), generator=torch.Generator().manual_seed(length))


def logits(case: Case, modes: list[Mode], ids: Any, **inputs: Any) -> Any:
    with torch.inference_mode(), case.colours.use(modes):
        return case.model(ids, **inputs).logits


def agent(case: Case, key: str) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(load(case.base), case.adapters[key]).eval()


@torch.inference_mode()
def test_the_moerges_is_the_mixture_written_out(case: Case) -> None:
    ids = tokens(1)
    assert torch.allclose(logits(case, [Routed("paper")], ids), load(case.moerges)(ids).logits, atol=1e-5)


@torch.inference_mode()
def test_every_agent_is_peft_s_and_the_base_is_the_base(case: Case) -> None:
    ids = tokens(1)
    plain = load(case.base)(ids).logits
    assert torch.equal(logits(case, [Base()], ids), plain)
    assert torch.equal(case.model(ids).logits, plain)  # no modes, no colours
    for key in KEYS:
        found = logits(case, [Agent(key)], ids)
        assert torch.allclose(found, agent(case, key)(ids).logits, atol=1e-5), key
        assert not torch.allclose(found, plain, atol=2e-3), key


def test_a_mixed_batch_is_its_rows_alone(case: Case) -> None:
    """Rows of all kinds in no order, left-padded to different lengths."""
    modes: list[Mode] = [
        Agent("oceania"), Routed("paper"), Base(), Agent("africa"), Routed("fitted"), Agent("oceania"),
        Blend.of({"asia": 0.25, "oceania": 0.75}), Routed("paper"), Agent("europe"),
        Blend.of({"oceania": 1.0}),
    ]  # fmt: skip
    ids = tokens(len(modes), 40)
    mask = torch.ones_like(ids)
    for row in range(len(modes)):
        mask[row, : row * 3] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    together = logits(case, modes, ids, attention_mask=mask, position_ids=positions)
    for row, mode in enumerate(modes):
        alone = logits(case, [mode], ids[row : row + 1, row * 3 :])[0]
        assert torch.allclose(together[row, row * 3 :], alone, atol=2e-5), mode


def test_a_mixed_batch_decodes_step_by_step_as_in_one_pass(case: Case) -> None:
    modes: list[Mode] = [Routed("paper"), Agent("asia"), Base(), Blend.uniform(KEYS)]
    ids = tokens(4, 30)
    whole = logits(case, modes, ids)
    cache, steps = None, []
    with torch.inference_mode(), case.colours.use(modes):
        for part in (ids[:, :25], *ids[:, 25:].split(1, 1)):
            output = case.model(part, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    assert torch.allclose(torch.cat(steps, 1), whole, atol=2e-5)


def test_agents_decode_at_once_as_one_after_the_other(case: Case) -> None:
    """A step of agents alone takes every community's changes in one product; ranks differ here."""
    names = ("oceania", "africa", "europe", "africa", "america", "asia")
    for keys in (names, names[:2], names[3:5]):
        modes: list[Mode] = [Agent(key) for key in keys]
        ids = tokens(len(keys), 12)
        whole = logits(case, modes, ids)
        cache, steps = None, []
        with torch.inference_mode(), case.colours.use(modes) as batch:
            assert batch.agents is not None
            for part in (ids[:, :8], *ids[:, 8:].split(1, 1)):
                output = case.model(part, past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                steps.append(output.logits)
        assert torch.allclose(torch.cat(steps, 1), whole, atol=2e-5), keys
    with case.colours.use([Agent("asia"), Base()]) as mixed, case.colours.use([Agent("asia")] * 2) as same:
        assert mixed.agents is same.agents is None


def test_a_fixed_blend_is_the_weighted_sum_in_every_layer(case: Case) -> None:
    """One layer by hand, in float64: sum_C w_C down_C(act(gate_C x) * up_C x)."""
    weights = {"africa": 0.1, "america": 0.0, "asia": 0.2, "europe": 0.3, "oceania": 0.4}
    x = torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(1))
    for number in range(2):
        by_hand = torch.zeros(7, 64, dtype=torch.float64)
        for key, weight in weights.items():
            ffn = agent(case, key).merge_and_unload().model.layers[number].mlp
            gate, up, down = (getattr(ffn, part).weight.double() for part in FFN)
            h = x[0].double()
            by_hand += weight * ((torch.nn.functional.silu(h @ gate.T) * (h @ up.T)) @ down.T)
        with torch.inference_mode(), case.colours.use([Blend.of(weights)]):
            found = case.model.model.layers[number].mlp(x)[0]
        assert torch.allclose(found.double(), by_hand, atol=1e-5)


def test_chunks_and_the_batched_form_change_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Mode] = [Routed("paper"), Agent("america")]
    ids = tokens(2, 50)
    monkeypatch.setattr(mixture_module, "FEW_TOKENS", 10_000)
    monkeypatch.setitem(mixture_module.CHUNK_TOKENS, "cpu", 10_000)
    whole = logits(case, modes, ids)
    for few, chunk in ((0, 10_000), (0, 7), (10_000, 1), (16, 256)):
        monkeypatch.setattr(mixture_module, "FEW_TOKENS", few)
        monkeypatch.setitem(mixture_module.CHUNK_TOKENS, "cpu", chunk)
        assert torch.allclose(logits(case, modes, ids), whole, atol=1e-5), (few, chunk)


def test_a_long_prompt_never_holds_five_activations(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    inner = mixture_module._one_by_one

    def spy(x: Any, *rest: Any) -> Any:
        seen.append(len(x))
        return inner(x, *rest)

    monkeypatch.setattr(mixture_module, "_one_by_one", spy)
    logits(case, [Routed("paper")] * 2, tokens(2))
    assert max(seen) == mixture_module.CHUNK_TOKENS["cpu"] and sum(seen) == 2 * 2 * LONG


def test_the_blend_comes_out_of_the_same_pass(case: Case) -> None:
    """The router's own softmax over the tokens that count, read from the written-out mixture by a hook."""
    from cultural_palette.moerges.dense import router_weights

    ids = tokens(1, 30)
    expected = router_weights(load(case.moerges), {"input_ids": ids}, torch.ones_like(ids))
    batch_ids = torch.cat([torch.full((1, 8), 7), ids], 1).expand(3, -1)
    mask = torch.ones_like(batch_ids)
    mask[:, :8] = 0
    modes: list[Mode] = [Base(), Routed("paper"), Blend.of({"asia": 1.0})]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode(), case.colours.use(modes, tokens=mask) as batch:
        case.model(batch_ids, attention_mask=mask, position_ids=positions)
        batch.tokens = None  # what is written after the prompt does not count
        case.model(batch_ids, attention_mask=mask, position_ids=positions)
    found = batch.router_weights()
    assert found.shape == (3, 2, 5)
    assert torch.allclose(found[1], expected, atol=1e-6)
    assert torch.equal(found[2], torch.eye(5)[2].expand(2, -1)) and not found[0].any()


def test_only_colours_are_held_beside_the_base(case: Case) -> None:
    """At the highest rank a projection, float32, and two routers with biases."""
    layers = sum(4 * 5 * rank * (64 + 96) for rank in (8, 8, 8)) * 2
    attention = (
        4 * 4 * sum(sum(case.model.model.layers[0].self_attn.q_proj.base_layer.weight.shape) for _ in "q")
    )
    assert case.colours.bytes < layers + 2 * 2 * 4 * 5 * 65 + 2 * 3 * attention
    names = set(case.model.state_dict())
    assert {n.replace(".base_layer", "") for n in names} == set(load(case.base).state_dict())


def test_bad_modes_routers_and_adapters_say_what_there_is(case: Case, tmp_path: Path) -> None:
    def using(mode: Mode) -> None:
        with case.colours.use([mode]):
            pass

    with pytest.raises(BlendError, match="No community 'atlantis'; the palette has africa"):
        using(Agent("atlantis"))
    with pytest.raises(BlendError, match="No router 'best'; the palette has paper, fitted"):
        using(Routed("best"))
    with pytest.raises(BlendError, match=r"sum to 0\.5"):
        Blend.of({"asia": 0.5})
    with pytest.raises(BlendError, match=r"-0\.5 of 'asia'"):
        Blend.of({"asia": -0.5, "africa": 1.5})
    with pytest.raises(ValueError, match="those of 1 rows, and the batch has 2"):
        logits(case, [Routed("paper")], tokens(2, 5))
    zeros = Router(torch.zeros(2, 5, 64), torch.zeros(2, 5), ("north", "south", "east", "west", "centre"))
    with pytest.raises(RouterError, match="is for north, south"):
        case.colours.add_router("x", zeros)
    with pytest.raises(RouterError, match=r"\(2, 5, 32\).*need \(2, 5, 64\)"):
        case.colours.add_router("x", Router(torch.zeros(2, 5, 32), torch.zeros(2, 5)))
    other = load(case.base)
    other.model.layers = other.model.layers[:1]
    with pytest.raises(AdapterError, match=r"is for another base: .* has no linear layer model\.layers\.1"):
        install(other, {"africa": read_adapter(case.adapters["africa"])})
    with pytest.raises(AdapterError, match="coloured layers already"):
        install(case.model, {"africa": read_adapter(case.adapters["africa"])})
    with pytest.raises(AdapterError, match=r"is a 'mixtral' model|is a 'qwen._moe' model"):
        install(load(case.moerges), {"africa": read_adapter(case.adapters["africa"])})


def test_routers_on_disk(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "router.safetensors"
    save_routers(file, case.colours.routers, KEYS)
    found = load_routers(file)
    assert list(found) == ["fitted", "paper"] and found["paper"].communities == KEYS
    for name, router in case.colours.routers.items():
        assert torch.equal(found[name].rows, router.rows) and torch.equal(found[name].bias, router.bias)
    with pytest.raises(RouterError, match="No router"):
        load_routers(tmp_path / "none.safetensors")
    file.write_bytes(b"junk")
    with pytest.raises(RouterError, match="can not be read"):
        load_routers(file)


def test_bfloat16_stays_near_float32(case: Case) -> None:
    model = load(case.base).to(torch.bfloat16)
    colours = install(model, {key: read_adapter(path) for key, path in case.adapters.items()})
    colours.add_router("paper", case.colours.routers["paper"])
    ids = tokens(1, 20)
    with torch.inference_mode(), colours.use([Routed("paper")]):
        found = model(ids).logits.float()
    assert (found - logits(case, [Routed("paper")], ids)).abs().max() < 0.5
