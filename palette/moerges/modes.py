"""What a row of a batch is: the base, a community's agent, the MoErges under a router, or a fixed blend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cultural_palette.errors import PaletteError


class BlendError(PaletteError):
    """A blend that names no community of the palette, or whose weights are no distribution."""


@dataclass(frozen=True)
class Base:
    """No community's change: the base model itself."""


@dataclass(frozen=True)
class Agent:
    """One community's whole adapter: its FFN and, where it has one, its attention."""

    community: str


@dataclass(frozen=True)
class Routed:
    """MoErges: the softmax of a router's rows weighs the communities' FFNs, token by token."""

    router: str = "paper"


@dataclass(frozen=True)
class Blend:
    """The communities' FFNs under weights that do not depend on the token. (community, weight) each, sum 1.

    As in the MoErges, an adapter's change to attention stays out, also when one community has all the weight.
    """

    weights: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        total = math.fsum(weight for _, weight in self.weights)
        if wrong := [(key, value) for key, value in self.weights if not 0 <= value <= 1]:
            raise BlendError(f"Blend weight {wrong[0][1]} of {wrong[0][0]!r}: expected 0 to 1.")
        if len({key for key, _ in self.weights}) < len(self.weights):
            raise BlendError(f"A blend names a community twice: {', '.join(k for k, _ in self.weights)}.")
        if abs(total - 1) > 1e-6:
            raise BlendError(f"Blend weights sum to {total:g}, expected 1 (tolerance 1e-6).")

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> Blend:
        """From a mapping; communities that it leaves out weigh nothing."""
        return cls(tuple(weights.items()))

    @classmethod
    def uniform(cls, communities: Sequence[str]) -> Blend:
        """Every community alike."""
        return cls(tuple((key, 1 / len(communities)) for key in communities))


Mode = Base | Agent | Routed | Blend
