"""What makes a training job the same job: the content of its data and its base, and every setting."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from cultural_palette.provenance import file_sha256, model_sha256
from cultural_palette.training.jobs import Job


def identity(job: Job) -> dict[str, Any]:
    """What a job that goes on, and a finished one, must share with the command: no path is part of it."""
    config = json.loads(json.dumps(job.config()))  # as a file gives it back
    folder = job.data is not None and job.data.is_dir()
    texts = [path for path in job.inputs if path != job.shares]
    config["data"] = {path.name if folder else "rows": file_sha256(path) for path in texts}
    if job.shares:
        config["shares"] = file_sha256(job.shares)
    config["base"] = job.base_identity or base_identity(job.base)
    if job.start:
        config["start"] = file_sha256(job.start / "adapter_model.safetensors")
    return dict(config)


@functools.cache
def base_identity(base: str) -> str:
    """A folder's weights, config and tokenizer as one hash; a hub model's name and revision.

    Reads every weight once a process: about a minute for 16 GB.
    """
    if Path(base).is_dir():
        return model_sha256(Path(base))
    config = try_to_load_from_cache(base, "config.json")
    return f"{base}@{Path(config).parent.name}" if isinstance(config, str) else base
