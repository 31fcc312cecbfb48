"""The one seam to a model: references, parts, the `Model` that every provider gives, and asking it."""

from cultural_palette.models.asking import (
    ask,
    blend_of,
    call_of,
    chat_model,
    guarded,
    open_model,
    read,
    replies_together,
    scope_notes_of,
)
from cultural_palette.models.connections import close_clients
from cultural_palette.models.parts import BASE, META, Parts, make_ready, resolve_parts, weights_to_load
from cultural_palette.models.protocol import Blend, Model, OptionLogprobs, Reply, Sampling, TopTokens
from cultural_palette.models.references import PROVIDERS, ModelRef, Provider
from cultural_palette.models.tokens import usage_of

__all__ = [
    "BASE",
    "META",
    "PROVIDERS",
    "Blend",
    "Model",
    "ModelRef",
    "OptionLogprobs",
    "Parts",
    "Provider",
    "Reply",
    "Sampling",
    "TopTokens",
    "ask",
    "blend_of",
    "call_of",
    "chat_model",
    "close_clients",
    "guarded",
    "make_ready",
    "open_model",
    "read",
    "replies_together",
    "resolve_parts",
    "scope_notes_of",
    "usage_of",
    "weights_to_load",
]
