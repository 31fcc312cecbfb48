"""Router rows as a linear discriminant of the router's input, in closed form, and what rows are worth.

The base reads prompts about the countries of a map. In each layer, the discriminant that tells the countries'
communities apart gives a row and a bias a community; no weight of a model is trained. What it must do well is
a *new* country in a *new* text, so every statistic is one of countries (each counts once, however long its
prompts), and countries' spread within a community is noise like any other.

Two discriminants are tried, on countries of the fit that are set aside; the one that is right most often
stays:

* `mentions`: from the tokens of the country's own name, and all other tokens must be left undecided. A model
  that has read the world knows the continent there, above all in its middle layers.
* `everywhere`: from all tokens alike. Better where texts speak of the country in other words too.

Both shrink towards the diagonal. How sharp the rows are (the inverse of a temperature) is chosen on the same
countries: of those that are right about as often as the best, the one whose blends give their own community
most weight, by its logarithm. Weight alone would choose wrongly: sharp rows are sure at the few tokens of a
name, and then what the many tokens before it have in common with a community decides the argmax. Both choices
are one for all layers: a sharpness a layer was tried and gains nothing, since early layers are calm where no
country is named, and late ones, which know best, are not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cultural_palette.moerges.prompts import RouterPrompt
from cultural_palette.moerges.router import FITTED, Router, RouterError
from cultural_palette.moerges.scoring import RouterScore, score

MENTIONS, EVERYWHERE = "mentions", "everywhere"
SHRINK = {MENTIONS: 0.1, EVERYWHERE: 0.01}
"""Added to the diagonal, as a share of its mean."""
OTHERS = 10.0
"""`mentions`: what the spread of all other tokens counts, against that of the mentions."""
LEVEL = 100.0
"""`mentions`: what a common offset between mentions and other tokens counts."""
SPREAD = {MENTIONS: 3.0, EVERYWHERE: 10.0}
"""What the countries' spread within a community counts."""
SHARPNESS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Tried factors; at 1, a community's mean state is one unit of log-odds above the others' mean."""
WORTH = 0.01
"""Nats a prompt that a sharper blend must gain; with less, the softer one stays."""
LOSS = 0.02
"""Share of prompts that a sharper blend may be wrong about and the best one is not."""
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
    """How a router was fitted: the choice that the countries set aside made, over their prompts.

    `accuracy`: share of prompts whose own community had the largest weight, `log_weight`: mean logarithm of
    its weight (chance: -log n), each by choice. `chosen`, `rivals`: scores there of the rows that were chosen
    (fitted without these countries) and of routers that were made in another way.
    """

    discriminant: str
    sharpness: float
    accuracy: Mapping[str, float]
    log_weight: Mapping[str, float]
    chosen: RouterScore
    rivals: Mapping[str, RouterScore]
    countries: int
    prompts: int

    def best(self) -> str:
        """The router that is right most often on the countries set aside: FITTED, or a rival that is as good,
        by its name.
        """
        rival = max(self.rivals, key=lambda name: self.rivals[name].largest, default=None)
        if rival is not None and self.rivals[rival].largest >= self.chosen.largest:
            return rival
        return FITTED


@torch.inference_mode()
def fit_router(
    model: Any,
    prompts: Sequence[RouterPrompt],
    communities: Sequence[str],
    *,
    rivals: Mapping[str, Router] | None = None,
    seed: int = 0,
) -> tuple[Router, FitReport]:
    """Rows and biases fitted on the base's states at these prompts. `model`: the base, or a coloured model,
    which is the base as long as no modes are set. `rivals`: routers to measure on the countries set aside.

    Raises RouterError when a community has fewer than 3 countries among the prompts.
    """
    aside = _aside(prompts, communities, seed)
    checks = [p for p in prompts if p.country in aside]
    first = gather(model, [p for p in prompts if p.country not in aside])
    second = gather(model, checks)
    count = len(communities)
    tries = {kind: _rows(first, count, kind) for kind in SPREAD}
    candidates = {(kind, s): _scaled(*tries[kind], s) for kind in tries for s in SHARPNESS}
    routers = {f"{kind} {s:g}": router for (kind, s), router in candidates.items()} | dict(rivals or {})
    blends = {name: weights.mean(1) for name, weights in weights_at(model, routers, checks).items()}
    own = torch.tensor([p.community for p in checks])
    accuracy, log_weight = {}, {}
    for choice in candidates:
        blend = blends[f"{choice[0]} {choice[1]:g}"]
        accuracy[choice] = float((blend.argmax(-1) == own).float().mean())
        log_weight[choice] = float(blend.gather(1, own[:, None]).clamp(min=1e-30).log().mean())
    kind = max(SPREAD, key=lambda k: max((accuracy[k, s], log_weight[k, s]) for s in SHARPNESS))
    sharpness = _sharpness(
        {s: accuracy[kind, s] for s in SHARPNESS}, {s: log_weight[kind, s] for s in SHARPNESS}
    )
    both = first + second

    def by_choice(values: Mapping[tuple[str, float], float]) -> dict[str, float]:
        return {f"{k} {s:g}": round(value, 4) for (k, s), value in values.items()}

    report = FitReport(
        kind, sharpness, by_choice(accuracy), by_choice(log_weight),
        score(blends[f"{kind} {sharpness:g}"], checks, communities),
        {name: score(blends[name], checks, communities) for name in rivals or {}},
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
    weights: dict[str, list[Tensor]] = {name: [] for name in routers}
    for _, states in read_inputs(model, prompts):
        for name, router in routers.items():
            layers = [router.weights(number, state).mean(0) for number, state in enumerate(states)]
            weights[name].append(torch.stack(layers))
    return {name: torch.stack(rows) for name, rows in weights.items()}


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
    noise = noise + SHRINK[kind] * noise.diagonal().mean() * torch.eye(len(noise), dtype=noise.dtype)
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


def _sharpness(accuracy: Mapping[float, float], log_weight: Mapping[float, float]) -> float:
    """The choice among factors, by what countries set aside say of each."""
    right = [s for s in accuracy if accuracy[s] >= max(accuracy.values()) - LOSS]
    most = max(log_weight[s] for s in right)
    return min(s for s in right if log_weight[s] >= most - WORTH)


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
