"""One assistant for every ablation and baseline, by name, on a server that has their graphs:

    palette studio --ablations
    python -m cultural_palette.graph.server.assistants http://127.0.0.1:2024

Run again, it makes none twice.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from uuid import NAMESPACE_URL, uuid5

from langgraph_sdk import get_client

from cultural_palette.graph.variants import BASELINES, VARIANTS

URL = "http://127.0.0.1:2024"


async def make_assistants(url: str, api_key: str | None = None) -> Mapping[str, str]:
    """Assistant name -> id, for every row of the tables."""
    client = get_client(url=url, api_key=api_key)
    made = {}
    for variant, row in {**VARIANTS, **BASELINES}.items():
        name = f"Palette: {variant}"
        assistant = await client.assistants.create(
            variant,
            name=name,
            description=f"{row.source}.",
            assistant_id=str(uuid5(NAMESPACE_URL, f"cultural-palette/{variant}")),
            if_exists="do_nothing",
        )
        made[name] = assistant["assistant_id"]
    return made


def main(arguments: Sequence[str]) -> None:
    """The server's address is the one argument; PALETTE_SERVER_KEY its key."""
    from cultural_palette.settings import get_settings

    key = get_settings().server_key
    url = arguments[0] if arguments else URL
    for name, assistant in asyncio.run(make_assistants(url, key.get_secret_value() if key else None)).items():
        print(f"{assistant}  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
