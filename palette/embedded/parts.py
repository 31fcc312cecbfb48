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
from cultural_palette.moerges.modes import Agent, Base, Blend, Mode, Routed, blend_mode

BASE, META = "base", "meta"
BLENDED = re.compile(r"meta\[(?P<blend>[^\[\]]+)\]")


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
