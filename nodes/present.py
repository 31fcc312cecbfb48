"""The chat's last node: the answer with everything it was made from, for a page that draws it (`ui`)."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage
from langgraph.graph.ui import UIMessage
from langgraph.runtime import Runtime

from cultural_palette.nodes.listen import ChatContext, ChatState

COMPONENT = "palette_answer"
SHOWN = (
    "country", "query", "options", "communities", "drafts", "regulated", "answer", "distribution",
    "option_mass", "blend", "notes", "degraded", "determinism",
)  # fmt: skip


async def present(state: ChatState, runtime: Runtime[ChatContext]) -> dict[str, Any]:
    """One UI message, tied to the answer's own message."""
    message = state["messages"][-1]
    assert isinstance(message, AIMessage) and message.id is not None
    shown: UIMessage = {
        "type": "ui",
        "id": str(uuid4()),
        "name": COMPONENT,
        "props": {name: state.get(name) for name in SHOWN},
        "metadata": {"message_id": message.id},
    }
    return {"ui": [shown]}
