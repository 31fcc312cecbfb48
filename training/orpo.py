"""ORPO's loss, one community's answer against every other's: pure functions of tensors.

    L = NLL(y_p | x) + weight * mean_k[ -log sigmoid( log odds(y_p | x) - log odds(y_rk | x) ) ]

    odds(y | x) = P / (1 - P), where log P is the mean log-probability of the tokens of y

Other communities' answers are different, not worse, and there are several. `preference` softmax takes the
whole group at once in the place of the mean of sigmoids: -log of the chosen answer's share of the group's
odds. With one rejected answer the two are the same. Either may weigh the rejected answers, by cultural
distance: those of a far culture count more (weights of mean 1; in the softmax they multiply the odds).

Sources: Hong, Lee and Thorne 2024, "ORPO: Monolithic Preference Optimization without Reference Model"
(arXiv 2403.07691); Cultural Palette, eq. 6. Eq. 6 prints the ratio of probabilities; ORPO, which it cites and
uses, takes odds, and so do we. The NLL is over the completion, as in MS-Swift, the paper's tool; TRL takes it
over prompt and completion.

Axes: G groups (one prompt each), 1 + R responses a group, the chosen one first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

MEASURES = ("nll", "odds_loss", "accuracy", "margin")
MINUS_LOG_2 = -0.6931472


def log_odds(mean_logp: torch.Tensor) -> torch.Tensor:
    """Log of P / (1 - P) from log P, stable at both ends. Any shape, kept.

    log(1 - exp(x)) loses its digits near x = 0 in one form and near minus infinity in the other, so each side
    of -log 2 has its own (Maechler 2012). x is kept under -1e-6, where the gradient is still finite.
    """
    x = mean_logp.clamp(max=-1e-6)
    near_zero = x > MINUS_LOG_2
    # In each branch a harmless constant replaces what belongs to the other one: its gradient stays finite.
    below = torch.where(near_zero, torch.full_like(x, -1.0), x)
    above = torch.where(near_zero, x, torch.full_like(x, -0.5))
    log1mexp = torch.where(near_zero, torch.log(-torch.expm1(above)), torch.log1p(-torch.exp(below)))
    return x - log1mexp


def orpo_loss(
    logp_sum: torch.Tensor,
    lengths: torch.Tensor,
    weight: float,
    prompt: tuple[torch.Tensor, torch.Tensor] | None = None,
    softmax: bool = False,
    rejected_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch of groups, and its measures.

    `logp_sum`: summed token log-probabilities of each response (G, 1 + R), chosen first.
    `lengths`: the tokens summed over (G, 1 + R), each at least 1.
    `weight`: lambda, 0 or more.
    `prompt`: the same sums and counts of each prompt, (G) and (G), when the NLL is over the prompt too.
    `softmax`: over the group's odds, in the place of a sigmoid for each pair. `rejected_weights` (G, R):
    above 0, of mean 1 in each group; None for equal ones.

    Returns the scalar loss, and the `MEASURES`, detached scalars: nll (nats a token), odds_loss (nats),
    accuracy (0..1, share of pairs with the chosen response above the rejected), margin (mean difference of
    log odds).
    """
    odds = log_odds(logp_sum / lengths)
    margins = odds[:, :1] - odds[:, 1:]
    nll_sum, nll_tokens = -logp_sum[:, 0].sum(), lengths[:, 0].sum()
    if prompt is not None:
        prompt_logp_sum, prompt_lengths = prompt
        nll_sum, nll_tokens = nll_sum - prompt_logp_sum.sum(), nll_tokens + prompt_lengths.sum()
    nll = nll_sum / nll_tokens
    if softmax:
        against = -margins if rejected_weights is None else rejected_weights.log() - margins
        odds_loss = F.softplus(against.logsumexp(1)).mean()
    else:
        pairs = -F.logsigmoid(margins)
        odds_loss = (pairs if rejected_weights is None else pairs * rejected_weights).mean()
    measures = {
        "nll": nll.detach(),
        "odds_loss": odds_loss.detach(),
        "accuracy": (margins > 0).float().mean().detach(),
        "margin": margins.mean().detach(),
    }
    return nll + weight * odds_loss, measures
