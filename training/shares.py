"""The loss of shares: what a country's people answered, against what the model would.

    L = mean over rows of  - sum_k p_k log q_k  -  mass_weight * log m

for the survey's shares p, the model's probabilities q over the options' labels (over all their tokenisations,
normalised), and m, the probability that the reply is a label at all. Cross-entropy has the gradient of
KL(p || q). Questions count alike, and a question's countries alike.

Source: direct optimisation towards survey distributions, as in Suh et al. 2025, "Language Model Fine-Tuning
on Scaled Survey Data for Predicting Distributions of Public Opinions" (arXiv 2502.16761), with the term of
mass added.
"""

from __future__ import annotations

import torch

MEASURES = ("kl", "mass")


def shares_loss(
    label_logps: torch.Tensor,
    gold: torch.Tensor,
    row_weights: torch.Tensor,
    mass_weight: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch, and its measures.

    `label_logps`: natural, of each option's label (R, K), very low where a row has no such option.
    `gold`: the survey's shares (R, K), rows sum to 1. `row_weights` (R): sum to 1. `mass_weight`: 0 or more.

    Returns the scalar loss, and the `MEASURES`, detached scalars: kl (nats, of the shares from the model's),
    mass (0..1, on the labels).
    """
    log_mass = label_logps.logsumexp(-1)
    cross = -(gold * (label_logps - log_mass[:, None])).sum(-1)
    loss = ((cross - mass_weight * log_mass) * row_weights).sum()
    entropy = -torch.xlogy(gold, gold).sum(-1)
    measures = {
        "kl": ((cross - entropy) * row_weights).sum().detach(),
        "mass": (log_mass.exp() * row_weights).sum().detach(),
    }
    return loss, measures
