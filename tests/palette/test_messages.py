"""Messages in the words of chat templates."""

from __future__ import annotations

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from cultural_palette.errors import ModelError
from cultural_palette.messages import role_dicts, role_of, role_pairs


def test_roles_and_texts():
    messages = [SystemMessage("s"), HumanMessage([{"type": "text", "text": "h"}]), AIMessage("a")]
    assert role_pairs(messages) == [("system", "s"), ("user", "h"), ("assistant", "a")]
    assert role_dicts(messages)[1] == {"role": "user", "content": "h"}


def test_chunks_and_chat_messages():
    assert role_of(AIMessageChunk("a")) == "assistant"  # its type is its class' name
    assert role_of(ChatMessage("c", role="user")) == "user"


@pytest.mark.parametrize(
    "message", [ToolMessage("t", tool_call_id="1"), ChatMessage("c", role="critic")], ids=["tool", "critic"]
)
def test_what_no_template_has_is_named(message):
    with pytest.raises(ModelError, match=r"'(tool|critic)'.* system, user, assistant"):
        role_of(message)
