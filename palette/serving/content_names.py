"""Models served under names of their content, `asia-3fa92c41d07b`: a name means one set of weights for ever.

That is what a rolling change needs. New weights get new names and, in a cluster, a path of their own, so that
while old and new servers run side by side no request can reach other weights than it names, and no reply kept
under a name can be taken for another's.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from cultural_palette.models import BASE
from cultural_palette.serving.manifest import (
    ServedPalette,
    ServingError,
    Source,
    content_digest,
    digest_files,
)
from cultural_palette.serving.placing import MOERGES
from cultural_palette.serving.plan import ServerSpec, ServingPlan


def one_server(plan: ServingPlan) -> ServerSpec:
    """The server that plays every part. Raises ServingError for a dense plan, which has two."""
    if len(plan.servers) != 1 or plan.servers[0].router is None:
        raise ServingError(
            f"{plan.palette} is served dense, by two servers; replicas behind one address are laid out for "
            "the server that plays every part: leave out --dense, or name a router in the palette's file."
        )
    return plan.servers[0]


def name_by_content(plan: ServingPlan, palette: ServedPalette) -> ServingPlan:
    """The same plan, with its agents and its MoErges named by content; the base keeps its name, and is told
    apart by the server's `content`. Raises ServingError for a dense plan.
    """
    server = one_server(plan)
    content = content_digest(palette)
    names = {MOERGES: f"{MOERGES}-{content}"}
    names |= {
        key: f"{key}-{_adapter_digest(palette.base, source)}" for key, source in palette.adapters.items()
    }
    flags = list(server.flags)
    flags[flags.index("--served-model-name") + 1] = names[MOERGES]
    named = replace(
        server, flags=tuple(flags), names=names, content=content,
        models=tuple(names.get(model, model) for model in server.models),
    )  # fmt: skip
    assert BASE in named.models
    return replace(plan, servers=(named,))


def _adapter_digest(base: Source, adapter: Source) -> str:
    """Twelve hex digits over an adapter's files and the base that it is for."""
    digest = hashlib.sha256()
    for source, pattern in ((base, "*"), (adapter, "adapter_*")):
        if isinstance(source, str):
            digest.update(source.encode())  # on the hub: its place, whatever lies there
        else:
            digest_files(digest, source, pattern)
    return digest.hexdigest()[:12]
