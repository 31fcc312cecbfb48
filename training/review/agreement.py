"""How far reviewers agree: Cohen's kappa for two who decided the same answers, else Krippendorff's alpha."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cultural_palette.training.review.decisions import DECISIONS

KAPPA, ALPHA = "cohen_kappa", "krippendorff_alpha"


@dataclass(frozen=True)
class Agreement:
    """`value`: -1..1, None when it is undefined, and `note` says why. `n`: answers that at least two decided;
    `observed`: 0..1, share of their pairs of decisions that are the same."""

    measure: str | None
    value: float | None
    n: int
    reviewers: int
    observed: float | None
    note: str | None = None


def agreement(votes: Mapping[tuple[str, str], Mapping[str, str]]) -> Agreement:
    """Agreement on approve, edit and reject (nominal). `votes`: answer to {reviewer: decision}."""
    reviewers = sorted({name for by_reviewer in votes.values() for name in by_reviewer})
    shared = {key: by_reviewer for key, by_reviewer in votes.items() if len(by_reviewer) > 1}
    n = len(shared)
    if len(reviewers) < 2:
        return Agreement(None, None, n, len(reviewers), None, "one reviewer: nothing to compare")
    if not shared:
        return Agreement(None, None, 0, len(reviewers), None, "no answer was decided by two reviewers")
    observed = _observed(shared)
    measure = KAPPA if len(reviewers) == 2 and n == len(votes) else ALPHA
    if len({decision for by_reviewer in shared.values() for decision in by_reviewer.values()}) == 1:
        note = "undefined: every decision is the same, so there is no chance agreement to correct for"
        return Agreement(measure, None, n, len(reviewers), observed, note)
    value = _kappa(shared, reviewers) if measure == KAPPA else _alpha(shared, reviewers)
    return Agreement(measure, round(value, 6), n, len(reviewers), observed)


def _kappa(votes: Mapping[tuple[str, str], Mapping[str, str]], reviewers: list[str]) -> float:
    from sklearn.metrics import cohen_kappa_score

    one, other = ([by_reviewer[name] for by_reviewer in votes.values()] for name in reviewers)
    return float(cohen_kappa_score(one, other, labels=list(DECISIONS)))


def _alpha(votes: Mapping[tuple[str, str], Mapping[str, str]], reviewers: list[str]) -> float:
    import krippendorff
    import numpy as np

    data_RU = np.full((len(reviewers), len(votes)), np.nan)  # (reviewer, unit); nan: did not decide
    for unit, by_reviewer in enumerate(votes.values()):
        for name, decision in by_reviewer.items():
            data_RU[reviewers.index(name), unit] = DECISIONS.index(decision)
    return float(krippendorff.alpha(reliability_data=data_RU, level_of_measurement="nominal"))


def _observed(votes: Mapping[tuple[str, str], Mapping[str, str]]) -> float:
    same = pairs = 0
    for by_reviewer in votes.values():
        decisions = list(by_reviewer.values())
        for i, one in enumerate(decisions):
            for other in decisions[i + 1 :]:
                same += one == other
                pairs += 1
    return round(same / pairs, 6)
