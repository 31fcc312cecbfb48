"""What a run with a seed can promise, and what it can not; in a line that stands with the result."""

from __future__ import annotations

from collections.abc import Iterable

from cultural_palette.models.references import PROVIDERS, ModelRef


def promise(models: Iterable[ModelRef], seed: int) -> str:
    """What holds for a run on these models with this seed."""
    used = {model.provider for model in models}
    lines = [provider.determinism.format(name=name) for name, provider in PROVIDERS.items() if name in used]
    return f"Seed {seed}. " + ". ".join(line[0].upper() + line[1:] for line in lines) + "."
