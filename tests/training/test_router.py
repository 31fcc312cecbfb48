"""Router rows recomputed from the model's own equations; a degenerate router is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mergekit")

from cultural_palette.cultural_map import load_map  # noqa: E402
from cultural_palette.training.merge import PLACES, MergeError, map_prompts, merge_moerges, router_rows  # noqa: E402
from cultural_palette.training.merge.router import examine, read_states, rows_from, summary  # noqa: E402
from tests.training.merge_models import BASES, make_adapter, make_base  # noqa: E402

PROMPTS = {"north": ["good day", "hello"], "south": ["bad night", "word", "yes indeed"]}


@pytest.fixture(scope="module", params=list(BASES))
def base(
    request: pytest.FixtureRequest, tiny: tuple[Any, Any, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return make_base(request.param, tmp_path_factory.mktemp(request.param) / "base", tiny[2])


def test_states_obey_the_layer_s_equations(base: Path) -> None:
    """ffn_in = norm(residual + attn_out); the next residual = residual + attn_out + FFN(ffn_in)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    states = read_states(base, PROMPTS)
    for key, texts in PROMPTS.items():
        for row, text in enumerate(texts):
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            with torch.inference_mode():
                hidden = model(ids, output_hidden_states=True).hidden_states
                for index, layer in enumerate(model.model.layers):
                    residual, attn_out, ffn_in = (states[place][key][row, index] for place in PLACES)
                    assert torch.allclose(residual, hidden[index][0, -1], atol=1e-4)
                    middle = residual + attn_out
                    assert torch.allclose(ffn_in, layer.post_attention_layernorm(middle), atol=1e-4)
                    if index + 1 < len(model.model.layers):
                        after = middle + layer.mlp(ffn_in[None, None])[0, 0]
                        assert torch.allclose(after, hidden[index + 1][0, -1], atol=1e-4)


@pytest.mark.parametrize("against_others", [False, True])
def test_rows_are_mergekit_s(base: Path, against_others: bool) -> None:
    """`get_gate_params`, bfloat16 as it reads, on prompts of one length (it averages, we agree on what)."""
    from mergekit.common import ModelReference
    from mergekit.moe.config import Expert
    from mergekit.moe.router import get_gate_params
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.padding_side = "left"
    experts = []
    for key, texts in PROMPTS.items():
        others = [p for k, ps in PROMPTS.items() if k != key for p in ps]
        negative = others if against_others else None
        experts.append(Expert(source_model=str(base), positive_prompts=texts, negative_prompts=negative))
    theirs = get_gate_params(
        ModelReference.model_validate(str(base)), tokenizer, experts, device="cpu"
    ).float()
    ours = rows_from(read_states(base, PROMPTS, "bfloat16")["residual"], against_others=against_others)
    assert ours.shape == theirs.shape == (2, 2, 64)
    assert torch.allclose(ours, theirs, atol=0.02)


def test_the_checkpoint_s_rows_are_those_of_the_place(tiny: tuple[Any, Any, Path], tmp_path: Path) -> None:
    base = make_base("llama", tmp_path / "base", tiny[2])
    adapters = {key: make_adapter(base, tmp_path / key, seed) for seed, key in enumerate(PROMPTS)}
    states, seen = read_states(base, PROMPTS), []
    for place in PLACES:
        merge_moerges(base, adapters, PROMPTS, tmp_path / "out", rows=place)
        found = torch.stack(list(router_rows(tmp_path / "out").values()))
        for index, key in enumerate(PROMPTS):
            mean = states[place][key].mean(0)
            assert torch.allclose(found[:, index], mean / mean.norm(dim=-1, keepdim=True), atol=1e-6)
        seen.append(found)
    assert not torch.allclose(seen[0], seen[1], atol=0.1) and not torch.allclose(seen[1], seen[2], atol=0.1)


def test_rows_against_the_others_show_their_arithmetic() -> None:
    states = {"a": torch.tensor([[[3.0, 5.0]], [[5.0, 5.0]]]), "b": torch.tensor([[[1.0, 5.0]]])}
    # a: mean (4, 5), minus b's (1, 5) = (3, 0) -> (1, 0); b: (1, 5) - (4, 5) = (-3, 0) -> (-1, 0)
    assert rows_from(states, against_others=True).tolist() == [[[1.0, 0.0], [-1.0, 0.0]]]
    with pytest.raises(MergeError, match="b's router row is zero"):
        rows_from({"a": states["a"], "b": torch.zeros(1, 1, 2)})


def test_a_good_router_and_degenerate_ones() -> None:
    asked = {"a": torch.tensor([[[4.0, 0.0]]]), "b": torch.tensor([[[0.0, 4.0]]])}
    good, alike, parallel = torch.eye(2), torch.full((2, 2), 0.5**0.5), torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    one, two, three = examine(torch.stack([good, alike, parallel])[:, :, :], _repeat(asked, 3))
    # gate of a's prompt: softmax(4, 0) = (0.982, 0.018)
    assert one.own_share == pytest.approx(0.982, abs=1e-3) and one.hit_rate == 1 and one.condition == 1
    assert one.entropy == pytest.approx(0.1301, abs=1e-3) and one.degenerate is None
    assert two.entropy == 1 and two.degenerate == "blends everything alike"
    assert three.degenerate is not None
    assert summary([one, two, three])["degenerate_layers"] == [1, 2]


def test_one_expert_for_everything_is_seen() -> None:
    asked = {
        "a": torch.tensor([[[40.0, 0.0]]]),
        "b": torch.tensor([[[40.0, 1.0]]]),
        "c": torch.tensor([[[40.0, 2.0]]]),
    }
    (only,) = examine(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]]), asked)
    assert only.degenerate == "gives one expert everything, whatever the prompt"


def test_prompts_come_from_the_map() -> None:
    continents = load_map("continents")
    assert map_prompts(continents)["africa"] == ["Africa"]
    rich = map_prompts(continents, "rich")
    assert {"Africa", "African culture", "life in Africa", "Kenya", "In Kenya, people"} <= set(rich["africa"])
    assert "Japan" in rich["asia"] and all(len(set(texts)) == len(texts) for texts in rich.values())
    with pytest.raises(MergeError, match=r"Unknown prompt set 'poems'. It is one of names, adjectives"):
        map_prompts(continents, "poems")


def _repeat(asked: dict[str, Any], layers: int) -> dict[str, Any]:
    return {key: value.expand(-1, layers, -1) for key, value in asked.items()}
