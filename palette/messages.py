"""LangChain's messages in the words of chat templates and OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cultural_palette.errors import ModelError

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

ROLES = {
    "system": "system",
    "human": "user",
    "ai": "assistant",
    "SystemMessageChunk": "system",
    "HumanMessageChunk": "user",
    "AIMessageChunk": "assistant",
}


def role_of(message: BaseMessage) -> str:
    """ "system", "user" or "assistant"; raises ModelError for messages of tools and functions."""
    if message.type == "chat":
        role = getattr(message, "role", None)
        if role in ROLES.values():
            return str(role)
        raise ModelError(f"A chat message has the role {role!r}; models here take {_known()}.")
    if message.type not in ROLES:
        raise ModelError(f"A message is of type {message.type!r}; models here take {_known()}.")
    return ROLES[message.type]


def role_pairs(messages: Sequence[BaseMessage]) -> list[tuple[str, str]]:
    """(role, text) of every message."""
    return [(role_of(message), message.text) for message in messages]


def role_dicts(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """{"role": .., "content": ..} of every message, as chat templates and servers take them."""
    return [{"role": role, "content": text} for role, text in role_pairs(messages)]


def _known() -> str:
    return ", ".join(dict.fromkeys(ROLES.values()))
