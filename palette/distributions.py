"""Probability distributions over the options of a question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Distribution:
    """Probabilities in the options' order, summing to 1. Refuses anything else; never normalises silently."""

    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        values = tuple(float(p) for p in self.probabilities)
        object.__setattr__(self, "probabilities", values)
        if not values:
            raise ValueError("a distribution needs at least one probability, got none")
        for index, p in enumerate(values):
            if not 0 <= p <= 1 + TOLERANCE:
                raise ValueError(f"probability {index} is {p!r}, expected 0 to 1")
        total = math.fsum(values)
        if abs(total - 1) > TOLERANCE:
            raise ValueError(f"probabilities sum to {total:.6g}, expected 1 (tolerance {TOLERANCE:g})")

    def __len__(self) -> int:
        return len(self.probabilities)

    @classmethod
    def uniform(cls, size: int) -> Distribution:
        """The same probability for each of `size` options."""
        if size < 1:
            raise ValueError(f"a distribution needs at least one option, got {size}")
        return cls((1 / size,) * size)

    @classmethod
    def from_counts(cls, counts: Sequence[float]) -> Distribution:
        """Shares of counts (>= 0, not all zero)."""
        total = math.fsum(counts)
        if not counts or min(counts) < 0 or not total > 0 or not math.isfinite(total):
            raise ValueError(f"counts {list(counts)!r} make no distribution: they must be >= 0 and not all 0")
        return cls(tuple(c / total for c in counts))

    @classmethod
    def from_logprobs(cls, logprobs: Sequence[float]) -> tuple[Distribution, float]:
        """Natural log-probabilities, normalised over the options; with the mass they had before (0..1).

        A mass above 1 is refused, but for the 1 % that half precision costs.
        """
        top = max(logprobs, default=-math.inf)
        if not math.isfinite(top):
            raise ValueError(f"log-probabilities {list(logprobs)!r} put no mass on any option")
        weights = [math.exp(value - top) for value in logprobs]
        total = math.fsum(weights)
        log_mass = top + math.log(total)
        if not log_mass <= 0.01:
            raise ValueError(f"log-probabilities {list(logprobs)!r} put more than 1 on the options")
        return cls(tuple(w / total for w in weights)), math.exp(min(0.0, log_mass))

    @classmethod
    def mix(
        cls, distributions: Sequence[Distribution], weights: Sequence[float] | None = None
    ) -> Distribution:
        """The weighted mean of distributions over the same options; equal weights when none are given."""
        if not distributions:
            raise ValueError("there is nothing to mix: no distributions given")
        sizes = {len(d) for d in distributions}
        if len(sizes) != 1:
            raise ValueError(f"can not mix distributions of sizes {sorted(sizes)}")
        shares = cls.from_counts(weights if weights is not None else [1.0] * len(distributions)).probabilities
        if len(shares) != len(distributions):
            raise ValueError(f"{len(distributions)} distributions but {len(shares)} weights")
        columns = zip(*(d.probabilities for d in distributions), strict=True)
        return cls(tuple(math.fsum(s * p for s, p in zip(shares, column, strict=True)) for column in columns))

    @property
    def mode_index(self) -> int:
        """Index of the likeliest option; the first of equals."""
        return max(range(len(self)), key=self.probabilities.__getitem__)

    @property
    def entropy(self) -> float:
        """Shannon entropy in nats."""
        return -math.fsum(p * math.log(p) for p in self.probabilities if p > 0)

    def js_divergence(self, other: Distribution, base: float = 2) -> float:
        """Jensen-Shannon divergence; 0..1 in base 2, 0..0.693 in base e."""
        return self.js_distance(other, base) ** 2

    def js_distance(self, other: Distribution, base: float = 2) -> float:
        """Square root of the divergence; `js_distances` for one pair."""
        if len(self) != len(other):
            raise ValueError(f"can not compare {len(self)} options with {len(other)}")
        return float(js_distances(self.probabilities, other.probabilities, base))


def js_distances(p: ArrayLike, q: ArrayLike, base: float) -> NDArray[np.float64]:
    """Jensen-Shannon distance (the root of the divergence) of distributions along the last axis. (...)

    scipy's is this root too, but in base e, and it normalises silently. Rows without any mass, such as those
    of a missing prediction, come out as 0: leave them out.
    """
    import numpy as np
    from scipy.spatial.distance import jensenshannon

    with np.errstate(invalid="ignore", divide="ignore"):  # equal inputs can round to the root of -1e-17
        distances = jensenshannon(np.asarray(p), np.asarray(q), base=base, axis=-1)
    clipped: NDArray[np.float64] = np.clip(np.nan_to_num(distances, nan=0.0), 0, math.sqrt(math.log(2, base)))
    return clipped
