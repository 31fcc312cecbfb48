"""Guesses at what a reply says next: an account and an answer repeat what stands in their prompts.

A step of one row takes as long as reading the weights, and a few tokens more in it cost little. So the engine
puts guesses behind the last token and draws at each place as ever; what is drawn stands, and a guess is worth
something only as long as it is what was drawn (Leviathan et al. 2023, with the prompt as the draft model:
Saxena 2023, "Prompt Lookup Decoding"). The reply is the one that comes without guesses.
"""

from __future__ import annotations

from collections.abc import Sequence

GUESSES = 5
"""Tokens that a step may look ahead."""
LONGEST = 3
"""Tokens by which a place is known again, at most."""


def guesses(tokens: Sequence[int], most: int = GUESSES) -> list[int]:
    """What followed where the last tokens stood before, the longest run of them, the last such place; at
    most `most` tokens, none where not even the last token stood before.
    """
    for length in range(min(LONGEST, len(tokens) - 1), 0, -1):
        run = list(tokens[-length:])
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start] == run[0] and list(tokens[start : start + length]) == run:
                return list(tokens[start + length : start + length + most])
    return []
