"""What a part of an embedded palette is: "base", a community's key, "meta", or "meta" under a blend by name.

`meta` goes by the palette's own router, `meta[paper]` and `meta[fitted]` by the one named, `meta[uniform]` by
equal weights, `meta[africa=0.2,oceania=0.8]` by those. It needs no torch: a model's name is checked before
anything is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cultural_palette.embedded.manifest import Manifest
from cultural_palette.errors import ModelError
from cultural_palette.moerges.modes import Agent, Base, Blend, Mode, Routed

BASE, META = "base", "meta"
UNIFORM = "uniform"
BLENDED = re.compile(r"meta\[(?P<blend>[^\[\]]+)\]")
WEIGHT = re.compile(r"\s*(?P<key>[^=,\s]+)\s*=\s*(?P<weight>[^=,\s]+)\s*")


@dataclass(frozen=True)
class Part:
    """A part, and which communities' changes its rows go through."""

    name: str
    mode: Mode

    @property
    def blends(self) -> bool:
        """Whether communities are weighed in it."""
        return isinstance(self.mode, Routed | Blend)

    @classmethod
    def parse(cls, name: str, manifest: Manifest) -> Part:
        """The part by its name. Raises ModelError with the parts that there are."""
        if name == BASE:
            return cls(name, Base())
        if name == META:
            return cls(name, Routed(manifest.blend))
        if name in manifest.communities:
            return cls(name, Agent(name))
        if match := BLENDED.fullmatch(name):
            return cls(name, blend_mode(match["blend"], manifest.communities))
        raise ModelError(
            f"The palette {manifest.name!r} has no part {name!r}; it has "
            f"{', '.join(manifest.communities)}, base and meta."
        )


def blend_mode(text: str, communities: tuple[str, ...]) -> Mode:
    """A blend by its name: a router's, "uniform", or weights such as "africa=0.2,oceania=0.8". Raises
    BlendError (weights that are no distribution), ModelError (what can not be read).
    """
    if text == UNIFORM:
        return Blend.uniform(communities)
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
