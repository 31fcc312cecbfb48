"""Repetition penalty, min-p and top-p: the arithmetic, in vLLM's order."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from cultural_palette.embedded.sampling import Shape, drawn, shaped  # noqa: E402
from cultural_palette.errors import UsageError  # noqa: E402
from cultural_palette.models import Sampling  # noqa: E402

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0]).log_softmax(-1)  # 0.644, 0.237, 0.087, 0.032


def near(probabilities: torch.Tensor) -> list[float]:
    return [round(float(each), 3) for each in probabilities]


def test_without_a_shape_it_is_the_softmax() -> None:
    plain = near(shaped(LOGITS, [], [], 1.0, Shape()))
    assert plain == near(LOGITS.softmax(-1)) == [0.644, 0.237, 0.087, 0.032]


def test_top_p_keeps_the_fewest_tokens_that_suffice() -> None:
    # 0.644 < 0.8 <= 0.644 + 0.237, so two stay: 0.644 / 0.881 and 0.237 / 0.881
    assert near(shaped(LOGITS, [], [], 1.0, Shape(top_p=0.8))) == [0.731, 0.269, 0.0, 0.0]
    assert near(shaped(LOGITS, [], [], 1.0, Shape(top_p=0.6))) == [1.0, 0.0, 0.0, 0.0]


def test_min_p_is_a_share_of_the_likeliest() -> None:
    # 0.1 * 0.644 = 0.064: the last, 0.032, goes; the rest over 0.968
    assert near(shaped(LOGITS, [], [], 1.0, Shape(min_p=0.1))) == [0.665, 0.245, 0.09, 0.0]


def test_the_penalty_divides_what_is_positive_and_multiplies_what_is_not() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0])
    penal = shaped(logits, [0, 2], [2], 1.0, Shape(repetition_penalty=2.0))
    assert near(penal) == near(torch.tensor([1.0, 1.0, -2.0]).softmax(-1))
    assert logits.tolist() == [2.0, 1.0, -1.0]  # the caller's stay


def test_at_temperature_0_the_penalty_can_change_the_likeliest() -> None:
    logits = torch.tensor([2.0, 1.9, -1.0])
    assert near(shaped(logits, [0], [], 0.0, Shape(repetition_penalty=1.2))) == [0.0, 1.0, 0.0]


def test_the_frequency_penalty_counts_the_reply_and_not_the_prompt() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0])
    penal = shaped(logits, [0, 0, 1], [2, 2, 1], 1.0, Shape(frequency_penalty=0.5))
    assert near(penal) == near(torch.tensor([2.0, 0.5, -2.0]).softmax(-1))
    assert near(shaped(logits, [0], [], 1.0, Shape(frequency_penalty=0.5))) == near(logits.softmax(-1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
        {"frequency_penalty": 2.5},
    ],
)
def test_a_sampling_that_can_not_be_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_what_is_not_set_is_in_no_key() -> None:
    assert Sampling(0.3, 80, 1).as_request() == {"temperature": 0.3, "max_tokens": 80, "seed": 1}
    assert Sampling(0.3, top_p=0.9).as_request()["top_p"] == 0.9


@pytest.mark.parametrize("size", [3, 700, 49_152])
def test_a_draw_is_that_of_multinomial_and_so_are_those_after_it(size: int) -> None:
    different = set()
    for seed in range(60):
        likely = torch.Generator().manual_seed(seed)
        shares = torch.zeros(size)
        places = torch.randint(0, size, (1 + seed % 9,), generator=likely)
        shares[places] = torch.rand(len(places), generator=likely) + 0.01
        shares /= shares.sum()
        ours, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
        tokens = [drawn(shares, ours) for _ in range(4)]
        assert tokens == [int(torch.multinomial(shares, 1, generator=theirs)) for _ in range(4)]
        assert torch.equal(ours.get_state(), theirs.get_state())
        different.add(len(set(tokens)))
    assert len(different) > 1, "or nothing was drawn at all"
