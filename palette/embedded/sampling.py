"""How the embedded engine draws a token when more than the temperature is set: as vLLM does, in its order.

A repetition penalty on what prompt and reply have said already, a frequency penalty on what the reply has,
the temperature, min-p, top-p.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Shape:
    """What a palette or a caller sets. `top_p` (0..1): the smallest set of tokens whose probabilities sum to
    it; `min_p` (0..1): none below this share of the likeliest; `repetition_penalty`: logits of tokens that
    stand in prompt or reply are divided by it where they are positive, else multiplied (Keskar et al. 2019);
    `frequency_penalty`: taken off a token's logit for each time that it stands in the reply.
    """

    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0


PLAIN = Shape()


def shaped(
    logits: torch.Tensor, prompt: Sequence[int], reply: Sequence[int], temperature: float, shape: Shape
) -> torch.Tensor:
    """Probabilities to draw the next token from; at temperature 0 all on the likeliest. (V,) -> (V,)"""
    logits = logits.clone()
    if shape.repetition_penalty != 1.0:
        ids = torch.tensor(sorted({*prompt, *reply}), dtype=torch.long)
        old = logits[ids]
        factor = shape.repetition_penalty
        logits[ids] = torch.where(old > 0, old / factor, old * factor)
    if shape.frequency_penalty != 0.0 and reply:
        counts = Counter(reply)
        ids = torch.tensor(list(counts), dtype=torch.long)
        logits[ids] -= shape.frequency_penalty * torch.tensor(list(counts.values()))
    if temperature <= 0:
        certain = torch.zeros_like(logits)
        certain[logits.argmax()] = 1.0
        return certain
    shares = (logits / temperature).softmax(-1)
    if shape.min_p > 0:
        shares = torch.where(shares >= shape.min_p * shares.max(), shares, torch.zeros_like(shares))
    if shape.top_p < 1:
        left = shares.nonzero()[:, 0]  # after min-p few of the vocabulary's tokens: quicker to sort
        ordered, order = shares[left].div(shares.sum()).sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= shape.top_p  # a token goes when those before it suffice
        shares[left[order[beyond]]] = 0.0
    return shares / shares.sum()


def drawn(shares: torch.Tensor, generator: torch.Generator) -> int:
    """What `torch.multinomial` draws by these shares, (V,), and the generator where that leaves it: it draws
    a number for every share, and here it is a cheap one for those behind the last that is not zero.

    After min-p and top-p that one is mostly among the first few thousand, and a draw takes 0.6 ms, not 1.3.
    """
    size = int(shares.nonzero()[-1]) + 1
    token = int(torch.multinomial(shares[:size], 1, generator=generator))
    if rest := len(shares) - size:
        torch.empty(rest, dtype=torch.int64).random_(generator=generator)
    return token
