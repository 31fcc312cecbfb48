"""Router rows as a linear discriminant of the router's input, in closed form, and what rows are worth.

The base reads prompts about the countries of a map. In each layer, the discriminant that tells the countries'
communities apart gives a row and a bias a community; no weight of a model is trained. What it must do well is
a *new* country in a *new* text, so every statistic is one of countries (each counts once, however long its
prompts), and countries' spread within a community is noise like any other.

Two discriminants are tried, on countries of the fit that are set aside, each at several degrees of sharpness;
the one that is right most often stays:

* `mentions`: from the tokens of the country's own name, and all other tokens must be left undecided. A model
  that has read the world knows the continent there, above all in its middle layers.
* `everywhere`: from all tokens alike. Better where texts speak of the country in other words too.

Both shrink towards the diagonal. Of those that are right alike, the sharpest stays. The choice is one for all
layers: layer by layer, so few countries choose by chance.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cultural_palette.moerges.prompts import RouterPrompt
from cultural_palette.moerges.router import Router, RouterError

MENTIONS, EVERYWHERE = "mentions", "everywhere"
SHRINK = 0.01
"""Added to the diagonal, as a share of its mean."""
OTHERS = 10.0
"""`mentions`: what the spread of all other tokens counts, against that of the mentions."""
LEVEL = 100.0
"""`mentions`: what a common offset between mentions and other tokens counts."""
SPREAD = {MENTIONS: 3.0, EVERYWHERE: 10.0}
"""What the countries' spread within a community counts."""
SHARPNESS = (1.0, 3.0, 6.0, 10.0)
"""Tried factors; at 1, a community's mean state is one unit of log-odds above the others' mean."""
ASIDE = 0.25
"""Share of the fit's countries that choose between the discriminants."""
FEWEST = 3
"""Countries that a community needs for its spread to mean anything."""


@dataclass
class Statistics:
    """What a fit needs to know of the states, added up prompt by prompt. Float32.

    `products`: per place (mention, other) and layer, sum of z z' over tokens, each country's weights
    summing to 1;
    `sums`: the same of z, per country. `share`: of mentions among all tokens.
    """

    countries: list[str]
    communities: Tensor  # (countries,)
    products: Tensor  # (2, layers, hidden, hidden)
    sums: Tensor  # (2, layers, countries, hidden)
    share: float

    def __add__(self, other: Statistics) -> Statistics:
        """Statistics of the countries of both; none may be in both."""
        n, m = len(self.countries), len(other.countries)
        return Statistics(
            self.countries + other.countries,
            torch.cat([self.communities, other.communities]),
            self.products + other.products,
            torch.cat([self.sums, other.sums], 2),
            (self.share * n + other.share * m) / (n + m),
        )


@dataclass(frozen=True)
class FitReport:
    """How a router was fitted: the choice that the countries set aside made.

    `accuracy`: share of their prompts whose own community had the largest weight, by choice.
    """

    discriminant: str
    sharpness: float
    accuracy: Mapping[str, float]
    countries: int
    prompts: int


@torch.inference_mode()
def fit_router(
    model: Any, prompts: Sequence[RouterPrompt], communities: Sequence[str], *, seed: int = 0
) -> tuple[Router, FitReport]:
    """Rows and biases fitted on the base's states at these prompts. `model`: the base, or a coloured model,
    which is the base as long as no modes are set.

    Raises RouterError when a community has fewer than 3 countries among the prompts.
    """
    aside = _aside(prompts, communities, seed)
    first = gather(model, [p for p in prompts if p.country not in aside])
    second = gather(model, [p for p in prompts if p.country in aside])
    count = len(communities)
    tries = {kind: _rows(first, count, kind) for kind in SPREAD}
    checks = [p for p in prompts if p.country in aside]
    own = torch.tensor([p.community for p in checks])
    candidates = {(kind, s): _scaled(*tries[kind], s) for kind in tries for s in SHARPNESS}
    blends = weights_at(model, {f"{kind} {s:g}": router for (kind, s), router in candidates.items()}, checks)
    accuracy = {
        choice: float((blends[f"{choice[0]} {choice[1]:g}"].mean(1).argmax(-1) == own).float().mean())
        for choice in candidates
    }
    kind, sharpness = max(candidates, key=lambda choice: (accuracy[choice], choice[1]))
    both = first + second
    report = FitReport(
        kind, sharpness, {f"{k} {s:g}": round(value, 4) for (k, s), value in accuracy.items()},
        len(both.countries), len(prompts),
    )  # fmt: skip
    return _scaled(*_rows(both, count, kind), sharpness, tuple(communities)), report


@torch.inference_mode()
def gather(model: Any, prompts: Sequence[RouterPrompt]) -> Statistics:
    """Read the prompts and add up what a fit needs."""
    countries = list(dict.fromkeys(prompt.country for prompt in prompts))
    index = {iso3: number for number, iso3 in enumerate(countries)}
    home = {prompt.country: prompt.community for prompt in prompts}
    tokens = torch.zeros(2, len(countries))
    for prompt in prompts:
        mentions = sum(prompt.mentions)
        tokens[0, index[prompt.country]] += mentions
        tokens[1, index[prompt.country]] += len(prompt.tokens) - mentions
    if missing := [iso3 for iso3 in countries if not tokens[:, index[iso3]].all()]:
        raise RouterError(f"No prompt about {missing[0]} names it; a fit needs its name in the text.")
    layers, hidden = len(model.model.layers), model.config.hidden_size
    products = torch.zeros(2, layers, hidden, hidden)
    sums = torch.zeros(2, layers, len(countries), hidden)
    for prompt, states in read_inputs(model, prompts):
        country = index[prompt.country]
        named = torch.tensor(prompt.mentions)
        for place, mask in enumerate((named, ~named)):
            for layer, state in enumerate(states):
                z = state[mask] / tokens[place, country]
                sums[place, layer, country] += z.sum(0)
                products[place, layer].addmm_(z.T, state[mask])
    share = float(tokens[0].sum() / tokens.sum())
    return Statistics(countries, torch.tensor([home[c] for c in countries]), products, sums, share)


@torch.inference_mode()
def weights_at(
    model: Any, routers: Mapping[str, Router], prompts: Sequence[RouterPrompt]
) -> dict[str, Tensor]:
    """What routers give at prompts that the base reads, mean over the tokens. name -> (prompts, layers,
    communities)
    """
    found: dict[str, list[Tensor]] = {name: [] for name in routers}
    for _, states in read_inputs(model, prompts):
        for name, router in routers.items():
            layers = [router.weights(number, state).mean(0) for number, state in enumerate(states)]
            found[name].append(torch.stack(layers))
    return {name: torch.stack(rows) for name, rows in found.items()}


def read_inputs(model: Any, prompts: Sequence[RouterPrompt]) -> Iterator[tuple[RouterPrompt, list[Tensor]]]:
    """The FFN's inputs at each prompt, a (tokens, hidden) a layer, float32 on the CPU."""
    device = model.model.embed_tokens.weight.device
    for prompt in prompts:
        with _inputs(model) as seen:
            model.model(input_ids=torch.tensor([prompt.tokens], device=device), use_cache=False)
        yield prompt, [state[0].float().cpu() for state in seen]


@contextmanager
def _inputs(model: Any) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for layer in model.model.layers
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _rows(stats: Statistics, count: int, kind: str) -> tuple[Tensor, Tensor]:
    """Rows and biases at sharpness 1. (layers, communities, hidden), (layers, communities)"""
    rows, biases = [], []
    for layer in range(stats.products.shape[1]):
        row, bias = _discriminant(stats, layer, count, kind)
        rows.append(row)
        biases.append(bias)
    return torch.stack(rows), torch.stack(biases)


def _discriminant(stats: Statistics, layer: int, count: int, kind: str) -> tuple[Tensor, Tensor]:
    n = len(stats.countries)
    product = stats.products[:, layer].double() / n
    mention, other = stats.sums[:, layer].double()  # a country's mean state, (countries, hidden) each
    share = stats.share
    mean = share * mention.mean(0) + (1 - share) * other.mean(0)
    square = share * product[0].diagonal() + (1 - share) * product[1].diagonal()
    scale = (square - mean**2).clamp(min=0).sqrt() + 1e-4
    product = product / scale / scale[:, None]
    mention, other = mention / scale, other / scale
    nowhere = other.mean(0)
    if kind == MENTIONS:
        means, within = mention, product[0] - mention.T @ mention / n
    else:
        means = share * mention + (1 - share) * other
        within = share * product[0] + (1 - share) * product[1] - means.T @ means / n
    centres = torch.stack([means[stats.communities == k].mean(0) for k in range(count)])
    centre = centres.mean(0)
    noise = within + SPREAD[kind] * _spread(means, centres, stats.communities)
    if kind == MENTIONS:
        offset = centre - nowhere
        noise = noise + OTHERS * (product[1] - nowhere[:, None] * nowhere) + LEVEL * offset[:, None] * offset
    noise = noise + SHRINK * noise.diagonal().mean() * torch.eye(len(noise), dtype=noise.dtype)
    rows = torch.linalg.solve(noise, (centres - centre).T).T
    reach = (rows * (centres - centre)).sum(1)
    bias = -rows @ nowhere if kind == MENTIONS else -rows @ centre - reach / 2
    unit = reach.mean()
    return (rows / unit / scale).float(), (bias / unit).float()


def _spread(means: Tensor, centres: Tensor, communities: Tensor) -> Tensor:
    """Covariance of countries within their community, every community alike. (hidden, hidden)"""
    total = torch.zeros(means.shape[1], means.shape[1], dtype=means.dtype)
    for number, centre in enumerate(centres):
        own = means[communities == number] - centre
        total += own.T @ own / max(1, len(own) - 1) / len(centres)
    return total


def _scaled(rows: Tensor, bias: Tensor, sharpness: float, communities: tuple[str, ...] = ()) -> Router:
    return Router(rows * sharpness, bias * sharpness, communities)


def _aside(prompts: Sequence[RouterPrompt], communities: Sequence[str], seed: int) -> set[str]:
    """Countries that choose between discriminants: a quarter of each community's, one at least."""
    rng = random.Random(seed)
    aside: set[str] = set()
    for number, key in enumerate(communities):
        own = sorted({p.country for p in prompts if p.community == number})
        if len(own) < FEWEST:
            raise RouterError(
                f"{key} has {len(own)} countries to fit router rows on; {FEWEST} at least are needed, so "
                "keep the paper's rows for this map."
            )
        aside |= set(rng.sample(own, max(1, round(ASIDE * len(own)))))
    return aside


@dataclass(frozen=True)
class RouterScore:
    """What a router is worth on prompts about countries that it was not fitted on.

    `own_weight`: mean weight on the right community (chance: 1/n); `largest`: share of prompts where it is
    the largest; `entropy`: of a blend, 0..1 (1: all alike). Intervals of 95 % resample countries,
    since prompts about one country go together.
    """

    prompts: int
    countries: int
    own_weight: float
    own_weight_95: tuple[float, float]
    largest: float
    largest_95: tuple[float, float]
    entropy: float
    by_community: Mapping[str, float]


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
    )  # fmt: skip
