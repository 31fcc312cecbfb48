"""What a router is worth, from its weights at prompts about countries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cultural_palette.moerges.prompts import RouterPrompt


@dataclass(frozen=True)
class RouterScore:
    """What a router is worth on prompts about countries that it was not fitted on.

    `own_weight`: mean weight on the right community (chance: 1/n); `largest`: share of prompts where it is
    the largest; `entropy`: of a blend, 0..1 (1: all alike). Intervals of 95 % resample countries,
    since prompts about one country go together. `elsewhere`: by community, the share of prompts about the
    others' countries where it is the largest all the same; a community far above the rest leads whatever is
    asked.
    """

    prompts: int
    countries: int
    own_weight: float
    own_weight_95: tuple[float, float]
    largest: float
    largest_95: tuple[float, float]
    entropy: float
    by_community: Mapping[str, float]
    elsewhere: Mapping[str, float]


def score(
    blends: Tensor,
    prompts: Sequence[RouterPrompt],
    communities: Sequence[str],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> RouterScore:
    """Score mean weights over tokens. `blends`: (prompts, layers, communities), or mean over layers too."""
    mean = blends.mean(1) if blends.dim() == 3 else blends
    own = torch.tensor([prompt.community for prompt in prompts])
    weight = mean.gather(1, own[:, None])[:, 0].double()
    hit = (mean.argmax(-1) == own).double()
    entropy = -(mean * mean.clamp(min=1e-30).log()).sum(-1).mean() / math.log(len(communities))
    countries = list(dict.fromkeys(prompt.country for prompt in prompts))
    index = torch.tensor([countries.index(prompt.country) for prompt in prompts])
    counts = torch.bincount(index).double()
    drawn = torch.randint(
        len(countries), (draws, len(countries)), generator=torch.Generator().manual_seed(seed)
    )

    def interval(values: Tensor) -> tuple[float, float]:
        totals = torch.zeros(len(countries), dtype=torch.double).index_add_(0, index, values)
        means = totals[drawn].sum(1) / counts[drawn].sum(1)
        low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
        return round(low, 4), round(high, 4)

    return RouterScore(
        len(prompts), len(countries), round(float(weight.mean()), 4), interval(weight),
        round(float(hit.mean()), 4), interval(hit), round(float(entropy), 4),
        {
            key: round(float(hit[own == k].mean()), 4)
            for k, key in enumerate(communities) if bool((own == k).any())
        },
        {
            key: round(float((mean.argmax(-1) == k)[own != k].double().mean()), 4)
            for k, key in enumerate(communities) if bool((own != k).any())
        },
    )  # fmt: skip
