"""Models behind an OpenAI-compatible address: vLLM gets our own client, everything else ChatOpenAI."""

from __future__ import annotations

from cultural_palette.models.connections import connections
from cultural_palette.models.http import Refused, Server, Unreadable
from cultural_palette.models.openai import OpenAIModel
from cultural_palette.models.protocol import Model
from cultural_palette.models.references import ModelRef
from cultural_palette.models.vllm import VllmModel
from cultural_palette.settings import OPENAI_URL, current_settings

VLLM = "vllm"


async def open_model(ref: ModelRef) -> Model:
    """The model for the running loop, made once, with this loop's connections. Whether a server is vLLM its
    list of models tells.
    """
    here, settings = await connections(), current_settings()
    url, key = ref.address, settings.key_for(ref.base_url)

    async def make() -> Model:
        server = here.pool.server(url, key, settings.retries)
        if url != OPENAI_URL and await _is_vllm(server):
            return VllmModel(ref, server)
        return await OpenAIModel.open(ref, await here.openai_client())

    identity = (ref, settings.base_url, key, settings.request_timeout_s, settings.retries)
    return await here.model(identity, make)


async def _is_vllm(server: Server) -> bool:
    """Whether a server is vLLM; asked once a loop. One without a list of models is another."""
    if VLLM not in server.learned:
        async with server.learning:
            if VLLM not in server.learned:
                server.learned[VLLM] = await _owned_by_vllm(server)
    return bool(server.learned[VLLM])


async def _owned_by_vllm(server: Server) -> bool:
    try:
        listed = await server.get("/models")
        return any(model.get("owned_by") == VLLM for model in listed["data"])
    except Refused as refused:
        if refused.status_code in (400, 404, 405, 501):
            return False
        raise
    except (Unreadable, KeyError, TypeError, AttributeError):
        return False
