"""Runs one training job, in a process of its own: it may have GPUs, and its memory goes when it ends.

python -m cultural_palette.training.job OUT/run-1/asia
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from cultural_palette.artifacts import RunFolder
from cultural_palette.errors import PaletteError
from cultural_palette.provenance import file_sha256, installed_versions
from cultural_palette.training.align import align
from cultural_palette.training.identity import identity
from cultural_palette.training.jobs import Job, read_job
from cultural_palette.training.preferences import Group
from cultural_palette.training.sequences import encode_group
from cultural_palette.training.tethered import tether_if_told

PACKAGES = ("cultural-palette", "torch", "transformers", "peft", "accelerate", "trl")  # decide the numbers


def run_job(job: Job) -> dict[str, Any]:
    """Train the agent, or go on with it, and write its manifest; what is finished is left as it is.

    `rows.jsonl` has every logged row; after a kill, the rows since the last checkpoint come twice, the later
    ones count. Raises ArtifactError when another process works in the folder or the config has changed.
    """
    if job.finished:
        return RunFolder(job.out).manifest
    groups, questions = job.lessons()
    started = time.perf_counter()
    if int(os.environ.get("RANK", "0")):  # another process of the same job keeps the folder
        align(job.base, groups, job.out, job.settings, questions=questions, start=job.start)
        return {}
    job_identity = identity(job)
    with RunFolder(job.out, job_identity) as folder:
        measures = align(job.base, groups, job.out, job.settings, folder.append, questions, job.start)
        manifest = {
            **job.config(),
            "identity": job_identity,
            "groups": len(groups),
            **({"questions": len(questions)} if job.shares else {}),
            "cut": count_cut(job.base, groups, job.settings.max_length),
            "measures": measures,
            "seconds": round(time.perf_counter() - started, 1),
            "inputs": {path.name: file_sha256(path) for path in job.inputs},
            "versions": installed_versions(PACKAGES),
            "files": saved(job.out),
        }
        folder.finish(manifest)
    return manifest


def count_cut(base: str, groups: Sequence[Group], max_length: int) -> dict[str, int]:
    """Prompts and answers that lose tokens to `max_length`."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = [encode_group(tokenizer, group, max_length) for group in groups]
    return {
        "prompts": sum(group.prompt_cut > 0 for group in encoded),
        "answers": sum(group.answers_cut for group in encoded),
    }


def saved(out: Path) -> dict[str, str]:
    """SHA-256 of the weights and configs that the job made."""
    return {
        path.name: file_sha256(path)
        for path in sorted(out.iterdir())
        if path.suffix in (".safetensors", ".bin")
    }


def main() -> None:
    """Run the job of the folder on the command line; exit as `palette` does."""
    tether_if_told()
    try:
        run_job(read_job(Path(sys.argv[1])))
    except PaletteError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
