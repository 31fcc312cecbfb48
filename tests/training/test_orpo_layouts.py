"""Rows, packed, prompt once: one answer's log-probability, its gradients and the trained adapter are the
same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cultural_palette.training.align import align  # noqa: E402
from cultural_palette.training.logps import answering_with_logps, block_mask, group_logps, head_logps  # noqa: E402
from cultural_palette.training.orpo_settings import LAYOUTS, OrpoSettings  # noqa: E402
from cultural_palette.training.sequences import TokenGroup, encode_group, lay_out  # noqa: E402


def row(question: str, *answers: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": answers[0],
        "rejected": list(answers[1:]),
    }


ROWS = [
    row("hello", "good day", "bad", "b c d a b"),
    row("a b c d word", "yes", "indeed yes", "bad night hello"),
]


def groups(tokenizer: Any) -> list[TokenGroup]:
    return [encode_group(tokenizer, each, 64) for each in ROWS]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_a_plain_forwards_logps(tiny: tuple[Any, Any, Path], layout: Any) -> None:
    tokenizer, model, _ = tiny
    with torch.no_grad():
        got = group_logps(model, lay_out(groups(tokenizer), layout, tokenizer.pad_token_id), prompt_too=True)
        answers, prompts = [], []
        for group in groups(tokenizer):
            for answer in group.answers:
                ids = torch.tensor([[*group.prompt, *answer]])
                logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
                answers.append(logps[len(group.prompt) - 1 :].sum())
            prompts.append(logps[: len(group.prompt) - 1].sum())
    assert torch.allclose(got["answers"], torch.stack(answers), atol=1e-4)
    assert torch.allclose(got["prompts"], torch.stack(prompts), atol=1e-4)


def test_an_answer_of_one_token_works_in_every_layout(tiny: tuple[Any, Any, Path]) -> None:
    tokenizer, model, _ = tiny
    group = [TokenGroup((5, 6, 7), ((8,), (9,)))]
    with torch.no_grad():
        sums = [
            group_logps(model, lay_out(group, layout, tokenizer.pad_token_id))["answers"]
            for layout in LAYOUTS
        ]
    assert torch.allclose(sums[0], sums[1], atol=1e-5) and torch.allclose(sums[0], sums[2], atol=1e-5)


def test_an_eager_mask_is_the_boolean_one(tiny: tuple[Any, Any, Path]) -> None:
    segments = torch.tensor([[0, 0, 1, 1, 2, -1]])
    seen = block_mask(segments, "sdpa", torch.float32)[0, 0]
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],  # the second answer sees the prompt and not the first
        [0, 0, 0, 0, 0, 1],  # padding sees itself, so that softmax has something
    ]
    assert torch.equal(block_mask(segments, "eager", torch.float32)[0, 0] == 0, seen)


def test_flex_attention_sees_what_the_dense_mask_does(tiny: tuple[Any, Any, Path]) -> None:
    """Forward only: flex attention has no backward pass on the CPU."""
    from transformers import AutoModelForCausalLM

    tokenizer, model, base = tiny
    flex = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="flex_attention"
    )
    batch = lay_out(groups(tokenizer), "packed", tokenizer.pad_token_id)
    with torch.no_grad():
        wanted, got = group_logps(model, batch)["answers"], group_logps(flex.eval(), batch)["answers"]
    assert torch.allclose(wanted, got, atol=1e-4)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_fused_head_is_log_softmax(frozen: bool, chunk: int) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50).requires_grad_(not frozen)
    targets, weights = torch.randint(0, 50, (7,)), torch.randn(7)
    hidden, other = (
        torch.randn(7, 8, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab"
    )
    logps = head_logps(head, hidden, targets, chunk)
    plain = head(other).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(logps, plain, atol=1e-6)
    (logps * weights).sum().backward()
    ours = None if frozen else head.weight.grad.clone()
    head.zero_grad()
    (plain * weights).sum().backward()
    assert torch.allclose(hidden.grad, other.grad, atol=1e-6)
    assert frozen or torch.allclose(ours, head.weight.grad, atol=1e-5)


def test_the_fused_head_passes_gradcheck() -> None:
    from cultural_palette.training.logps import frozen_head_logps

    torch.manual_seed(0)
    hidden = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    weight, targets = torch.randn(9, 5, dtype=torch.float64), torch.tensor([0, 3, 8, 3])
    slope = torch.autograd.grad(frozen_head_logps(hidden, weight, None, targets, 2).sum(), hidden)[0]
    by_hand = weight[targets] - (hidden @ weight.T).softmax(-1) @ weight
    assert torch.allclose(slope, by_hand, atol=1e-6)  # the log-probability itself is float32


@pytest.mark.parametrize(
    "settings",
    [{"layout": "packed"}, {"layout": "prompt_once"}, {"layout": "packed", "gradient_checkpointing": True}],
)
def test_trained_adapters_are_equal(
    tiny: tuple[Any, Any, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    from safetensors.torch import load_file

    _, _, base = tiny
    common: dict[str, Any] = {
        "learning_rate": 1e-3,
        "epochs": 3,
        "rank": 4,
        "dropout": 0.0,
        "batch_size": 2,
        "max_length": 64,
        "seed": 3,
    }
    align(base, ROWS * 4, tmp_path / "rows", OrpoSettings(**common, layout="rows"))
    align(base, ROWS * 4, tmp_path / "other", OrpoSettings(**common | settings))
    rows, other = (load_file(tmp_path / each / "adapter_model.safetensors") for each in ("rows", "other"))
    assert max(float(value.abs().max()) for key, value in rows.items() if "lora_B" in key) > 1e-3  # it moved
    for key, value in rows.items():
        assert torch.allclose(value, other[key], atol=2e-5), key


def test_a_full_model_trains_and_loads_in_bfloat16_too(tiny: tuple[Any, Any, Path], tmp_path: Path) -> None:
    """rank=0: every weight learns, the tied head too, so the head is not the fused one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, _, base = tiny
    for layout, precision in (("rows", "float32"), ("packed", "float32"), ("prompt_once", "bf16")):
        settings = OrpoSettings(
            rank=0,
            learning_rate=1e-3,
            epochs=2,
            batch_size=2,
            max_length=64,
            layout=layout,
            precision=precision,
        )
        measures = align(base, ROWS * 2, tmp_path / f"{layout}-{precision}", settings)
        assert measures["nll"] > 0
    rows, packed, half = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        for name in ("rows-float32", "packed-float32", "prompt_once-bf16")
    )
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert AutoTokenizer.from_pretrained(tmp_path / "rows-float32").chat_template == tokenizer.chat_template
    for name, value in rows.named_parameters():
        assert torch.allclose(value, packed.get_parameter(name), atol=1e-4), name
        assert torch.allclose(value, half.get_parameter(name), atol=1e-2), name
    assert not torch.equal(fresh.lm_head.weight, rows.lm_head.weight)


def test_the_forward_comes_back(tiny: tuple[Any, Any, Path]) -> None:
    _, model, _ = tiny
    with answering_with_logps(model, False):
        assert "forward" in vars(model)
    assert "forward" not in vars(model)
