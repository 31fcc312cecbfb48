"""Runs beside the model in each of vLLM's workers (`--worker-extension-cls`): tells what is served, and the
router's weights over the prompts of watched requests.
"""

from __future__ import annotations

import os
from typing import Any

from cultural_palette.serving.vllm_plugin.blends import Blends
from cultural_palette.serving.vllm_plugin.config import CONTENT, PluginError
from cultural_palette.serving.vllm_plugin.model import Coloured


class PaletteWorker:
    """What vLLM's worker can do besides, by `collective_rpc`. Mixed into its class."""

    model_runner: Any

    def palette_watch(self) -> dict[str, Any]:
        """Watch from now on; the palette that this worker serves. Raises PluginError without one."""
        model = self.model_runner.model
        model = getattr(model, "unwrap", lambda: model)()  # a CUDA graph's wrapper
        if not isinstance(model, Coloured):
            raise PluginError(f"This worker serves a {type(model).__name__}, which is no MoErges.")
        if not hasattr(self.model_runner, "palette_blends"):
            self.model_runner.palette_blends = Blends(self.model_runner, model.switch.recorded)
        palette = model.palette
        return {
            "name": palette.name, "communities": list(palette.adapters), "router": palette.use,
            "routers": list(model.routers), "content": os.environ.get(CONTENT, ""),
        }  # fmt: skip

    def palette_define_blend(self, adapter: int, router: str | None, weights: list[float]) -> None:
        """An adapter, by vLLM's number, is a blend: by a router, or by weights in the communities' order."""
        model = self.model_runner.model
        model = getattr(model, "unwrap", lambda: model)()
        index = -1 if router is None else model.routers.index(router)
        model.switch.meaning.define(adapter, index, weights)

    def palette_take_blend(self, name: str) -> list[list[float]] | None:
        """Mean weights of a watched request, (layers, communities), once; None when this worker had no such
        request.
        """
        blends: Blends = self.model_runner.palette_blends
        return blends.take(name)
