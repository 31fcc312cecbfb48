"""The palette as an assistant's tool: a client starts `palette mcp` as desktop.json tells it, and calls it.

pip install "cultural-palette[embedded,mcp]"
python examples/mcp/client.py KEN "Which matters more to people?" Freedom Equality
"""

import asyncio
import json
import sys
from pathlib import Path

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters


async def main(country: str, question: str, *options: str) -> None:
    """What an assistant does: look at the tools, call one, read its short JSON."""
    configured = json.loads(Path(__file__).with_name("desktop.json").read_text(encoding="utf-8"))
    server = StdioServerParameters(**configured["mcpServers"]["palette"])
    async with Client(server) as client:
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        arguments = {"country": country, "question": question, "options": list(options)}
        result = await client.call_tool("ask_country", arguments)
        text = "".join(part.text for part in result.content if part.type == "text")
        if result.is_error:
            sys.exit(text)  # in words: the assistant can mend its call by them
        print(json.dumps(json.loads(text), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
