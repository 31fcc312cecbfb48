"""What a server is told of the palette: an object under `cultural_palette` in vLLM's `--additional-config`.

It holds paths and names only. What the files hold is told apart by a digest in the environment, CONTENT: a
server that runs on other content than lies on the disk now was started with another command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from cultural_palette.errors import PaletteError

KEY = "cultural_palette"
CONTENT = "CULTURAL_PALETTE_CONTENT"
BLENDS = 4
"""Blends beside the palette's own that one server can play by name, where nothing else is said; each takes an
adapter's slot."""
OTHER_SLOTS = 2
"""Adapters' slots beside the communities' and the blends': the base's, and one that stays empty."""


class PluginError(PaletteError):
    """A palette that this vLLM can not serve as it was told."""


@dataclass(frozen=True)
class PluginConfig:
    """`adapters`: community -> folder or hub name, in the order of the router's rows. `router`: the file,
    and `use`, the router in it that mixes. `name`: the palette's. `fused`: one Triton kernel on GPUs.
    """

    name: str
    adapters: Mapping[str, str]
    router: str
    use: str = "paper"
    fused: bool = False

    def as_flag(self) -> dict[str, Any]:
        """The object for `--additional-config`."""
        values = asdict(self)
        return {
            KEY: values if self.fused else {key: value for key, value in values.items() if key != "fused"}
        }

    @classmethod
    def of(cls, additional: object) -> Self:
        """From vLLM's additional configuration. Raises PluginError when it says nothing of a palette."""
        raw = additional.get(KEY) if isinstance(additional, Mapping) else None
        if not isinstance(raw, Mapping):
            raise PluginError(
                f"A MoErges is served, and --additional-config has no {KEY!r}: start it with "
                "'palette serve up', or with what 'palette serve up --print' shows."
            )
        try:
            return cls(**raw)
        except TypeError as error:
            raise PluginError(f"--additional-config: {KEY!r} can not be read: {error}") from None
