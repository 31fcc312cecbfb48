"""What a run with a seed can promise, and what it can not; in a line that stands with the result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cultural_palette.models import ModelRef

EMBEDDED = (
    "embedded: the same seed, question, weights and package versions on the same machine give the same "
    "answer; runs at the same time may move a probability in its last bits"
)
SERVED = (
    "served: the seed is sent along, and the server does what it can; its arithmetic depends on what shares "
    "a batch and on what its prefix cache holds, so a probability moves in its last digits, and a reply may "
    "come out otherwise where two words were nearly as likely, at temperature 0 too"
)


def promise(models: Iterable[ModelRef], seed: int) -> str:
    """What holds for a run on these models with this seed."""
    embedded = {model.provider == "embedded" for model in models}
    said = [text for here, text in ((True, EMBEDDED), (False, SERVED)) if here in embedded]
    return f"Seed {seed}. " + ". ".join(text[0].upper() + text[1:] for text in said) + "."
