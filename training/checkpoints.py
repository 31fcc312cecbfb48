"""Checkpoints that are whole or not there, and weights that appear all at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import claim, write_whole

WHOLE = "whole"  # the file that says so, written last
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


def mark_whole(checkpoint: Path) -> None:
    """Say that everything of this checkpoint is on the disk."""
    write_whole(checkpoint / WHOLE, "")


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose writing ended; torn ones, of a killed run, are passed over."""
    by_step = {
        int(match[1]): path
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / WHOLE).is_file()
    }
    return str(by_step[max(by_step)]) if by_step else None


def save_whole(model: Any, state: dict[str, Any], out: Path, tokenizer: Any | None) -> None:
    """Save the model (or its adapter) beside its place, then move it in, the weights last.

    A reader that finds the weights finds them whole. `state`: the gathered state dict.
    """
    with claim(out / "weights") as place, place.scratch() as part:
        model.save_pretrained(str(part), state_dict=state)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(part))
        for path in sorted(part.iterdir(), key=lambda file: (file.name in WEIGHTS, file.name)):
            path.replace(out / path.name)
