"""What a row of a batch is: the base, a community's agent, the MoErges under a router, or a fixed blend."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cultural_palette.errors import ModelError, PaletteError

UNIFORM = "uniform"
FITTED = "fitted:"
"""Begins a blend that stands in a file, for each country one (`fitted_blends`)."""
WEIGHT = re.compile(r"\s*(?P<key>[^=,\s]+)\s*=\s*(?P<weight>[^=,\s]+)\s*")


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


def blend_mode(text: str, communities: tuple[str, ...]) -> Mode:
    """A blend by its name: a router's, "uniform", or weights such as "africa=0.2,oceania=0.8". Raises
    BlendError (weights that are no distribution), ModelError (what can not be read).
    """
    if text == UNIFORM:
        return Blend.uniform(communities)
    if text.startswith(FITTED):
        raise ModelError(
            f"The blend {text!r} is a file's, one for each country: it is read where a country is asked "
            "(palette ask --blend fitted:FILE), and not by a model. Give a country's weights."
        )
    if "=" not in text:
        return Routed(text)
    weights: dict[str, float] = {}
    for part in text.split(","):
        match = WEIGHT.fullmatch(part)
        try:
            if match is None or match["key"] in weights:
                raise ValueError
            weights[match["key"]] = float(match["weight"])
        except ValueError:
            raise ModelError(
                f"The blend {text!r} can not be read at {part!r}: write each community once, with its "
                f"weight, such as '{communities[0]}=0.2,{communities[-1]}=0.8'."
            ) from None
    if unknown := [key for key in weights if key not in communities]:
        raise ModelError(
            f"The blend {text!r} names {unknown[0]!r}; the communities are {', '.join(communities)}."
        )
    return Blend.of(weights)
