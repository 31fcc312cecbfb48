"""HTTP routes beside vLLM's own (entry point group `vllm.endpoint_plugins`), under /v1, which its key guards.

    GET  /v1/palette          what is served: name, communities, router, content
    POST /v1/palette/blend    {"model": name, "prompt": [token ids]}
                              -> {"communities": [...], "layers": [[weight, ...], ...]}

The blend is read in a pass of its own over the prompt, which takes nothing from the prefix cache (tokens that
are found there pass no router) and leaves its own work there: asked for before the prompt's reply, it takes
that work off it.
"""

from __future__ import annotations

import uuid
from argparse import Namespace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
from vllm.sampling_params import SamplingParams

from cultural_palette.serving.vllm_plugin import ARCHITECTURE, PLUGIN
from cultural_palette.serving.vllm_plugin.blends import WATCHED
from cultural_palette.serving.vllm_plugin.config import PluginError

BASE = "base"
NO_CHANGE = Path(__file__).with_name("no_change")

router = APIRouter()


class BlendRequest(BaseModel):
    """`model`: a name of the MoErges; `prompt`: token ids, as POST /tokenize gives them for a chat."""

    model_config = ConfigDict(extra="forbid")

    model: str
    prompt: list[int] = Field(min_length=1)


class PaletteEndpoints:
    """An endpoint plug-in of vLLM; it also gives the base its name."""

    name = PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes."""
        app.include_router(router)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Ask the workers for the palette. Raises PluginError when there is none, so that vLLM ends."""
        state.palette = None
        if engine_client is None or ARCHITECTURE not in engine_client.model_config.architectures:
            return  # another server that happens to have the plug-in
        state.palette = (await engine_client.collective_rpc("palette_watch"))[0]
        if engine_client.vllm_config.lora_config is not None:
            base = LoadLoRAAdapterRequest(lora_name=BASE, lora_path=str(NO_CHANGE))
            loaded = await state.openai_serving_models.load_lora_adapter(request=base)
            if isinstance(loaded, ErrorResponse):
                raise PluginError(f"The base gets no name: {loaded.error.message}")


@router.get("/v1/palette")
async def palette(request: Request) -> dict[str, Any]:
    """What is served."""
    return _palette(request)


@router.post("/v1/palette/blend")
async def blend(body: BlendRequest, request: Request) -> dict[str, Any]:
    """The router's weights over a prompt, mean over its tokens."""
    served = _palette(request)
    client: EngineClient = request.app.state.engine_client
    if not request.app.state.openai_serving_models.is_base_model(body.model):
        raise HTTPException(404, f"{body.model!r} is not the MoErges of this server, and has no blend.")
    longest = client.model_config.max_model_len - 1
    if len(body.prompt) > longest:
        raise HTTPException(400, f"The prompt has {len(body.prompt)} tokens; {longest} are read at most.")
    name = f"{WATCHED}{uuid.uuid4().hex}"
    sampling = SamplingParams(max_tokens=1, temperature=0.0, skip_reading_prefix_cache=True, detokenize=False)
    # The first of several replicas: a call to the workers is answered by it.
    async for _ in client.generate(
        {"prompt_token_ids": body.prompt}, sampling, name, data_parallel_rank=_first_replica(client)
    ):
        pass
    by_worker = await client.collective_rpc("palette_take_blend", args=(name,))
    if not any(by_worker):
        raise HTTPException(500, "No worker has seen this prompt.")
    # A worker of a pipeline knows its own layers, and has zeros for the others.
    layers = [
        [max(weights) for weights in zip(*rows, strict=True)]
        for rows in zip(*filter(None, by_worker), strict=True)
    ]
    return {"communities": served["communities"], "router": served["router"], "layers": layers}


def _palette(request: Request) -> dict[str, Any]:
    served: dict[str, Any] | None = request.app.state.palette
    if served is None:
        raise HTTPException(404, "This server has no MoErges.")
    return served


def _first_replica(client: EngineClient) -> int | None:
    return 0 if client.vllm_config.parallel_config.data_parallel_size > 1 else None
