"""Models behind an OpenAI-compatible address: vLLM gets our own client, everything else ChatOpenAI."""

from __future__ import annotations

from cultural_palette.errors import ModelError
from cultural_palette.models.connections import connections
from cultural_palette.models.http import Refused, Server, Unreadable
from cultural_palette.models.openai import OpenAIModel
from cultural_palette.models.protocol import Model
from cultural_palette.models.references import ModelRef
from cultural_palette.models.vllm import VllmModel
from cultural_palette.settings import OPENAI_URL, current_settings

VLLM, OWNERS = "vllm", "owners"
BLENDS = "/palette/blends"
SWITCHED = frozenset(("llamacpp", "sglang"))
"""Servers beside vLLM whose chat templates can be told not to think, as their list of models names them."""


async def open_model(ref: ModelRef) -> Model:
    """The model for the running loop, made once, with this loop's connections. Whether a server is vLLM its
    list of models tells.
    """
    here, settings = await connections(), current_settings()
    url, key = ref.address, settings.key_for(ref.base_url)

    async def make() -> Model:
        server = here.pool.server(url, key, settings.retries)
        owners = await _owners(server) if url != OPENAI_URL else frozenset()
        if VLLM in owners:
            await _define_blend(ref, server)
            return VllmModel(ref, server)
        if _blend_in(ref):
            raise ModelError(_no_blends(ref))
        client = await here.openai_client()
        return await OpenAIModel.open(ref, client, switched=bool(owners & SWITCHED))

    identity = (ref, settings.base_url, key, settings.request_timeout_s, settings.retries)
    return await here.model(identity, make)


def _blend_in(ref: ModelRef) -> str | None:
    """The blend in a name such as "moerges[uniform]"; None without one."""
    _, bracket, rest = ref.name.partition("[")
    return rest.removesuffix("]") if bracket and ref.takes_blend else None


async def _define_blend(ref: ModelRef, server: Server) -> None:
    """Make the blend that the name says a model of the server's. Raises ModelError: no such blend, no server
    of ours.
    """
    blend = _blend_in(ref)
    if blend is None:
        return
    try:
        await server.post(BLENDS, {"blend": blend})
    except Refused as refused:
        if refused.status_code in (404, 405):
            raise ModelError(_no_blends(ref)) from None
        raise ModelError(f"{ref.address} takes no blend {blend!r}: {refused}") from None


def _no_blends(ref: ModelRef) -> str:
    return (
        f"{ref.address} can not blend by {_blend_in(ref)!r}: it is no server of 'palette serve up', has "
        "several replicas, or a mixture that is written out (--dense). Leave out --blend, or serve the "
        "palette in one server."
    )


async def _owners(server: Server) -> frozenset[str]:
    """What a server's list of models says of their owners; asked once a loop. Nothing without such a list."""
    if OWNERS not in server.learned:
        async with server.learning:
            if OWNERS not in server.learned:
                server.learned[OWNERS] = await _listed_owners(server)
    owners: frozenset[str] = server.learned[OWNERS]
    return owners


async def _listed_owners(server: Server) -> frozenset[str]:
    try:
        listed = await server.get("/models")
        return frozenset(str(model.get("owned_by")) for model in listed["data"])
    except Refused as refused:
        if refused.status_code in (400, 404, 405, 501):
            return frozenset()
        raise
    except (Unreadable, KeyError, TypeError, AttributeError):
        return frozenset()
