"""HTTP routes beside vLLM's own (entry point group `vllm.endpoint_plugins`), under /v1, which its key guards.

    GET  /v1/palette          what is served: name, communities, router, content
    POST /v1/palette/blends   {"blend": "africa=0.2,oceania=0.8"} -> {"model": name}, to chat with
    POST /v1/palette/blend    {"model": name, "prompt": [token ids]}
                              -> {"communities": [...], "layers": [[weight, ...], ...]}

The blend is read in a pass of its own over the prompt, which takes nothing from the prefix cache (tokens that
are found there pass no router) and leaves its own work there: asked for before the prompt's reply, it takes
that work off it.
"""

from __future__ import annotations

import asyncio
import uuid
from argparse import Namespace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams

from cultural_palette.errors import PaletteError
from cultural_palette.moerges.modes import Blend, Routed, blend_mode
from cultural_palette.serving.vllm_plugin import ARCHITECTURE, PLUGIN
from cultural_palette.serving.vllm_plugin.blends import WATCHED
from cultural_palette.serving.vllm_plugin.config import OTHER_SLOTS, PluginError

BASE = "base"
NO_CHANGE = Path(__file__).with_name("no_change")

router = APIRouter()


class BlendRequest(BaseModel):
    """`model`: a name of the MoErges; `prompt`: token ids, as POST /tokenize gives them for a chat."""

    model_config = ConfigDict(extra="forbid")

    model: str
    prompt: list[int] = Field(min_length=1)


class NewBlend(BaseModel):
    """`blend`: a router's name, "uniform", or weights such as "africa=0.2,oceania=0.8"."""

    model_config = ConfigDict(extra="forbid")

    blend: str = Field(min_length=1, max_length=2000)


class PaletteEndpoints:
    """An endpoint plug-in of vLLM; it also gives the base its name."""

    name = PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes."""
        app.include_router(router)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Ask the workers for the palette. Raises PluginError when there is none, so that vLLM ends."""
        state.palette, state.palette_blends, state.palette_lock = None, {}, asyncio.Lock()
        if engine_client is None or ARCHITECTURE not in engine_client.model_config.architectures:
            return  # another server that happens to have the plug-in
        state.palette = (await engine_client.collective_rpc("palette_watch"))[0]
        if engine_client.vllm_config.lora_config is not None:
            base = LoadLoRAAdapterRequest(lora_name=BASE, lora_path=str(NO_CHANGE))
            loaded = await state.openai_serving_models.load_lora_adapter(request=base)
            if not isinstance(loaded, str):  # an error, whose class moves between vLLM's versions
                raise PluginError(f"The base gets no name: {loaded.error.message}")


@router.get("/v1/palette")
async def palette(request: Request) -> dict[str, Any]:
    """What is served."""
    return _palette(request)


@router.post("/v1/palette/blends")
async def new_blend(body: NewBlend, request: Request) -> dict[str, Any]:
    """The MoErges under another blend, as a model by name; the same blend has the same name."""
    served, state = _palette(request), request.app.state
    text = "".join(body.blend.split())
    try:
        mode = blend_mode(text, tuple(served["communities"]))
    except PaletteError as error:
        raise HTTPException(400, str(error)) from None
    by_router = isinstance(mode, Routed)
    if by_router and text not in served["routers"]:
        raise HTTPException(400, f"No router {text!r}; the palette has {', '.join(served['routers'])}.")
    models, client = state.openai_serving_models, state.engine_client
    name = f"{models.base_model_paths[0].name}[{text}]"
    lora = client.vllm_config.lora_config
    if lora is None:
        raise HTTPException(404, "This server was started without adapters, and has no room for a blend.")
    if _first_replica(client) is not None:
        raise HTTPException(404, "This server has several replicas; a blend's meaning would reach only one.")
    async with state.palette_lock:
        if name not in state.palette_blends:
            room = lora.max_loras - len(served["communities"]) - OTHER_SLOTS
            if len(state.palette_blends) >= room:
                known = ", ".join(state.palette_blends) or "none"
                raise HTTPException(
                    409, f"This server plays {room} blends beside its own, and has them: {known}. Use one "
                    "of these, or start it anew with room for more: palette serve up --blends N.",
                )  # fmt: skip
            given = dict(mode.weights) if isinstance(mode, Blend) else {}
            weights = [given.get(key, 0.0) for key in served["communities"]]
            adapter = LoRARequest(name, models.lora_id_counter.inc(1), str(NO_CHANGE))
            # Before vLLM knows the name: never is a blend's request the bare base.
            meaning = (adapter.lora_int_id, text if by_router else None, weights)
            await client.collective_rpc("palette_define_blend", args=meaning)
            await client.add_lora(adapter)
            models.lora_requests[name] = state.palette_blends[name] = adapter
    return {"model": name, "communities": served["communities"]}


@router.post("/v1/palette/blend")
async def blend(body: BlendRequest, request: Request) -> dict[str, Any]:
    """The router's weights over a prompt, mean over its tokens."""
    served = _palette(request)
    client: EngineClient = request.app.state.engine_client
    adapter = request.app.state.palette_blends.get(body.model)
    if adapter is None and not request.app.state.openai_serving_models.is_base_model(body.model):
        raise HTTPException(404, f"{body.model!r} is not the MoErges of this server, and has no blend.")
    longest = client.model_config.max_model_len - 1
    if len(body.prompt) > longest:
        raise HTTPException(400, f"The prompt has {len(body.prompt)} tokens; {longest} are read at most.")
    name = f"{WATCHED}{uuid.uuid4().hex}"
    sampling = SamplingParams(max_tokens=1, temperature=0.0, skip_reading_prefix_cache=True, detokenize=False)
    # The first of several replicas: a call to the workers is answered by it.
    async for _ in client.generate(
        {"prompt_token_ids": body.prompt}, sampling, name, lora_request=adapter,
        data_parallel_rank=_first_replica(client),
    ):  # fmt: skip
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
